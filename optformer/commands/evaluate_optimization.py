"""`optformer evaluate optimization`: compares regret and ranks with widely used optimizers."""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optformer.commands import options
from optformer.extras import from_extra

if TYPE_CHECKING:
    from rich.console import Console

    from optformer.evaluate.optimization.hpob_protocol import Published
    from optformer.evaluate.optimization.optimizers import Optimizer
    from optformer.evaluate.optimization.problems import BenchmarkProblem, Scale
    from optformer.evaluate.optimization.running import Job, Journal, Plan

FAMILIES: Final = ("bbob", "sklearn", "yahpo", "hpob")


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is run.

    Attributes:
      bbob: number of problems of each of the five functions.
      sklearn: number of pairs of model and data set.
      yahpo: number of instances of each scenario.
      hpob: number of data sets of each search space.
      seeds: runs of each optimizer on each problem.
    """

    bbob: int
    sklearn: int
    yahpo: int
    hpob: int
    seeds: int


BUDGETS: Final = {
    "small": Budget(1, 3, 1, 1, 2),
    "medium": Budget(2, 4, 2, 2, 5),
    "large": Budget(4, 8, 3, 10, 5),
}
DEFAULT_OPTIMIZERS: Final = ("optformer", "random_search", "quasi_random", "tpe", "cma_es", "gp")
SUITE_OPTIMIZERS: Final = ("optformer", "random_search", "tpe", "gp")
FIXED_BY_SUITE: Final = {
    "problems": ",".join(FAMILIES),
    "budget": "small",
    "seeds": None,
    "trials": 50,
    "first_trials": 5,
    "published": None,
    "hpob_dir": None,
}
"""Options that cannot be given with a suite, with their defaults."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="NAME|DIR",
        help="default: 'default'; with --suite it may be repeated, and all are compared with the first",
    )
    options.add_suite(parser)
    parser.add_argument(
        "--out", default="optimization", metavar="DIR", help="folder of runs and report; default: %(default)s"
    )
    parser.add_argument(
        "--optimizers",
        metavar="A,B",
        help=f"built-in names, or NAME=module:factory; default: those of {','.join(DEFAULT_OPTIMIZERS)} that are"
        f" installed (with --suite those of {','.join(SUITE_OPTIMIZERS)})",
    )
    parser.add_argument("--problems", metavar="A,B", help="families of problems; default: %(default)s")
    parser.add_argument("--yahpo-dir", metavar="DIR", help="folder of YAHPO's scenarios, for yahpo")
    parser.add_argument("--hpob-dir", metavar="DIR", help="folder of HPO-B's files, for hpob")
    parser.add_argument("--published", metavar="FILE|DIR", help="published curves on HPO-B, to compare with")
    parser.add_argument("--budget", metavar="B", help="small (minutes), medium (half an hour) or large (hours)")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each optimizer; default: the budget's")
    parser.add_argument("--trials", type=int, metavar="T", help="trials of a run; default: %(default)s")
    parser.add_argument(
        "--first-trials", type=int, metavar="N", help="first trials that all share; default: %(default)s"
    )
    options.add_runs(parser)
    parser.set_defaults(**FIXED_BY_SUITE)


@from_extra("baselines", user="optformer evaluate")
def run(arguments: argparse.Namespace) -> int:
    """Runs what the journal of `--out` lacks, prints tables, and writes `optimization.json`, pictures and a page.

    Returns:
      0, or 1 if no problem could be compared.

    Raises:
      ValueError, OSError: the arguments, the files or the checkpoint cannot be used.
    """
    checkpoints = arguments.checkpoint or ["default"]
    if arguments.suite is not None:
        return _run_suite(arguments, checkpoints)
    if len(checkpoints) > 1:
        raise ValueError("several checkpoints are compared with --suite only")
    (arguments.checkpoint,) = checkpoints
    families = options.names(arguments.problems)
    for name in families:
        if name not in FAMILIES:
            raise ValueError(f"--problems names {name!r}; known are {', '.join(FAMILIES)}")
    if arguments.budget not in BUDGETS:
        raise ValueError(f"--budget is {arguments.budget!r}; known are {', '.join(BUDGETS)}")
    budget = BUDGETS[arguments.budget]
    seeds = budget.seeds if arguments.seeds is None else arguments.seeds
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {seeds}")

    from optformer.evaluate.optimization import running
    from optformer.evaluate.report import table_console
    from optformer.progress_bar import progress_bar

    plan = running.Plan(arguments.trials, arguments.first_trials, 60 * arguments.minutes)
    remarks: list[str] = []
    problems = _problems(families, budget, arguments.yahpo_dir, arguments.hpob_dir, remarks)
    published = _published(arguments, seeds)
    optimizers = _optimizers(arguments.optimizers, DEFAULT_OPTIMIZERS, arguments.checkpoint, remarks)
    jobs = _jobs(problems, optimizers, seeds, remarks)
    journal = running.Journal(Path(arguments.out), plan)
    started = time.perf_counter()
    with progress_bar("runs") as progress:
        running.run_all(jobs, plan, journal, arguments.processes, arguments.executor, progress)
    console = table_console(140)
    return _conclude(arguments, plan, problems, optimizers, published, seeds, journal, jobs, remarks, started, console)


