"""`optformer suggest`: the next trials of a study on disk."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from optformer.terminal import shown

if TYPE_CHECKING:
    from optformer.explanation import Explanation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="JSON lines, or an Optuna or Vizier database (SQLite)")
    parser.add_argument("--study", dest="study_name", metavar="NAME", help="which study, if the file holds several")
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--acquisition", default="ei", help="ei, pi, ucb, thompson or policy; default: %(default)s")
    parser.add_argument("--algorithm", metavar="NAME", help="the optimizer to imitate, by its name in the corpus")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--explain", action="store_true", help="say why: what is expected, and the nearest trials")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Prints suggestions; 0.

    Raises:
      ValueError: whatever is wrong with the arguments, the file or the checkpoint.
    """
    if arguments.count < 1:
        raise ValueError(f"--count must be at least 1, not {arguments.count}")
    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative, not {arguments.seed}")
    # Cheap checks first: loading jax and a model takes seconds.
    from optformer.data.sources import read_study, study_name

    study, left_out = read_study(arguments.study, arguments.study_name)
    if left_out:
        first = left_out[0]
        why = shown(f"trial {first.trial}, {first.reason}")
        print(f"left out {len(left_out)} trial(s); the first: {why}", file=sys.stderr)

    from optformer.facade import METADATA_NAMESPACE, OptFormer
    from optformer.inference.acquisition import check_acquisition
    from optformer.serialization.space import StudySchema

    check_acquisition(arguments.acquisition)
    model = OptFormer.from_pretrained(arguments.checkpoint)
    suggestions = model.suggest(
        study.problem,
        study.trials,
        arguments.count,
        arguments.acquisition,
        arguments.algorithm,
        arguments.seed,
    )
    schema = StudySchema(study.problem)
    parameters = [schema.decode(row) for row in schema.encode(suggestions)]
    reasons = [dict(suggestion.metadata.ns(METADATA_NAMESPACE).items()) for suggestion in suggestions]
    explanations: list[Explanation] = []
    if arguments.explain:
        from optformer.explanation import explain

        explanations = [explain(model, study.problem, study.trials, suggestion) for suggestion in suggestions]
    name = study_name(study) or schema.study
    if arguments.json:
        suggested: list[dict[str, object]] = [
            {"parameters": p, "reason": r} for p, r in zip(parameters, reasons, strict=True)
        ]
        for each, explanation in zip(suggested, explanations, strict=False):
            each["explanation"] = explanation.to_dict()
        answer = {
            "study": name,
            "trials": len(study.trials),
            "checkpoint": model.name,
            "suggestions": suggested,
        }
        print(json.dumps(answer, indent=1))
    else:
        title = f"{name}: {len(study.trials)} trials, checkpoint {model.name}"
        _print_table(title, parameters, [_figures(*each) for each in zip_longest(reasons, explanations)])
        for index, explanation in enumerate(explanations):
            print(f"\nsuggestion {index + 1}", *map(shown, explanation.sentences()), sep="\n  ")
    return 0


def _figures(reason: Mapping[str, str], explanation: "Explanation | None") -> dict[str, str]:
    """What the table says of a suggestion: with an explanation, what its sentences say."""
    if explanation is None:
        return {key.replace("_", " "): value for key, value in reason.items() if key != "checkpoint"}
    kept = {key.replace("_", " "): reason[key] for key in ("source", "acquisition_value") if key in reason}
    for expectation in explanation.expectations:
        kept |= {f"{expectation.metric}: {what}": figure for what, figure in expectation.figures().items()}
    for metric, holds in explanation.constraints.items():
        kept[f"{metric}: holds its threshold with"] = f"{holds:.0%}"
    return kept


def _print_table(title: str, parameters: Sequence[Mapping[str, object]], reasons: list[dict[str, str]]) -> None:
    """One column per suggestion, so that many parameters do not need a wide terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from optformer.explanation import value_text

    table = Table(title=escape(shown(title)))
    table.add_column("parameter")
    for index in range(len(parameters)):
        table.add_column(f"suggestion {index + 1}", justify="right")
    for key in dict.fromkeys(name for one in parameters for name in one):
        values = [escape(shown(value_text(one[key]))) if key in one else "-" for one in parameters]
        table.add_row(escape(shown(key)), *values)
    table.add_section()
    for key in dict.fromkeys(name for one in reasons for name in one):
        table.add_row(escape(shown(key)), *(escape(one.get(key, "-")) for one in reasons), style="dim")
    Console().print(table)
