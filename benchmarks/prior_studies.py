"""What earlier studies are worth: tuning that is told of three, beside tuning that begins with their best trials.

    python benchmarks/prior_studies.py --yahpo-dir DIR --tables DIR [--checkpoint nano] [--suite real] [--out FILE]

The problems are those of a suite (`optformer/evaluate/optimization/real_suites.py`) that have relatives: tasks of a
scenario of YAHPO on other data sets, measured tables of the same search space and metric.  Each earlier study is one of
three relatives that training data has, with 30 random trials.

| engine | |
|---|---|
| `told` | OptFormer with the earlier studies as `prior_studies` |
| `alone` | OptFormer without them |
| `misled` | OptFormer with the earlier studies negated |
| `alone+best`, `tpe+best`, `gp+best` | the best trial of each earlier study first, then the optimizer alone |

Printed: mean regret after 1, 3, 5, 10 and 25 trials, and in brackets how much more than `told`, with the standard error
over problems.  Regret is 0 at the best value known, 1 at the median of the best of ten random trials, at most 2.
Runs are kept in FILE; the same call goes on where the last one stopped.
"""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
from compared import Row, kept_runs, report_regrets, scored, suite_parser
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems import tables, yahpo
from optformer.data.teachers.registry import make_teacher
from optformer.evaluate.optimization import real_suites
from optformer.evaluate.optimization.real_suites import MeasuredTable, YahpoTask
from optformer.evaluate.optimization.tuning import (
    maximizes,
    objective_values,
    random_trials,
    tuning,
)
from optformer.evaluate.report import write_json
from optformer.facade import load
from optformer.serve.vizier import OptFormerDesigner

ENGINES = ("told", "alone", "misled", "alone+best", "tpe+best", "gp+best")
AT = (1, 3, 5, 10, 25)
STUDIES, TRIALS = 3, 30

Problem = YahpoTask | MeasuredTable


def relatives(problem: Problem, yahpo_dir: str, tables_dir: str) -> list[experimenters.Experimenter]:
    """Problems of the training data with the same search space and metric, in a random order of their own."""
    found: list[experimenters.Experimenter] = []
    if isinstance(problem, YahpoTask):
        task = problem.task
        scenario = yahpo.load_scenario(task.folder)
        found = [
            yahpo.YahpoExperimenter(scenario, each.instance, each.metric)
            for each in training_tasks(yahpo_dir)
            if (each.folder, each.metric) == (task.folder, task.metric) and each.instance != task.instance
        ]
    else:
        own = problem.table()
        found = [
            tables.TableExperimenter(each)
            for file in tables.files(Path(tables_dir).resolve())
            if not tables.held_out(file)
            for each in tables.load_tables(file).values()
            if each.problem.search_space == own.problem.search_space
            and each.metric == own.metric
            and each.name != own.name
        ]
    order = np.random.default_rng(next(iter(problem.seeds))).permutation(len(found))
    return [found[index] for index in order[:STUDIES]]


@functools.cache
def training_tasks(yahpo_dir: str) -> list[yahpo.Task]:
    return yahpo.tasks(yahpo_dir, held_out=False)


def earlier_studies(others: Sequence[experimenters.Experimenter], seed: int) -> list[vz.ProblemAndTrials]:
    return [
        vz.ProblemAndTrials(problem=each.problem_statement(), trials=random_trials(each, TRIALS, seed + number))
        for number, each in enumerate(others)
    ]


def negated(study: vz.ProblemAndTrials) -> vz.ProblemAndTrials:
    """The same with the worst trials as the best ones."""
    name = study.problem.metric_information.item().name
    trials = []
    for trial in study.trials:
        turned = vz.Trial(trial.parameters, id=trial.id)
        if trial.infeasible or trial.final_measurement is None:
            turned.complete(vz.Measurement(), infeasibility_reason="failed")
        else:
            turned.complete(vz.Measurement({name: -trial.final_measurement.metrics[name].value}))
        trials.append(turned)
    return vz.ProblemAndTrials(problem=study.problem, trials=trials)


def best_of(study: vz.ProblemAndTrials) -> vz.Trial | None:
    values = objective_values(study.problem, study.trials) * (1.0 if maximizes(study.problem) else -1.0)
    return study.trials[int(np.nanargmax(values))] if np.isfinite(values).any() else None


def run(
    engine: str, problem: Problem, studies: Sequence[vz.ProblemAndTrials], checkpoint: str, seed: int
) -> list[float]:
    """Values of the trials, NaN where they failed."""
    experimenter = problem.experimenter(seed)
    statement = experimenter.problem_statement()
    name, _, begins = engine.partition("+")
    first: list[vz.Trial] = []
    if begins:
        best = [each for each in map(best_of, studies) if each is not None]
        first = [vz.Trial(each.parameters, id=number) for number, each in enumerate(best, 1)]
        experimenter.evaluate(first)
    if name in ("tpe", "gp"):
        designer = make_teacher(name, statement, seed)
    else:
        shown = {"told": studies, "misled": [negated(each) for each in studies]}.get(name, ())
        designer = OptFormerDesigner(statement, load(checkpoint), seed=seed, prior_studies=shown)
    trials = [*first, *(trial for trial, _ in tuning(experimenter, designer, first, max(AT)))]
    return [float(value) for value in objective_values(statement, trials)]


def run_all(
    problem: Problem, done: set[str], engines: Sequence[str], checkpoint: str, yahpo_dir: str, tables_dir: str
) -> list[Row]:
    """What is missing of a problem, and its scale."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    others = relatives(problem, yahpo_dir, tables_dir)
    if len(others) < STUDIES:
        return []
    seed = next(iter(problem.seeds))
    studies = earlier_studies(others, seed)
    missing = [engine for engine in engines if f"{problem.name} | {engine}" not in done]
    return scored(problem, lambda engine: {"values": run(engine, problem, studies, checkpoint, seed)}, missing)


def main() -> None:
    parser = suite_parser(__doc__, "prior_studies.jsonl")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--figures", type=Path, help="JSON of the tables, for documents.py")
    arguments = parser.parse_args()
    problems = [
        problem
        for problem in real_suites.suite(arguments.suite, arguments.yahpo_dir, arguments.tables)
        if isinstance(problem, YahpoTask | MeasuredTable)
    ]
    given = (arguments.engines, arguments.checkpoint, arguments.yahpo_dir, arguments.tables)
    rows = kept_runs(arguments.out, problems, run_all, arguments.processes, *given)
    found = report_regrets(rows, arguments.engines, AT, ("yahpo", "tables"))
    if arguments.figures:
        write_json(arguments.figures, found)


if __name__ == "__main__":
    main()