def _problems(
    families: Sequence[str], budget: Budget, yahpo_dir: str | None, hpob_dir: str | None, remarks: list[str]
) -> "list[BenchmarkProblem]":
    from optformer.evaluate.optimization import hpob_protocol, problems

    suites: list[BenchmarkProblem] = []
    if "bbob" in families:
        suites += problems.bbob_suite(budget.bbob)
    if "sklearn" in families:
        suites += problems.sklearn_suite(budget.sklearn)
    if "yahpo" in families and yahpo_dir is not None:
        suites += problems.yahpo_suite(yahpo_dir, budget.yahpo)
    elif "yahpo" in families:
        remarks.append("Problems yahpo were left out: name a folder of scenarios with --yahpo-dir DIR.")
    if "hpob" in families and hpob_dir is not None:
        found = hpob_protocol.suite(hpob_dir, budget.hpob)
        suites += found
        if lacking := [each.name for each in found if isinstance(each, hpob_protocol.HPOBProblem) and not each.starts]:
            remarks.append(
                f"First trials are random for problems without HPO-B's starts in the folder: {', '.join(lacking)}."
            )
    elif "hpob" in families:
        remarks.append("Problems hpob were left out: name the folder of HPO-B's files with --hpob-dir DIR.")
    if not suites:
        raise ValueError("no problem can be run: " + "; ".join(remarks))
    return suites


def _published(arguments: argparse.Namespace, seeds: int) -> "list[Published]":
    if arguments.published is None:
        return []
    from optformer.data.problems.hpob_surrogates import STARTS
    from optformer.evaluate.optimization import hpob_protocol

    if arguments.first_trials != hpob_protocol.START_TRIALS or seeds > len(STARTS):
        raise ValueError(
            f"--published needs --first-trials {hpob_protocol.START_TRIALS} and at most {len(STARTS)} --seeds, as in"
            f" the published curves, not {arguments.first_trials} and {seeds}"
        )
    return hpob_protocol.load_published(arguments.published)


def _optimizers(text: str | None, default: Sequence[str], checkpoint: str, remarks: list[str]) -> "list[Optimizer]":
    from optformer.evaluate.optimization import optimizers
    from optformer.pretrained import checkpoint_path

    path = checkpoint_path(checkpoint)
    names = options.names(text) if text is not None else []
    if text is None:
        for name in default:
            lacking = optimizers.missing(name) if name in optimizers.BASELINES else []
            if lacking:
                remarks.append(f"Optimizer {name} was left out: it needs {', '.join(lacking)}, which is not installed.")
            else:
                names.append(name)
    return optimizers.choose(names, str(path), optimizers.fingerprint(path))


def _jobs(
    problems: "Sequence[BenchmarkProblem]", optimizers: "Sequence[Optimizer]", seeds: int, remarks: list[str]
) -> "list[Job]":
    """All jobs: those that scale the problems first, then seed by seed, so that after an interruption some seeds are
    complete."""
    from optformer.evaluate.optimization.running import Job

    jobs = [Job(problem) for problem in problems]
    for optimizer in optimizers:
        left_out = [problem.name for problem in problems if problem.conditional and not optimizer.conditional]
        if left_out:
            remarks.append(
                f"{optimizer.name} does not support conditional search spaces and did not run on {', '.join(left_out)}."
            )
    for seed in range(seeds):
        for problem in problems:
            jobs += [Job(problem, each, seed) for each in optimizers if each.conditional or not problem.conditional]
    return jobs


