"""Which settings and acquisition rules of the search find better values, on problems that training data has.

    python benchmarks/search_settings.py --yahpo-dir DIR --tables DIR [--checkpoint default] [--engines default pi ...]

The problems are those of a suite (`optformer/evaluate/optimization/real_suites.py`), by default `real-train`, on which
settings are chosen.  Each run has 50 trials (or `--trials`), all chosen by the search.  The engines are in `ENGINES`;
the first of `--engines` is what the others are compared with.

Printed: mean regret after 5, 10, 25, 50, ... trials, and in brackets how much more than the first engine, with the
standard error over problems.  Regret is 0 at the best value known, 1 at the median of the best of ten random trials, at
most 2.  Then, for the first engine, how often a suggestion was a new best trial, by the predicted probability of that.
Runs are kept in `--out`; the same call goes on where the last one stopped.
"""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import optuna
from compared import Row, kept_runs, report_regrets, scored, suite_parser

from optformer.evaluate.optimization import real_suites
from optformer.evaluate.optimization.real_suites import RealProblem
from optformer.evaluate.optimization.tuning import objective_values, tuning
from optformer.evaluate.report import write_json
from optformer.facade import load
from optformer.inference import search
from optformer.inference.compiled import CompiledModel
from optformer.inference.history import Objective
from optformer.inference.search import Scorer, Search
from optformer.inference.several_metrics import Metric
from optformer.model.interface import History
from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve.vizier import OptFormerDesigner

AT: Final = (5, 10, 25, 50, 75, 100, 150, 200)


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

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        if len(self.study.trials) % 5 == 4:
            self._acquisition = "ucb"


class TwoJudges(Search):
    """Scores candidates by the mean of two checkpoints: the given one and `nano-2`.  For a single objective."""

    def _comparison(self, focus: Objective, metrics: Sequence[Metric], rng: np.random.Generator) -> tuple[Scorer, str]:
        score, source = super()._comparison(focus, metrics, rng)
        second = Search(_second_judge(), self._settings, self.study, seed=self._seed)
        unused = np.random.default_rng(0)
        others = second._focused(unused)
        second_score, _ = second._comparison(others, second._metrics(others), unused)

        def mean(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
            values, logits = score(rows, seed)
            return (values + second_score(rows, seed)[0]) / 2, logits

        return mean, source


@functools.cache
def _second_judge() -> CompiledModel:
    return load("nano-2")._model


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


def _candidates(count: int) -> dict[str, object]:
    """Settings with this many candidates in each of the two rounds; a quarter of the first ones are of the policy."""
    return {"first_candidates": count, "round_candidates": count, "policy_samples": count // 4}


ENGINES: Final[dict[str, Engine]] = {
    "default": Engine(),
    "pi": Engine("pi"),
    "ucb": Engine("ucb"),
    "thompson": Engine("thompson"),
    "policy": Engine("policy"),
    "pi_random_margin": Engine("pi", search=RandomMargin),
    "ei_margin": Engine(search=Margin),
    "ei_explores": Engine(search=EveryFifthExplores),
    "observed": Engine(settings={"incumbent": "observed"}),
    "no_check": Engine(settings={"check_trust": False}),
    "quasi_random_start": Engine(settings={"start": "quasi-random"}),
    "window_of_64": Engine(settings={"max_trials": 64}),
    "window_of_128": Engine(settings={"max_trials": 128, "policy_trials": 128}),
    "three_rounds": Engine(settings={"rounds": 3, "first_candidates": 1024}),
    "twice_the_candidates": Engine(settings=_candidates(512)),
    "half_the_candidates": Engine(settings=_candidates(128)),
    "quarter_of_the_candidates": Engine(settings=_candidates(64)),
    "no_refinement": Engine(settings={"rounds": 0}),
    "no_policy": Engine(settings={"policy_samples": 1}),
    "two_judges": Engine(search=TwoJudges),
}


def run(engine: Engine, problem: RealProblem, checkpoint: str, seeds: int, count: int) -> dict[str, list[list[float]]]:
    """Of each run the values of the trials, NaN where they failed, and the predicted probability of each to be a new
    best one."""
    found: dict[str, list[list[float]]] = {"values": [], "chances": []}
    model = load(checkpoint).with_settings(**engine.settings)
    first = next(iter(problem.seeds))
    for seed in range(first, first + max(seeds, len(problem.seeds))):
        experimenter = problem.experimenter(seed)
        statement = experimenter.problem_statement()
        designer = OptFormerDesigner(statement, model, seed=seed, acquisition=engine.acquisition)
        with mock.patch.object(search, "Search", engine.search):
            trials = [trial for trial, _ in tuning(experimenter, designer, [], count)]
        reasons = [trial.metadata.ns(METADATA_NAMESPACE) for trial in trials]
        found["values"].append([float(value) for value in objective_values(statement, trials)])
        found["chances"].append([float(reason.get("improvement", "nan")) for reason in reasons])
    return found


def run_all(
    problem: RealProblem, done: set[str], engines: Sequence[str], checkpoint: str, seeds: int, trials: int
) -> list[Row]:
    """What is missing of a problem."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    missing = [name for name in engines if f"{problem.name} | {name}" not in done]
    return scored(problem, lambda name: run(ENGINES[name], problem, checkpoint, seeds, trials), missing)


def chances(rows: Sequence[Row], engine: str) -> list[dict[str, float]]:
    """By predicted probability of a new best trial: number of suggestions, mean probability, share of new bests."""
    pairs = []
    for row in rows:
        if row["engine"] == engine:
            values = np.array(row["values"], float) * (1.0 if row["maximize"] else -1.0)
            before = np.fmax.accumulate(np.pad(values, ((0, 0), (1, 0)), constant_values=np.nan)[:, :-1], axis=1)
            pairs.append([np.ravel(row["chances"]), (values > before).ravel()])
    predicted, better = np.concatenate(pairs, axis=1)
    found = []
    for low, high in itertools.pairwise((0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)):
        inside = (predicted >= low) & ((predicted < high) | (high == 1.0))
        if inside.any():
            mean, share = float(predicted[inside].mean()), float(better[inside].mean())
            found.append({"low": low, "high": high, "count": int(inside.sum()), "mean": mean, "share": share})
    return found


def main() -> None:
    parser = suite_parser(__doc__, "search_settings.jsonl")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--seeds", type=int, default=1, help="least number of runs on each problem; default: 1")
    parser.add_argument("--trials", type=int, default=50, help="of each run, in all calls with this --out; default: 50")
    parser.add_argument("--families", nargs="+", default=real_suites.FAMILIES, choices=real_suites.FAMILIES)
    parser.add_argument("--figures", type=Path, help="JSON of the tables, for documents.py")
    arguments = parser.parse_args()
    suite = real_suites.suite(arguments.suite, arguments.yahpo_dir, arguments.tables)
    problems = [problem for problem in suite if problem.family in arguments.families]
    given = (arguments.engines, arguments.checkpoint, arguments.seeds, arguments.trials)
    rows = kept_runs(arguments.out, problems, run_all, arguments.processes, *given)
    at = [count for count in AT if count <= arguments.trials]
    found = report_regrets(rows, arguments.engines, at, real_suites.FAMILIES)
    found["chances"] = chances(rows, arguments.engines[0])
    print("\n| probability of a new best | suggestions | mean probability | share of new bests |\n|---|--:|--:|--:|")
    for each in found["chances"]:
        print("| {low} - {high} | {count} | {mean:.3f} | {share:.3f} |".format(**each))
    if arguments.figures:
        write_json(arguments.figures, found)


if __name__ == "__main__":
    main()
