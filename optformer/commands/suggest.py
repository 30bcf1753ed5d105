"""`optformer suggest`: the next trials of a study on disk."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from optformer.commands.options import check_count
from optformer.terminal import counted, shown

if TYPE_CHECKING:
    from vizier import pyvizier as vz

    from optformer.explanation import Explanation
    from optformer.inference.beliefs import Belief


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "study",
        metavar="STUDY",
        help="Optuna or Vizier database (SQLite), or any file that `optformer corpus import` reads",
    )
    parser.add_argument("--study", dest="study_name", metavar="NAME", help="which study, if the file holds several")
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="number of suggestions; default: %(default)s")
    parser.add_argument("--acquisition", default="ei", help="ei, pi, ucb, thompson or policy; default: %(default)s")
    parser.add_argument("--algorithm", metavar="NAME", help="the optimizer to imitate, by its name in the corpus")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--prior",
        action="append",
        default=[],
        metavar="OTHER[::NAME]",
        help="a file with earlier studies to learn from: the study of this name, or all that share a parameter; "
        "repeatable",
    )
    parser.add_argument(
        "--belief",
        metavar="FILE",
        help="JSON file that says where good values are likely, such as "
        '{"rate": ["log_normal", 1e-3, 3.0], "kind": {"adam": 3, "sgd": 1}}',
    )
    parser.add_argument(
        "--cost",
        metavar="METRIC",
        help="prefer cheap trials: name of the metric, or of the user attribute of Optuna's trials, that holds the "
        "cost of a trial, or `duration`, its seconds",
    )
    parser.add_argument(
        "--explain", action="store_true", help="explain each suggestion: the expected values and the nearest trials"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Prints suggestions and returns 0.

    Raises:
      ValueError: the arguments, the file or the checkpoint cannot be used.
    """
    check_count(arguments.count, 1)
    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative, not {arguments.seed}")
    # Cheap checks first: loading jax and a model takes seconds.
    from optformer.data.sources import read_study, study_name

    study, left_out = read_study(arguments.study, arguments.study_name)
    if left_out:
        first = left_out[0]
        why = shown(f"trial {first.trial}, {first.reason}")
        print(f"left out {len(left_out)} trial(s); the first: {why}", file=sys.stderr)

    belief = _belief(arguments.belief) if arguments.belief else None
    if arguments.cost is not None:
        _add_costs(study, arguments.cost)
    earlier = [each for prior in arguments.prior for each in _earlier(prior, arguments.study, study)]

    from optformer.facade import OptFormer
    from optformer.inference.acquisition import check_acquisition
    from optformer.serialization.space import METADATA_NAMESPACE, StudySchema

    check_acquisition(arguments.acquisition)
    model = OptFormer.from_pretrained(arguments.checkpoint)
    suggestions = model.suggest(
        study.problem,
        study.trials,
        arguments.count,
        arguments.acquisition,
        arguments.algorithm,
        arguments.seed,
        prior_studies=earlier,
        belief=belief,
        cost=arguments.cost,
    )
    schema = StudySchema(study.problem)
    parameters = [schema.decode(row) for row in schema.encode(suggestions)]
    reasons = [dict(suggestion.metadata.ns(METADATA_NAMESPACE).items()) for suggestion in suggestions]
    explanations: list[Explanation] = []
    if arguments.explain:
        from optformer.explanation import explain

        explanations = [
            explain(model, study.problem, study.trials, suggestion, prior_studies=earlier) for suggestion in suggestions
        ]
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
            "prior_studies": [study_name(each) for each in earlier],
            "suggestions": suggested,
        }
        print(json.dumps(answer, indent=1))
    else:
        title = f"{name}: {counted(len(study.trials), 'trial', 'trials')}, checkpoint {model.name}"
        if earlier:
            title += f", {counted(len(earlier), 'earlier study', 'earlier studies')}"
        _print_table(title, parameters, [_figures(*each) for each in zip_longest(reasons, explanations)])
        for index, explanation in enumerate(explanations):
            print(f"\nsuggestion {index + 1}", *map(shown, explanation.sentences()), sep="\n  ")
    return 0


