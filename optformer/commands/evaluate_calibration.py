"""`optformer evaluate calibration`: compares predictions with Gaussian processes fitted to each study."""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optformer.commands.options import SUITES, add_suite, check_suite, integers, names
from optformer.extras import from_extra
from optformer.progress_bar import progress_bar

if TYPE_CHECKING:
    from optformer.evaluate.calibration.data_sets import EvaluationStudy
    from optformer.evaluate.calibration.scores import Summary
    from optformer.facade import OptFormer

DATA_SETS: Final = ("prior", "bbob", "wild", "yahpo")
SUITE_DATA_SETS: Final = ("prior", "bbob", "yahpo", "tables", "wild")
SUITE_BASELINES: Final = ("uniform", "marginal", "gp_averaged")
_SECONDS_BETWEEN_LINES: Final = 30.0


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
      prior, bbob, yahpo: number of studies of each data set.
      per_group: largest number of logged studies of one repository.
      predicted: largest number of later trials predicted per study and history.
    """

    prior: int
    bbob: int
    yahpo: int
    per_group: int
    predicted: int


BUDGETS: Final = {
    "small": Budget(prior=32, bbob=20, yahpo=18, per_group=6, predicted=24),
    "large": Budget(prior=320, bbob=160, yahpo=160, per_group=40, predicted=40),
}
SUITE_BUDGET: Final = Budget(prior=96, bbob=0, yahpo=0, per_group=6, predicted=24)
"""With a suite, bbob, yahpo and tables are studies of the suite's own problems, whose number is fixed."""


@dataclasses.dataclass(frozen=True)
class CalibrationResult:
    """The content of `calibration.json`.

    Attributes:
      checkpoint: name of the model.
      budget: name of the budget or of the suite.
      seed: seed of the studies.
      roll_forward: whether each trial was predicted from all before it.
      seconds: wall time.
      remarks: what was left out, and why.
      summaries: one per data set and history length.
    """

    checkpoint: str
    budget: str
    seed: int
    roll_forward: bool
    seconds: float
    remarks: list[str]
    summaries: "list[Summary]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR", help="default: %(default)s")
    parser.add_argument(
        "--out", default="calibration", metavar="DIR", help="folder of the report; default: %(default)s"
    )
    add_suite(parser)
    parser.add_argument(
        "--data",
        type=names,
        metavar="A,B",
        help=f"data sets; default: {','.join(DATA_SETS)}, with --suite {','.join(SUITE_DATA_SETS)}",
    )
    parser.add_argument("--wild", metavar="FILE", help="file of logged studies, for the data set wild")
    parser.add_argument("--yahpo-dir", metavar="DIR", help="folder of YAHPO's scenarios, for the data set yahpo")
    parser.add_argument("--budget", default="small", metavar="B", help="small (minutes) or large (an hour)")
    parser.add_argument(
        "--histories",
        type=integers,
        default="5,10,20,40",
        metavar="N,M",
        help="numbers of known trials; default: %(default)s",
    )
    parser.add_argument(
        "--baselines",
        type=names,
        metavar="A,B",
        help=f"other predictors; default: all that are installed, with --suite {','.join(SUITE_BASELINES)}",
    )
    parser.add_argument(
        "--roll-forward", action="store_true", help="predict each trial from all before it (slow: refits every time)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the studies; default: %(default)s")