def _conclude(
    arguments: argparse.Namespace,
    plan: "Plan",
    problems: "Sequence[BenchmarkProblem]",
    optimizers: "Sequence[Optimizer]",
    published: "Sequence[Published]",
    seeds: int,
    journal: "Journal",
    jobs: "Sequence[Job]",
    remarks: list[str],
    started: float,
    console: "Console",
) -> int:
    import numpy as np

    from optformer.evaluate.optimization import pages, scores
    from optformer.evaluate.optimization.hpob_protocol import HPOBProblem
    from optformer.evaluate.optimization.optimizers import CHECKPOINT
    from optformer.evaluate.optimization.running import Job
    from optformer.evaluate.optimization.tuning import maximizes
    from optformer.evaluate.report import print_end, print_remarks, write_json
    from optformer.page import PAGE, Report

    outcomes, scales, unfinished = journal.results(jobs)
    remarks += unfinished
    curves: dict[str, dict[str, list[np.ndarray]]] = {}
    waits: dict[str, list[float]] = {each.name: [] for each in optimizers}
    for problem in problems:
        if problem.name not in scales:
            continue
        curves[problem.name] = {}
        for each in optimizers:
            found = [outcomes.get(Job(problem, each, seed).key) for seed in range(seeds)]
            runs = [outcome for outcome in found if outcome is not None and outcome.usable]
            # All seeds or none: means over different numbers of seeds cannot be compared.
            curves[problem.name][each.name] = (
                [np.array(run.values, dtype=float) for run in runs] if len(runs) == seeds else []
            )
            waits[each.name] += [seconds for run in runs for seconds in run.seconds]
        if isinstance(problem, HPOBProblem) and problem.starts:
            for known in published:
                curves[problem.name][known.name] = known.values(problem, seeds, plan.trials)
    maximized = {p.name: maximizes(p.experimenter(0).problem_statement()) for p in problems}
    families = {p.name: p.family for p in problems}
    names = [each.name for each in optimizers] + [each.name for each in published]
    everywhere = [name for name in names if all(of.get(name) for of in curves.values())]
    if len(everywhere) < 2 or not curves:
        print_remarks(console, remarks)
        console.print("Fewer than two optimizers have run on all problems: nothing can be compared.")
        return 1

    def regrets_of(chosen: Sequence[str]) -> scores.Regrets:
        return scores.regrets(curves, maximized, families, scales, chosen, plan.trials)

    regrets = regrets_of(everywhere)
    of_family = {family: regrets.only(family) for family in dict.fromkeys(regrets.families)}
    partial = [(name, regrets_of([*everywhere, name])) for name in names if name not in everywhere]
    remarks += [f"{name} has no curves of all seeds for any problem." for name, each in partial if not each.problems]
    partial = [(name, each) for name, each in partial if each.problems]
    seconds = {name: float(np.median(of)) if of else float("nan") for name, of in waits.items()}
    at = [trials for trials in (10, 25, 50, 100) if plan.first_trials < trials < plan.trials] + [plan.trials]
    own = [name for name in everywhere if name in CHECKPOINT]
    trapped = {
        name: scores.traps(of_family, name, "random_search", at) for name in own if "random_search" in everywhere
    }
    out = Path(arguments.out)
    fact = (
        f"Checkpoint {arguments.checkpoint}; {len(regrets.problems)} problems, {seeds} seeds, {plan.trials} trials a "
        f"run; {time.perf_counter() - started:.0f} s for what was not run before."
    )
    report = Report(f"Optimization with {arguments.checkpoint}", out)
    pages.write_report(regrets, of_family, partial, at, plan.first_trials, seconds, trapped, [fact], remarks, report)
    figures = {
        "checkpoint": arguments.checkpoint,
        "plan": plan,
        "seeds": seeds,
        "optimizers": everywhere,
        "problems": regrets.problems,
        "scales": scales,
        "seconds": seconds,
        "at": at,
        "regret": {str(t): dict(zip(everywhere, scores.over_problems(regrets.mean(t)), strict=True)) for t in at},
        "rank": {str(t): dict(zip(everywhere, scores.over_problems(regrets.ranks(t)), strict=True)) for t in at},
        "families": {
            family: {str(t): dict(zip(everywhere, each.mean(t).mean(axis=0), strict=True)) for t in at}
            for family, each in of_family.items()
        },
        "worse_than_random": trapped,
        "curves": dict(zip(everywhere, regrets.values.mean(axis=(0, 2)), strict=True)),
        "remarks": remarks,
    }
    write_json(out / "optimization.json", figures)
    pages.regret_table(regrets, at, "All problems", seconds).print(console)
    pages.family_table(of_family, at).print(console)
    for name, theirs in partial:
        pages.regret_table(theirs, at, f"Problems that {pages.label(name)} ran on").print(console)
    for name, where in trapped.items():
        console.print(f"{pages.label(name)} worse than random search: {'; '.join(where) or 'nowhere'}", markup=False)
    print_end(console, remarks, out / PAGE, out / "optimization.json")
    return 0


