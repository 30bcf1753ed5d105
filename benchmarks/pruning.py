"""What pruning is worth at the same total budget: samplers and pruners of Optuna on learning curves.

    python benchmarks/pruning.py --yahpo-dir DIR --tables DIR [--checkpoint nano] [--suite real] [--problems N]
    python benchmarks/pruning.py --suite prior

The problems are YAHPO's tasks of a suite (`optformer/evaluate/optimization/real_suites.py`), or are drawn from the
prior (`prior_curves.py`).  A trial reports its metric at some shares of its budget, which is data or epochs, and costs
the share at which it ends.  A study ends when it has spent as much as 25 whole trials.

| engine | sampler, pruner |
|---|---|
| `ours`, `tpe` | no pruner |
| `+median`, `+hyperband` | MedianPruner, HyperbandPruner |
| `+percentile` | PercentilePruner(75), which prunes the worst quarter |
| `+own`, `+own.1`, `+own.2`, `+own.3` | OptFormerPruner, with its threshold and with others |

Printed: mean regret of the best finished trial when the budget of 5, 10 and 25 whole trials is spent, and in brackets
how much more than the first engine, with the standard error over problems; and how many trials there were.  Regret is 0
at the best value known, 1 at the median of the best of ten random trials, at most 2.  Runs are kept in `--out`; the
same call goes on where the last one stopped.
"""

import functools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from compared import Row, figures_of, kept_runs, of_problems, print_table, suite_parser
from prior_curves import PriorProblem
from vizier import pyvizier as vz

from optformer.data.problems import yahpo
from optformer.evaluate.optimization import real_report, real_suites
from optformer.evaluate.optimization.problems import Scale
from optformer.evaluate.optimization.real_suites import YahpoTask
from optformer.evaluate.optimization.tuning import is_flat, normalized_regret
from optformer.evaluate.report import write_json
from optformer.facade import load
from optformer.inference.early_stopping import THRESHOLD
from optformer.serve.optuna import OptFormerSampler
from optformer.serve.optuna_pruner import OptFormerPruner

ENGINES = (
    *("ours+median", "ours", "ours+hyperband", "ours+percentile", "ours+own"),
    *("tpe", "tpe+median", "tpe+hyperband", "tpe+percentile"),
)
THRESHOLDS = ("ours+own.1", "ours+own.2", "ours+own.3")
STEPS = 27
REPORTS = (1, 3, 6, 9, 14, 20, 27)
BUDGET = 25
AT = (5, 10, 25)
PRIOR = "prior"
PRIOR_PROBLEMS = 48


class YahpoProblem:
    """A task of YAHPO whose trials report."""

    def __init__(self, task: YahpoTask) -> None:
        self.task = task
        self.name = task.name
        self.seed = next(iter(task.seeds))
        self.metric = task.task.metric

    @functools.cached_property
    def scenario(self) -> yahpo.Scenario:
        return yahpo.load_scenario(self.task.task.folder)

    @property
    def maximize(self) -> bool:
        return not self.scenario.metrics[self.metric]

    @property
    def least_share(self) -> float:
        return self.scenario.least_share

    def scale(self) -> Scale:
        return self.task.scale()

    def configs(self) -> list[vz.ParameterConfig]:
        return list(self.scenario.search_space().parameters)

    def evaluate(self, configuration: dict[str, Any], share: float) -> float:
        column = list(self.scenario.metrics).index(self.metric)
        return float(self.scenario.evaluate([configuration], self.task.task.instance, share)[0, column])


Problem = YahpoProblem | PriorProblem


def suggested(trial: optuna.Trial, configs: Iterable[vz.ParameterConfig]) -> dict[str, Any]:
    """Values of a search space, branch by branch."""
    values: dict[str, Any] = {}
    for config in configs:
        log = config.scale_type == vz.ScaleType.LOG
        if config.type == vz.ParameterType.DOUBLE:
            values[config.name] = trial.suggest_float(config.name, *config.bounds, log=log)
        elif config.type == vz.ParameterType.INTEGER:
            values[config.name] = trial.suggest_int(config.name, *map(int, config.bounds), log=log)
        else:
            values[config.name] = trial.suggest_categorical(config.name, list(config.feasible_values))
            values |= suggested(trial, config.get_subspace_deepcopy(values[config.name]).parameters)
    return values


