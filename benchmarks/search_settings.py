"""Which settings and acquisition rules of the search find better values, on problems that training data has.

    python benchmarks/search_settings.py --yahpo-dir DIR --tables DIR [--checkpoint default] [--engines default pi ...]

The problems are those of a suite (`optformer/evaluate/optimization/real_suites.py`), by default `real-train`, on which
settings are chosen.  Each run has 50 trials, all chosen by the search.  The engines are in `ENGINES`; the first of
`--engines` is what the others are compared with.

Printed: mean regret after 5, 10, 25 and 50 trials, and in brackets how much more than the first engine, with the
standard error over problems.  Regret is 0 at the best value known, 1 at the median of the best of ten random trials, at
most 2.  Then, for the first engine, how often a suggestion was a new best trial, by the predicted probability of that.
Runs are kept in `--out`; the same call goes on where the last one stopped.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import optuna
from compared import Row, figures_of, kept_runs, of_problems, print_table, suite_parser

from optformer.evaluate.optimization import real_report, real_suites
from optformer.evaluate.optimization.problems import Scale
from optformer.evaluate.optimization.real_suites import RealProblem
from optformer.evaluate.optimization.tuning import maximizes, normalised_regret, objective_values, tuning
from optformer.evaluate.report import write_json
from optformer.facade import METADATA_NAMESPACE, load
from optformer.inference import search
from optformer.inference.history import Objective
from optformer.inference.search import Search
from optformer.model.interface import History
from optformer.serve.vizier import OptFormerDesigner

AT: Final = (5, 10, 25, 50)
TRIALS: Final = max(AT)


class RandomMargin(Search):
    """Improves on more than the incumbent, by 10^-3 to 1 good ranges, another margin for each trial.

    The rule of MFPI-random (Rakotoarison et al. 2024) with the scale of this project.
    """

    def _incumbent(self, focus: Objective, history: History) -> float:
        rng = np.random.default_rng([self._seed, len(self.study.trials), 1])
        return super()._incumbent(focus, history) + float(10.0 ** rng.uniform(-3.0, 0.0))


class Margin(Search):
    """Improves on more than the incumbent, by a twentieth of a good range."""

    def _incumbent(self, focus: Objective, history: History) -> float:
        return super()._incumbent(focus, history) + 0.05


class EveryFifthExplores(Search):
    """Every fifth trial is chosen by UCB."""

    def __init__(self, *given: Any, **asked: Any):
        super().__init__(*given, **asked)
        if len(self.study.trials) % 5 == 4:
            self._acquisition = "ucb"


class EveryFifthSamples(Search):
    """Every fifth trial is chosen by Thompson sampling."""

    def __init__(self, *given: Any, **asked: Any):
        super().__init__(*given, **asked)
        if len(self.study.trials) % 5 == 4:
            self._acquisition = "thompson"


@dataclasses.dataclass(frozen=True)
class Engine:
    """What is compared.

    Attributes:
      acquisition: name of the acquisition.
      settings: changes of `SearchSettings`.
      search: class of the search.
    """

    acquisition: str = "ei"
    settings: dict[str, object] = dataclasses.field(default_factory=dict)
    search: type[Search] = Search


ENGINES: Final[dict[str, Engine]] = {
    "default": Engine(),
    "pi": Engine("pi"),
    "ucb": Engine("ucb"),
    "thompson": Engine("thompson"),
    "policy": Engine("policy"),
    "pi_random_margin": Engine("pi", search=RandomMargin),
    "ei_margin": Engine(search=Margin),
    "ei_explores": Engine(search=EveryFifthExplores),
    "ei_samples": Engine(search=EveryFifthSamples),
    "observed": Engine(settings={"incumbent": "observed"}),
    "no_check": Engine(settings={"check_trust": False}),
    "quasi_random_start": Engine(settings={"start": "quasi-random"}),
    "three_rounds": Engine(settings={"rounds": 3, "first_candidates": 1024}),
}


def run(engine: Engine, problem: RealProblem, checkpoint: str, seed: int) -> dict[str, list[float]]:
    """Values of the trials, NaN where they failed, and the predicted probability of each to be a new best one."""
    experimenter = problem.experimenter(seed)
    statement = experimenter.problem_statement()
    model = load(checkpoint).with_settings(**engine.settings)
    designer = OptFormerDesigner(statement, model, seed=seed, acquisition=engine.acquisition)
    with mock.patch.object(search, "Search", engine.search):
        trials = [trial for trial, _ in tuning(experimenter, designer, [], TRIALS)]
    reasons = [trial.metadata.ns(METADATA_NAMESPACE) for trial in trials]
    return {
        "values": [float(value) for value in objective_values(statement, trials)],
        "chances": [float(reason.get("improvement", "nan")) for reason in reasons],
    }


def run_all(problem: RealProblem, done: set[str], engines: Sequence[str], checkpoint: str) -> list[Row]:
    """What is missing of a problem, and its scale."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    missing = [name for name in engines if f"{problem.name} | {name}" not in done]
    try:
        scale = problem.scale()
    except ValueError:  # most random trials fail
        return []
    maximize = maximizes(problem.experimenter(0).problem_statement())
    common = {"problem": problem.name, "family": problem.family, "maximize": maximize}
    common["scale"] = [scale.reference, scale.best]
    return [
        {**common, "engine": name, "runs": [run(ENGINES[name], problem, checkpoint, seed) for seed in problem.seeds]}
        for name in missing
    ]