@from_extra("baselines", user="optformer evaluate")
def run(arguments: argparse.Namespace) -> int:
    """Measures a checkpoint, prints tables, and writes `calibration.json`, pictures and `report.html` into `--out`.

    Returns 0.

    Raises:
      ValueError: the arguments, the files or the checkpoint cannot be used, or no study could be measured.
    """
    _check(arguments)
    from optformer.evaluate.calibration.prediction import BASELINES, available_baselines
    from optformer.facade import OptFormer

    available = available_baselines()
    usual = available if arguments.suite is None else SUITE_BASELINES
    chosen = list(usual if arguments.baselines is None else arguments.baselines)
    for name in chosen:
        if name not in BASELINES:
            raise ValueError(f"--baselines names {name!r}; known are {', '.join(BASELINES)}")
        if name not in available:
            raise ValueError(
                f"baseline {name!r} needs packages that are not installed: pip install 'google-vizier[jax]'"
            )
    remarks = (
        []
        if arguments.suite is not None or "vizier_gp" in available
        else ["Vizier's Gaussian process is not installed and was left out."]
    )

    model = OptFormer.from_pretrained(arguments.checkpoint)
    started = time.perf_counter()
    histories, budget = arguments.histories, BUDGETS[arguments.budget] if arguments.suite is None else SUITE_BUDGET
    summaries: list[Summary] = []
    for name, load in _sources(arguments, budget, max(histories) + budget.predicted, remarks):
        summaries += measure(
            model, name, list(load()), histories, chosen, budget.predicted, arguments.roll_forward, remarks
        )
    if not summaries:
        raise ValueError("nothing could be measured: " + "; ".join(remarks))
    result = CalibrationResult(
        model.name,
        arguments.suite or arguments.budget,
        arguments.seed,
        arguments.roll_forward,
        round(time.perf_counter() - started, 1),
        remarks,
        summaries,
    )
    _write(result, Path(arguments.out))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Checks the arguments before anything slow is loaded; raises ValueError."""
    known = DATA_SETS if arguments.suite is None else SUITE_DATA_SETS
    if arguments.data is None:
        arguments.data = list(known)
    if not arguments.data:
        raise ValueError(f"--data names no data set; known are {', '.join(known)}")
    for name in arguments.data:
        if name not in known:
            raise ValueError(f"--data names {name!r}; known are {', '.join(known)}")
    if arguments.suite is not None:
        check_suite(arguments, {"budget": "small"})
    if arguments.budget not in BUDGETS:
        raise ValueError(f"--budget is {arguments.budget!r}; known are {', '.join(BUDGETS)}")
    if not arguments.histories or min(arguments.histories) < 2:
        raise ValueError("--histories needs numbers of at least 2")
    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative, not {arguments.seed}")
    if arguments.wild is not None and not Path(arguments.wild).is_file():
        raise ValueError(f"--wild {arguments.wild}: no such file")
    if arguments.yahpo_dir is not None:
        from optformer.data.problems.yahpo import scenarios

        scenarios(arguments.yahpo_dir)


def _sources(
    arguments: argparse.Namespace, budget: Budget, trials: int, remarks: list[str]
) -> "list[tuple[str, Callable[[], Iterator[EvaluationStudy]]]]":
    """The available data sets, each with a function that makes its studies; adds remarks on the others."""
    from optformer.evaluate.calibration import data_sets

    data, wild, yahpo_dir, seed = arguments.data, arguments.wild, arguments.yahpo_dir, arguments.seed
    # Failed trials do not count as known trials: draw a few more where trials may fail.
    sources: dict[str, Callable[[], Iterator[EvaluationStudy]]] = {
        "prior": lambda: data_sets.prior_studies(budget.prior, trials + 16, seed),
        "bbob": lambda: data_sets.bbob_studies(budget.bbob, trials, seed),
    }
    if arguments.suite is not None:
        from optformer.evaluate.optimization.real_suites import suite

        problems = suite(arguments.suite, yahpo_dir, arguments.tables)
        for family in ("bbob", "yahpo", "tables"):
            own = [problem for problem in problems if problem.family == family]
            sources[family] = functools.partial(data_sets.suite_studies, own, trials)
    if wild is not None:
        sources["wild"] = lambda: data_sets.at_most_per_group(data_sets.wild_studies(wild, trials), budget.per_group)
    elif "wild" in data:
        remarks.append("Data set wild was left out: name a store of logged studies with --wild FILE.")
    if yahpo_dir is not None and arguments.suite is None:
        sources["yahpo"] = lambda: data_sets.yahpo_studies(yahpo_dir, budget.yahpo, trials, seed)
    elif "yahpo" in data and arguments.suite is None:
        remarks.append("Data set yahpo was left out: name a folder of scenarios with --yahpo-dir DIR.")
    return [(name, sources[name]) for name in dict.fromkeys(data) if name in sources]


def measure(
    model: "OptFormer",
    data_set: str,
    studies: "Sequence[EvaluationStudy]",
    histories: Sequence[int],
    baselines: Sequence[str],
    predicted: int,
    roll_forward: bool,
    remarks: list[str],
) -> "list[Summary]":
    """Scores all studies at all history lengths; adds remarks on what was left out.

    Returns:
      A summary for each history length with a study.
    """
    from optformer.evaluate.calibration.prediction import StudyScores, score_study
    from optformer.evaluate.calibration.scores import summarize

    scores: dict[int, list[StudyScores]] = {history: [] for history in histories}
    unusable: dict[int, int] = dict.fromkeys(histories, 0)
    for study, history in _followed(studies, histories, data_set):
        try:
            score = score_study(
                model, study.study, history, baselines, predicted, roll_forward, data_set, study.name, study.group
            )
        except ValueError as error:
            remarks.append(f"{data_set}, study {study.name}, {history} known trials: left out: {error}")
            continue
        if score is None:
            unusable[history] += 1
        else:
            scores[history].append(score)
    for history, count in unusable.items():
        if count:
            remarks.append(
                f"{data_set}: {count} of {len(studies)} studies were left out at {history} known trials: no trial to "
                "predict, or all known objectives equal."
            )
    return [summarize(scores[history]) for history in histories if scores[history]]


def _followed(
    studies: "Sequence[EvaluationStudy]", histories: Sequence[int], data_set: str
) -> "Iterator[tuple[EvaluationStudy, int]]":
    """Yields pairs of study and history length, and shows progress: a bar on a terminal, else log lines."""
    # Ordered by history length, so that consecutive studies share a compiled shape.
    pairs = [(study, history) for history in histories for study in studies]
    with progress_bar("predictions", label=data_set, seconds_between_lines=_SECONDS_BETWEEN_LINES) as advance:
        advance(0, len(pairs))
        for index, pair in enumerate(pairs):
            yield pair
            advance(index + 1, len(pairs))


def _write(result: CalibrationResult, out: Path) -> None:
    from optformer.evaluate.calibration import pages
    from optformer.evaluate.report import print_end, table_console, write_json
    from optformer.page import PAGE, Report

    report = Report(f"Calibration of {result.checkpoint}", out)
    write_json(out / "calibration.json", result)
    mode = "each later trial from all before it" if result.roll_forward else "all later trials from the first known"
    facts = [
        f"Checkpoint {result.checkpoint}, budget {result.budget}, seed {result.seed}; {mode}; {result.seconds:.0f} s."
    ]
    pages.write_report(result.summaries, result.remarks, facts, report)
    console = table_console(120)
    for data_set in pages.data_sets(result.summaries):
        pages.density_table(result.summaries, data_set, short=True).print(console)
    pages.comparison_table(result.summaries).print(console)
    if result.budget in SUITES:
        pages.bar_table(result.summaries).print(console)
    print_end(console, result.remarks, out / PAGE, out / "calibration.json")