# --- Suites ---


def _run_suite(arguments: argparse.Namespace, checkpoints: Sequence[str]) -> int:
    """As `run`, for a suite: each optimizer runs once on its own, and once from first trials that all share."""
    options.check_suite(arguments, FIXED_BY_SUITE)
    from optformer.evaluate.optimization import real_report, real_suites, running
    from optformer.evaluate.report import print_end, table_console, write_json
    from optformer.page import PAGE
    from optformer.progress_bar import progress_bar

    problems = real_suites.suite(arguments.suite, arguments.yahpo_dir, arguments.tables)
    remarks: list[str] = []
    optimizers = _labelled(arguments.optimizers, checkpoints, remarks)
    scales: dict[str, Scale] = {}
    results, out, started = [], Path(arguments.out), time.perf_counter()
    for setting in real_report.SETTINGS:
        plan = real_report.plan_of(setting, 60 * arguments.minutes)
        journal = running.Journal(out / setting, plan)
        jobs = [running.Job(problem) for problem in problems] if not scales else []
        jobs += [
            running.Job(problem, optimizer, seed)
            for problem in problems
            for seed in problem.seeds
            for optimizer in optimizers.values()
            if optimizer.conditional or not problem.conditional
        ]
        with progress_bar("runs", label=setting) as progress:
            running.run_all(jobs, plan, journal, arguments.processes, arguments.executor, progress)
        outcomes, found, unfinished = journal.results(jobs)
        scales |= found
        remarks += [f"{setting}: {remark}" for remark in unfinished]
        results.append(real_report.result_of(setting, outcomes, scales, problems, optimizers))
    flat = [name for name, scale in scales.items() if scale.best == scale.reference]
    if flat:
        remarks.append(
            f"Left out as too easy (the best of ten random trials is usually the best known): {', '.join(flat)}."
        )
    if not all(len(result.regrets.problems) for result in results):
        raise ValueError("there is no problem on which all optimizers have run: " + "; ".join(remarks[:5]))

    facts = [
        f"Suite {arguments.suite}: {len(problems)} problems, {real_report.TRIALS} trials a run;"
        f" {', '.join(optimizers)}; {time.perf_counter() - started:.0f} s for what was not run before."
    ]
    real_report.write_report(results, arguments.suite, out, facts, remarks)
    figures = {
        "suite": arguments.suite,
        "checkpoints": checkpoints,
        "settings": {result.setting: result.figures() for result in results},
        "scales": scales,
        "remarks": remarks,
    }
    write_json(out / "optimization.json", figures)
    console = table_console(150)
    for result in results:
        for table in result.tables():
            table.print(console)
        for label, trapped in result.trapped.items():
            console.print(real_report.trap_line(trapped, label), markup=False)
    print_end(console, remarks, out / PAGE, out / "optimization.json")
    return 0


def _labelled(text: str | None, checkpoints: Sequence[str], remarks: list[str]) -> "dict[str, Optimizer]":
    """The optimizers by label, the checkpoints first.  A checkpoint's label is the last part of its path if those are
    distinct, else the whole path."""
    labelled: dict[str, Optimizer] = {}
    others: dict[str, Optimizer] = {}
    distinct = len({Path(name).name for name in checkpoints}) == len(checkpoints)
    for name in checkpoints:
        for each in _optimizers(text, SUITE_OPTIMIZERS, name, remarks if not labelled else []):
            if each.checkpoint is None:
                others[each.name] = each
            else:
                acquisition = each.name.removeprefix("optformer")
                labelled[(Path(name).name if distinct else name) + acquisition] = each
    return labelled | others
