"""What the first trial of the Optuna sampler is worth: chosen by the model, or at random.

    python benchmarks/first_trials.py --yahpo-dir DIR --tables DIR [--checkpoint nano] [--suite real]

Optuna does not know the parameters before the first trial has finished, so the model chooses them one by one.

| engine | first trial | later trials |
|---|---|---|
| `model_first` | OptFormerSampler | OptFormerSampler |
| `random_first` | RandomSampler | OptFormerSampler |
| `tpe` | TPESampler | TPESampler |

Printed: mean regret after 1, 3 and 5 trials, and in brackets how much more than `model_first`, with the standard error
over problems.  Regret is 0 at the best value known, 1 at the median of the best of ten random trials, at most 2.  Runs
are kept in `--out`; the same call goes on where the last one stopped.
"""

import functools
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from compared import Row, kept_runs, report_regrets, scored, suite_parser
from pruning import suggested
from vizier import pyvizier as vz

from optformer.evaluate.optimization import real_suites
from optformer.evaluate.optimization.real_suites import RealProblem
from optformer.evaluate.optimization.tuning import maximizes, objective_values
from optformer.evaluate.report import write_json
from optformer.facade import load
from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve.optuna import OptFormerSampler

AT: Final = (1, 3, 5)
ENGINES: Final = ("model_first", "random_first", "tpe")


def run(problem: RealProblem, checkpoint: str, seeds: int, engine: str) -> dict[str, Any]:
    """The values of the trials of each run, NaN where they failed."""
    found = []
    for seed in range(seeds):
        experimenter = problem.experimenter(seed)
        statement = experimenter.problem_statement()
        sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed)
        if engine != "tpe":
            sampler = OptFormerSampler(load(checkpoint), seed=seed)
        title = statement.metadata.ns(METADATA_NAMESPACE).get("title")
        direction = "maximize" if maximizes(statement) else "minimize"
        study = optuna.create_study(study_name=title, direction=direction, sampler=sampler)
        study.set_metric_names([statement.metric_information.item().name])
        values = []
        for number in range(max(AT)):
            study.sampler = (
                optuna.samplers.RandomSampler(seed=seed) if engine == "random_first" and not number else sampler
            )
            trial = study.ask()
            measured = vz.Trial(suggested(trial, statement.search_space.parameters))
            experimenter.evaluate([measured])
            (value,) = objective_values(statement, [measured])
            failed = not np.isfinite(value)
            study.tell(trial, None if failed else float(value), optuna.trial.TrialState.FAIL if failed else None)
            values.append(float(value))
        found.append(values)
    return {"values": found}


def run_all(problem: RealProblem, done: set[str], checkpoint: str, seeds: int) -> list[Row]:
    """What is missing of a problem."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    missing = [name for name in ENGINES if f"{problem.name} | {name}" not in done]
    return scored(problem, functools.partial(run, problem, checkpoint, seeds), missing)


def main() -> None:
    parser = suite_parser(__doc__, "first_trials.jsonl")
    parser.add_argument("--seeds", type=int, default=1, help="runs on each problem; default: 1")
    parser.add_argument("--figures", type=Path, help="JSON of the tables, for documents.py")
    arguments = parser.parse_args()
    problems = real_suites.suite(arguments.suite, arguments.yahpo_dir, arguments.tables)
    given = (arguments.checkpoint, arguments.seeds)
    rows = kept_runs(arguments.out, problems, run_all, arguments.processes, *given)
    found = report_regrets(rows, ENGINES, AT, real_suites.FAMILIES)
    if arguments.figures:
        write_json(arguments.figures, found)


if __name__ == "__main__":
    main()
