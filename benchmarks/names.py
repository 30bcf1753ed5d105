"""What names are worth: tuning with the names of parameters, without them, and with wrong ones.

    python benchmarks/names.py --yahpo-dir DIR --tables DIR [--checkpoint nano] [--suite real] [--out FILE]

The problems are YAHPO's tasks and the measured tables of a suite (`optformer/evaluate/optimization/real_suites.py`).
The model chooses all trials.

| engine | |
|---|---|
| `named` | names of parameters and metric, and the title, as they are |
| `unnamed` | parameters `x1`, `x2`, ..., metric `objective`, no title |
| `misnamed` | each parameter has the name of another one; metric and title as they are |

Ranges, scales and the values of categorical parameters are the same for all, and the model reads these, too.

Printed: mean regret after 1, 3, 5 and 10 trials, and in brackets how much more than with names, with the standard
error over problems.  Regret is 0 at the best value known, 1 at the median of the best of ten random trials, at most 2.
Runs are kept in FILE; the same call goes on where the last one stopped.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from compared import Row, kept_runs, report_regrets, scored, suite_parser
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems.disguises import Disguise, DisguisedExperimenter
from optformer.evaluate.optimization import real_suites
from optformer.evaluate.optimization.real_suites import RealProblem
from optformer.evaluate.optimization.tuning import tune
from optformer.evaluate.report import write_json
from optformer.facade import load
from optformer.serve.vizier import OptFormerDesigner

ENGINES: Final = ("named", "unnamed", "misnamed")
AT: Final = (1, 3, 5, 10)


def renamed(problem: experimenters.Experimenter, engine: str, seed: int) -> experimenters.Experimenter:
    """The problem under other names."""
    configs = problem.problem_statement().search_space.parameters
    names = list(dict.fromkeys(Disguise().tuned(configs)))
    if engine == "named":
        return problem
    if engine == "unnamed":
        others = {name: f"x{number}" for number, name in enumerate(names, 1)}
        return DisguisedExperimenter(problem, Disguise(others, metric="objective", untitled=True))
    order = [str(name) for name in np.random.default_rng(seed).permutation(names)]
    return DisguisedExperimenter(problem, Disguise(dict(zip(order, [*order[1:], order[0]], strict=True))))


def run(engine: str, problem: RealProblem, checkpoint: str) -> dict[str, list[list[float]]]:
    """Values of the trials, for each seed."""

    def designer(statement: vz.ProblemStatement, seed: int) -> OptFormerDesigner:
        return OptFormerDesigner(statement, load(checkpoint), seed=seed)

    found = []
    for seed in problem.seeds:
        experimenter = renamed(problem.experimenter(seed), engine, seed)
        found.append([float(value) for value in tune(experimenter, designer, [], max(AT), seed).values])
    return {"values": found}


def run_all(problem: RealProblem, done: set[str], engines: Sequence[str], checkpoint: str) -> list[Row]:
    """What is missing of a problem."""
    warnings.simplefilter("ignore")
    missing = [engine for engine in engines if f"{problem.name} | {engine}" not in done]
    return scored(problem, lambda engine: run(engine, problem, checkpoint), missing)


def main() -> None:
    parser = suite_parser(__doc__, "names.jsonl")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--figures", type=Path, help="JSON of the tables, for documents.py")
    arguments = parser.parse_args()
    suite = real_suites.suite(arguments.suite, arguments.yahpo_dir, arguments.tables)
    problems = [problem for problem in suite if problem.family != "bbob"]
    rows = kept_runs(arguments.out, problems, run_all, arguments.processes, arguments.engines, arguments.checkpoint)
    found = report_regrets(rows, arguments.engines, AT, ("yahpo", "tables"))
    if arguments.figures:
        write_json(arguments.figures, found)


if __name__ == "__main__":
    main()