def _belief(file: str) -> "dict[str, Belief]":
    """Reads a belief from a JSON file; raises ValueError if it is not JSON or not a belief."""
    from optformer.inference.beliefs import checked_belief

    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--belief {file}: {error}") from error
    return checked_belief(found, f"--belief {file}")


def _add_costs(study: "vz.ProblemAndTrials", cost: str) -> None:
    """Adds the cost of each finished trial to its metrics, under the name `cost`.

    A warning names costs that are not positive and finite.

    Raises:
      ValueError: no trial has a usable cost, or the cost has the name of an objective.
    """
    from optformer.data.sources import study_name
    from optformer.inference.costs import check_no_objective, usable_value

    check_no_objective(cost, study.problem, f"study {study_name(study)!r}")
    known = 0
    for trial in study.trials:
        final = trial.final_measurement
        if final is None or trial.infeasible or trial.stopping_reason is not None:
            continue
        value: object = trial.metadata.ns("optuna").ns("user_attributes").get(cost)
        if cost in final.metrics:
            value = final.metrics[cost].value
        elif isinstance(value, str):
            value = json.loads(value)
        elif cost == "duration":
            value = final.elapsed_secs or None
        if value is not None:
            usable = usable_value(value, cost, f"study {study_name(study)!r}, trial {trial.id}")
            if usable is not None:
                final.metrics[cost] = usable
                known += 1
    if not known:
        raise ValueError(
            f"--cost {cost}: no finished trial of study {study_name(study)!r} has a metric or user attribute of this "
            "name that is a positive, finite number"
        )


def _earlier(prior: str, file: str, study: "vz.ProblemAndTrials") -> "list[vz.ProblemAndTrials]":
    """The earlier studies that one --prior names.

    Args:
      prior: FILE, or FILE::NAME.
      file: the file with the current study.
      study: the current study, which is not returned.

    Raises:
      ValueError: `prior` names no earlier study, or names the current one.
    """
    from optformer.data.sources import Quarantined, read, read_study, study_name
    from optformer.data.sources.locations import local_path

    path, _, name = prior.partition("::")
    at_hand = study_name(study) if local_path(path).resolve() == local_path(file).resolve() else None
    if name:
        if name == at_hand:
            raise ValueError(f"--prior {prior}: this is the new study itself; name an earlier one")
        return [read_study(path, name)[0]]
    names = {parameter.name for parameter in _parameters(study)}
    found = [
        record
        for record in read(path)
        if not isinstance(record, Quarantined)
        and study_name(record) != at_hand
        and any(parameter.name in names for parameter in _parameters(record))
    ]
    if not found:
        raise ValueError(f"--prior {prior}: no other study in this file shares a parameter with {study_name(study)!r}")
    return found


def _parameters(study: "vz.ProblemAndTrials") -> "Iterator[vz.ParameterConfig]":
    """All parameters of the study, conditional ones included."""
    waiting = list(study.problem.search_space.parameters)
    while waiting:
        config = waiting.pop()
        yield config
        waiting += [child for _, space in config.subspaces() for child in space.parameters]


def _figures(reason: Mapping[str, str], explanation: "Explanation | None") -> dict[str, str]:
    """Rows of the table for a suggestion: all of its metadata, or a selection and the figures of the explanation."""
    if explanation is None:
        return {key.replace("_", " "): value for key, value in reason.items() if key != "checkpoint"}
    kept = {
        key.replace("_", " "): reason[key] for key in ("source", "acquisition_value", "belief", "cost") if key in reason
    }
    for expectation in explanation.expectations:
        kept |= {f"{expectation.metric}: {what}": figure for what, figure in expectation.figures().items()}
    for metric, holds in explanation.constraints.items():
        kept[f"{metric}: meets its threshold with"] = f"{holds:.0%}"
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
