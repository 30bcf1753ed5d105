"""`optformer evaluate imitation`: how faithfully the policy imitates a named optimizer."""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optformer.commands import options
from optformer.extras import from_extra

if TYPE_CHECKING:
    from rich.console import Console

    from optformer.evaluate.optimization.running import Job, Journal


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
      per_function: problems of each of the five functions.
      seeds: runs of each teacher, and of the model that imitates it, on each problem.
      draws: samples of the next trial after one history.
      histories: histories per teacher after which the next trial is drawn.
    """

    per_function: int
    seeds: int
    draws: int
    histories: int


BUDGETS: Final = {"small": Budget(2, 1, 64, 3), "large": Budget(6, 4, 256, 10)}
PAPER: Final = "paper"
IDENTIFIED_AFTER: Final = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="default", metavar="NAME|DIR", help="default: %(default)s")
    parser.add_argument("--out", default="imitation", metavar="DIR", help="runs and report; default: %(default)s")
    parser.add_argument(
        "--teachers",
        default=PAPER,
        metavar="A,B",
        help="names, or 'paper' for those of the 2022 paper that are installed",
    )
    parser.add_argument("--budget", default="small", metavar="B", help="small (minutes) or large (hours)")
    parser.add_argument("--trials", type=int, default=100, metavar="T", help="trials of a run; default: %(default)s")
    parser.add_argument(
        "--largest-dimension",
        type=int,
        default=16,
        metavar="D",
        help="largest number of parameters of a problem; default: %(default)s",
    )
    options.add_runs(parser)


@from_extra("baselines", user="optformer evaluate")
def run(arguments: argparse.Namespace) -> int:
    """Runs what the journal of `--out` lacks, prints tables, and writes `imitation.json`, pictures and a page.

    Returns:
      0, or 1 if no teacher could be compared.

    Raises:
      ValueError, OSError: the arguments, the files or the checkpoint cannot be used.
    """
    if arguments.budget not in BUDGETS:
        raise ValueError(f"--budget is {arguments.budget!r}; known are {', '.join(BUDGETS)}")
    if arguments.trials < 30:
        raise ValueError(f"--trials must be at least 30, not {arguments.trials}: fewer say little about an optimizer")
    if not 2 <= arguments.largest_dimension <= 20:
        raise ValueError(f"--largest-dimension must be between 2 and 20, not {arguments.largest_dimension}")

    from optformer.evaluate.imitation import trajectories
    from optformer.evaluate.optimization import optimizers, running
    from optformer.evaluate.report import table_console
    from optformer.pretrained import checkpoint_path
    from optformer.progress_bar import progress_bar

    remarks: list[str] = []
    teachers = _teachers(arguments.teachers, remarks)
    path = checkpoint_path(arguments.checkpoint)
    fingerprint = optimizers.fingerprint(path)
    budget = BUDGETS[arguments.budget]
    problems = trajectories.problems(budget.per_function, arguments.largest_dimension)
    jobs = trajectories.jobs(problems, teachers, str(path), fingerprint, budget.seeds)
    plan = running.Plan(arguments.trials, first_trials=0, seconds=60 * arguments.minutes)
    journal = running.Journal(Path(arguments.out), plan)
    started = time.perf_counter()
    with progress_bar("runs") as progress:
        running.run_all(jobs, plan, journal, arguments.processes, arguments.executor, progress)
    console = table_console(160)
    return _conclude(arguments, budget, teachers, problems, jobs, journal, remarks, started, console)


def _teachers(text: str, remarks: list[str]) -> list[str]:
    from optformer.data.teachers import registry

    if text != PAPER:
        names = options.names(text)
        for name in names:
            if name not in registry.TEACHERS:
                raise ValueError(f"no teacher {name!r}; known are {', '.join(registry.TEACHERS)}")
            if not registry.TEACHERS[name].available:
                needs = ", ".join(registry.TEACHERS[name].needs)
                raise ValueError(f"teacher {name!r} needs {needs}, which is not installed")
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise ValueError("--teachers needs two or more different names, because the model must distinguish them")
        return names
    names = []
    for name in registry.PAPER:
        if registry.TEACHERS[name].available:
            names.append(name)
        else:
            needs = ", ".join(registry.TEACHERS[name].needs)
            remarks.append(f"Teacher {name} was left out: it needs {needs}, which is not installed.")
    return names


def _conclude(
    arguments: argparse.Namespace,
    budget: Budget,
    teachers: list[str],
    problems: Any,
    jobs: "list[Job]",
    journal: "Journal",
    remarks: list[str],
    started: float,
    console: "Console",
) -> int:
    import numpy as np

    from optformer.data.problems.bbob import HELD_OUT
    from optformer.data.problems.randomized_bbob import Layout, RandomizedBBOB
    from optformer.evaluate.imitation import draws, likelihood, nature, pages, trajectories
    from optformer.evaluate.optimization import scores
    from optformer.evaluate.report import print_end, print_remarks, write_json
    from optformer.facade import OptFormer
    from optformer.page import PAGE, Report

    outcomes, scales, unfinished = journal.results(jobs)
    remarks += unfinished
    runs: dict[tuple[str, str], list[trajectories.Trajectory]] = {}
    curves: dict[str, dict[str, list[np.ndarray]]] = {p.name: {} for p in problems}
    for job in jobs:
        outcome = outcomes[job.key]
        if job.optimizer is None:
            continue
        key = job.optimizer.name
        if outcome.usable and len(outcome.values) == arguments.trials:
            runs.setdefault((job.problem.name, key), []).append(
                trajectories.trajectory(job.problem, job.seed, outcome)  # type: ignore[arg-type]
            )
            curves[job.problem.name].setdefault(key, []).append(np.array(outcome.values, dtype=float))
    names = [each for teacher in teachers for each in (teacher, f"as {teacher}")]
    # All seeds or none: means over different numbers of seeds cannot be compared.
    for problem in problems:
        curves[problem.name] = {
            name: each if len(each := curves[problem.name].get(name, [])) == budget.seeds else [] for name in names
        }
    kept = [name for name, of in curves.items() if name in scales and all(of[each] for each in names)]
    if not kept:
        print_remarks(console, remarks)
        console.print("No problem has runs of all teachers and of the model that imitates them: nothing to compare.")
        return 1

    families = {p.name: p.family for p in problems}
    regrets = scores.regrets(
        {name: curves[name] for name in kept}, dict.fromkeys(kept, True), families, scales, names, arguments.trials
    )
    best = {
        teacher: (1 - regrets.values[:, 2 * index], 1 - regrets.values[:, 2 * index + 1])
        for index, teacher in enumerate(teachers)
    }
    at = [t for t in trajectories.CHECKPOINTS if t < arguments.trials] + [arguments.trials]
    progress = {teacher: [trajectories.progress(own, model, t) for t in at] for teacher, (own, model) in best.items()}
    studies = {name: [run.study for problem in kept for run in runs[problem, name]] for name in names}
    counts = {teacher: nature.compare(studies[teacher], studies[f"as {teacher}"]) for teacher in teachers}

    model = OptFormer.from_pretrained(arguments.checkpoint)
    identified = likelihood.identify(
        model, {teacher: studies[teacher] for teacher in teachers}, min(IDENTIFIED_AFTER, arguments.trials)
    )
    history = min(IDENTIFIED_AFTER, arguments.trials) - 1
    drawn = {
        teacher: [
            draws.draw(model, teacher, problem.experimenter(0), history, budget.draws, seed=index)
            for index, problem in enumerate(problems[: budget.histories])
        ]
        for teacher in teachers
    }
    # As in the paper: two continuous parameters of one of the functions.
    assert "GriewankRosenbrock" in HELD_OUT
    plain = RandomizedBBOB("GriewankRosenbrock", 7, Layout(2, (0, 0), (False, False), "NO_NOISE"))
    shown = [draws.draw(model, teacher, plain, history, budget.draws, seed=1) for teacher in teachers]
    densities = [draws.density(model, each.study, teacher, 40) for each, teacher in zip(shown, teachers, strict=True)]

    out = Path(arguments.out)
    fact = (
        f"Checkpoint {arguments.checkpoint}; {len(kept)} problems of BBOB's held-out functions, {budget.seeds} runs of "
        f"each teacher and of the model that imitates it, {arguments.trials} trials a run; "
        f"{time.perf_counter() - started:.0f} s for what was not run before."
    )
    report = Report(f"Imitation by {arguments.checkpoint}", out)
    pages.write_report(identified, progress, best, counts, drawn, (teachers, shown, densities), [fact], remarks, report)
    figures = {
        "checkpoint": arguments.checkpoint,
        "teachers": teachers,
        "problems": kept,
        "identification": identified,
        "progress": progress,
        "within": {teacher: each[-1].within for teacher, each in progress.items()},
        "nature": counts,
        "divergence": {
            teacher: {
                "model": float(np.mean([d.divergence() for d in each])),
                "teacher": float(np.mean([d.floor() for d in each])),
            }
            for teacher, each in drawn.items()
        },
        "remarks": remarks,
    }
    write_json(out / "imitation.json", figures)
    for table in (
        pages.likelihood_table(identified),
        pages.identification_table(identified),
        pages.divergence_table(drawn),
        pages.progress_table({teacher: each[-1:] for teacher, each in progress.items()}),
        pages.nature_table(counts),
    ):
        table.print(console)
    print_end(console, remarks, out / PAGE, out / "imitation.json")
    return 0