def run(engine: str, problem: Problem, checkpoint: str) -> dict[str, list[float]]:
    """Of each trial its final value, NaN where it was pruned, and what was spent by then, in whole trials."""
    configs, seed = problem.configs(), problem.seed
    name, _, pruning = engine.partition("+")
    sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed)
    if name == "ours":
        sampler = OptFormerSampler(load(checkpoint), seed=seed)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if pruning == "median":
        pruner = optuna.pruners.MedianPruner()
    elif pruning == "percentile":
        pruner = optuna.pruners.PercentilePruner(75.0)
    elif pruning == "hyperband":
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=STEPS, reduction_factor=3)
    elif pruning.startswith("own"):
        threshold = float(pruning.removeprefix("own") or THRESHOLD)
        pruner = OptFormerPruner(load(checkpoint), threshold=threshold)
    direction = "maximize" if problem.maximize else "minimize"
    study = optuna.create_study(study_name=problem.metric, direction=direction, sampler=sampler, pruner=pruner)
    values: list[float] = []
    spent = [0.0]
    while spent[-1] < BUDGET:
        trial = study.ask()
        configuration = suggested(trial, configs)
        value = np.nan
        for step in REPORTS:
            value = problem.evaluate(configuration, max(step / STEPS, problem.least_share))
            trial.report(value, step)
            if step < STEPS and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                value = np.nan
                break
        else:
            study.tell(trial, value)
        values.append(value)
        spent.append(spent[-1] + step / STEPS)
    return {"values": values, "spent": spent[1:]}


def run_all(problem: Problem, done: set[str], engines: Sequence[str], checkpoint: str) -> list[Row]:
    """What is missing of a problem, and its scale."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        scale = problem.scale()
    except ValueError:
        return []
    return [
        {
            "problem": problem.name,
            "engine": engine,
            "maximize": problem.maximize,
            "scale": [scale.reference, scale.best],
            **run(engine, problem, checkpoint),
        }
        for engine in engines
        if f"{problem.name} | {engine}" not in done
    ]


def table(rows: Sequence[Row], engines: Sequence[str]) -> dict[str, Any]:
    """What is printed."""
    regrets, counts = [], []
    for runs in of_problems(rows, engines):
        first = runs[engines[0]]
        sign, scale = (1.0 if first["maximize"] else -1.0), Scale(*first["scale"])
        every = np.concatenate([np.array(runs[engine]["values"], float) for engine in engines])
        best = sign * np.fmax.reduce([sign * scale.best, np.nanmax(sign * every)])
        if is_flat(best, scale.reference):
            continue
        cells = []
        for engine in engines:
            values, spent = np.array(runs[engine]["values"], float), np.array(runs[engine]["spent"], float)
            reached = [sign * np.fmax.reduce(sign * values[spent <= at + 1e-9], initial=-np.inf) for at in AT]
            cells.append(normalized_regret(np.array(reached), best, scale.reference))
        regrets.append(np.clip(np.nan_to_num(cells, nan=real_report.WORST), None, real_report.WORST))
        counts.append([len(runs[engine]["values"]) for engine in engines])
    if not regrets:
        raise SystemExit("there is no problem on which all of these engines were run")
    trials = {"trials": np.mean(counts, axis=0).tolist()}
    return figures_of(engines, [f"budget {at}" for at in AT], np.stack(regrets), trials)


def main() -> None:
    parser = suite_parser(__doc__, "pruning.jsonl", more=(PRIOR,))
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=(*ENGINES, *THRESHOLDS))
    parser.add_argument(
        "--problems", type=int, default=1000, help=f"at most; default: all, {PRIOR_PROBLEMS} of the prior"
    )
    parser.add_argument("--figures", type=Path, help="JSON of the table, for documents.py")
    arguments = parser.parse_args()
    problems: Sequence[Problem]
    if arguments.suite == PRIOR:
        problems = [PriorProblem(number) for number in range(PRIOR_PROBLEMS)]
    elif arguments.yahpo_dir and arguments.tables:
        suite = real_suites.suite(arguments.suite, arguments.yahpo_dir, arguments.tables)
        problems = [YahpoProblem(problem) for problem in suite if isinstance(problem, YahpoTask)]
    else:
        parser.error("--yahpo-dir and --tables are needed")
    given = (arguments.engines, arguments.checkpoint)
    rows = kept_runs(arguments.out, problems[: arguments.problems], run_all, arguments.processes, *given)
    figures = table(rows, arguments.engines)
    family = "prior" if arguments.suite == PRIOR else "yahpo"
    print_table(family, figures)
    if arguments.figures:
        write_json(arguments.figures, {family: figures})


if __name__ == "__main__":
    main()