def table(rows: Sequence[Row], engines: Sequence[str], family: str | None) -> dict[str, Any]:
    """What is printed of a family, or of all."""
    regrets = []
    for of in of_problems([row for row in rows if family in (None, row["family"])], engines):
        first = next(iter(of.values()))
        sign, scale = (1.0 if first["maximize"] else -1.0), Scale(*first["scale"])
        values = np.array([[run["values"] for run in of[engine]["runs"]] for engine in engines], float)
        best = sign * np.fmax.reduce([sign * scale.best, np.nanmax(sign * values)])
        if best == scale.reference:
            continue
        curves = sign * np.fmax.accumulate(sign * values, axis=-1)
        regret = np.nan_to_num(normalised_regret(curves, best, scale.reference), nan=real_report.WORST)
        regrets.append(np.minimum(regret, real_report.WORST).mean(axis=1)[:, [at - 1 for at in AT]])
    return figures_of(engines, [f"after {at}" for at in AT], np.stack(regrets)) if regrets else {}


def print_chances(rows: Sequence[Row], engine: str) -> None:
    """How often a suggestion was a new best trial, by the predicted probability of that."""
    pairs = []
    for row in rows:
        sign = 1.0 if row["maximize"] else -1.0
        for each in row["runs"] if row["engine"] == engine else ():
            values = sign * np.array(each["values"], float)
            best = np.fmax.accumulate(np.concatenate([[np.nan], values[:-1]]))
            pairs.append(np.stack([np.array(each["chances"], float), np.where(values > best, 1.0, 0.0)], axis=1))
    chances, better = np.concatenate(pairs).T
    print(f"\n{engine}\n\n| probability of a new best | suggestions | mean probability | share of new bests |")
    print("|---|--:|--:|--:|")
    for low, high in itertools.pairwise((0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.01)):
        inside = (chances >= low) & (chances < high)
        if inside.any():
            print(f"| {low:g} - {min(high, 1.0):g} | {inside.sum()} | ", end="")
            print(f"{chances[inside].mean():.3f} | {better[inside].mean():.3f} |")


def main() -> None:
    parser = suite_parser(__doc__, "search_settings.jsonl")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--figures", type=Path, help="JSON of the tables, for documents.py")
    arguments = parser.parse_args()
    problems = real_suites.suite(arguments.suite, arguments.yahpo_dir, arguments.tables)
    rows = kept_runs(arguments.out, problems, run_all, arguments.processes, arguments.engines, arguments.checkpoint)
    tables = {name or "all": table(rows, arguments.engines, name) for name in (None, *real_suites.FAMILIES)}
    for name, figures in tables.items():
        if figures:
            print_table(name, figures)
    print_chances(rows, arguments.engines[0])
    if arguments.figures:
        write_json(arguments.figures, tables)


if __name__ == "__main__":
    main()
