"""Which settings of the search find better values: cold start, trust, incumbent, acquisition.

    python benchmarks/search_settings.py --out DIR [--checkpoint default] [--only default cold_0 ...] [--seeds 1]
    python benchmarks/search_settings.py --out DIR --yahpo-dir yahpo [--data-sets 16]

The 16 BBOB functions of the training split (nothing is chosen on the held-out ones), shifted and rotated, in 2, 4 and 8
dimensions by turns; half of them with noise of a tenth of the standard deviation of random values, judged without it.
From nothing to 50 trials.  Regret: 0 at the optimum, 1 at the median of 512 random points.

With `--yahpo-dir`, data sets of YAHPO instead, by scenarios in turns: none of those that are held out.  The first five
trials are random.  Regret: 0 at the best of 1,000 random points, 1 at their median; below 0 it is better than they are.

Printed, of settings and of peers: mean regret after 10, 25 and 50 trials, the mean of its logarithm (where it is below
a millionth, of that), and wins and losses against the default after 50.  Runs are appended to
`DIR/search_settings.jsonl` and not repeated.
"""

import argparse
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna
from scipy import optimize
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer import OptFormer
from optformer.data.problems.bbob import BOUND, METRIC, TRAIN, BBOBExperimenter
from optformer.data.teachers.registry import TEACHERS, make_teacher
from optformer.evaluate.optimization import DesignerFactory, normalised_regret, tune
from optformer.evaluate.optimization.problems import YahpoProblem, yahpo_suite
from optformer.serve.vizier import OptFormerDesigner

TRIALS = 50
REPEATS = {"random": 20, "tpe": 5}  # of the cheap ones, whose luck on a problem would otherwise decide
AT = (10, 25, 50)
DIMENSIONS = (2, 4, 8)
FIRST = 5

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "default": ("the default", {}),
    "cold_0": ("no cold start", {"initial_trials": 0}),
    "cold_3": ("3 quasi-random trials first", {"initial_trials": 3}),
    "cold_16": ("16 quasi-random trials first", {"initial_trials": 16}),
    "no_trust": ("always trusted", {"check_trust": False}),
    "observed": ("incumbent by observed objective", {"incumbent": "observed"}),
    "ucb": ("UCB", {"acquisition": "ucb"}),
    "pi": ("probability of improvement", {"acquisition": "pi"}),
    "thompson": ("Thompson sampling", {"acquisition": "thompson"}),
    "policy": ("the policy alone", {"acquisition": "policy"}),
    "random": ("random search", {}),
    "tpe": ("Optuna TPE", {}),
    "gp": ("Optuna GP", {}),
}

PEERS = {"random": "random_search", "tpe": "tpe", "gp": "gp"}


class Noisy(experimenters.Experimenter):
    """Normal noise on every value; remembers the values without it."""

    def __init__(self, function: BBOBExperimenter, stddev: float, seed: int):
        self.function, self.stddev = function, stddev
        self.rng = np.random.default_rng(seed)
        self.true: list[float] = []

    def problem_statement(self) -> vz.ProblemStatement:
        return self.function.problem_statement()

    def evaluate(self, suggestions: list[vz.Trial]) -> None:  # type: ignore[override]
        self.function.evaluate(suggestions)
        for trial in suggestions:
            value = trial.final_measurement_or_die.metrics[METRIC].value
            self.true.append(value)
            noisy = value + self.stddev * float(self.rng.normal())
            trial.complete(vz.Measurement(metrics={METRIC: noisy}), inplace=True)


class Problem(Protocol):
    @property
    def key(self) -> str:
        """Its name in the file of runs."""

    def regrets(self, factory: DesignerFactory, repeats: int) -> list[float]:
        """After each trial, of the best true value so far; the mean of so many runs."""


@dataclasses.dataclass(frozen=True)
class Function:
    """A BBOB function of the training split."""

    name: str
    dimension: int
    seed: int
    noise: bool

    @property
    def key(self) -> str:
        return f"{self.name}/{self.dimension}/{self.seed}"

    def exact(self) -> BBOBExperimenter:
        return BBOBExperimenter(self.name, self.dimension, self.seed)

    def regrets(self, factory: DesignerFactory, repeats: int) -> list[float]:
        function = self.exact()
        points = np.random.default_rng(7).uniform(-BOUND, BOUND, (512, self.dimension))
        values = np.array([function.value(point) for point in points])
        optimum = lowest(self)
        stddev = 0.1 * float(np.subtract(*np.quantile(values, [0.84, 0.16]))) / 2 if self.noise else 0.0
        curves = []
        for repeat in range(repeats):
            seed = self.seed + 1000 * repeat
            experimenter = Noisy(function, stddev, seed)
            tune(experimenter, factory, [], TRIALS, seed)
            best = np.minimum.accumulate(experimenter.true)
            curves.append(np.maximum(normalised_regret(best, optimum, float(np.median(values))), 0.0))
        return [float(each) for each in np.mean(curves, axis=0)]


@functools.cache
def lowest(problem: Function) -> float:
    """The least value that a long search finds, from the shift on, where most of the functions have it."""
    function = problem.exact()
    found = optimize.differential_evolution(
        function.value, [(-BOUND, BOUND)] * problem.dimension, x0=function._shift, seed=0, maxiter=200, tol=1e-8
    )
    return min(float(found.fun), function.value(function._shift))


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """A data set of YAHPO that is not held out."""

    problem: YahpoProblem
    seed: int

    @property
    def key(self) -> str:
        return f"{self.problem.name}/{self.seed}"

    def regrets(self, factory: DesignerFactory, repeats: int) -> list[float]:
        scale = scale_of(self.problem)
        sign = 1.0 if scale.best < scale.reference else -1.0
        curves = []
        for repeat in range(repeats):
            seed = self.seed + 1000 * repeat
            experimenter = self.problem.experimenter(seed)
            first = self.problem.first_trials(experimenter, FIRST, seed)
            values = sign * self.problem.judged(tune(experimenter, factory, first, TRIALS, seed).trials)
            best = np.minimum.accumulate(np.where(np.isfinite(values), values, np.inf))
            curves.append(normalised_regret(best, sign * scale.best, sign * scale.reference))
        return [float(each) for each in np.mean(curves, axis=0)]


scale_of = functools.cache(YahpoProblem.scale)


def functions(seeds: int) -> Iterator[Problem]:
    for seed in range(seeds):
        for index, name in enumerate(TRAIN):
            dimension = DIMENSIONS[(index + seed) % len(DIMENSIONS)]
            yield Function(name, dimension, 100 + seed, noise=(index // 2 + seed) % 2 == 1)


def surrogates(folder: str, data_sets: int, seeds: int) -> Iterator[Problem]:
    """So many of each scenario, by scenarios in turns."""
    suite = yahpo_suite(folder, data_sets, training=True)
    scenarios = [list(group) for _, group in itertools.groupby(suite, lambda problem: problem.folder)]
    for seed in range(seeds):
        for turn in itertools.zip_longest(*scenarios):
            yield from (Surrogate(problem, seed) for problem in turn if problem is not None)


def factory_of(variant: str, plain: OptFormer) -> DesignerFactory:
    if variant in PEERS:
        return lambda statement, seed: make_teacher(PEERS[variant], statement, seed)
    changes = dict(VARIANTS[variant][1])
    acquisition = str(changes.pop("acquisition", "ei"))
    model = plain.with_settings(**changes)
    return lambda statement, seed: OptFormerDesigner(statement, model, seed=seed, acquisition=acquisition)


def report(runs: dict[str, dict[str, list[float]]]) -> None:
    print(f"| settings | {' | '.join(f'after {at}' for at in AT)} | mean log10 after {TRIALS} | better : worse |")
    print("|---|---|---|---|---|---|")
    base = runs.get("default", {})
    for variant, done in runs.items():
        shared = [name for name in done if name in base] or list(done)
        curves = np.array([done[name] for name in shared])
        logs = np.log10(np.maximum(curves[:, -1], 1e-6))
        cells = [f"{curves[:, at - 1].mean():.3f}" for at in AT]
        against = ""
        if variant != "default" and base:
            other = np.array([base[name][-1] for name in shared if name in base])
            against = f"{(curves[:, -1] < other).sum()} : {(curves[:, -1] > other).sum()}"
        print(f"| {VARIANTS[variant][0]} | {' | '.join(cells)} | {logs.mean():.2f} | {against} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=1, help="instances of every problem; default: %(default)s")
    parser.add_argument("--yahpo-dir", help="folder of scenarios, for YAHPO's data sets in place of BBOB's functions")
    parser.add_argument("--data-sets", type=int, default=16, help="of each scenario; default: %(default)s")
    arguments = parser.parse_args()

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "search_settings.jsonl"
    runs: dict[str, dict[str, list[float]]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        kept = json.loads(line)
        runs.setdefault(kept["variant"], {})[kept["problem"]] = kept["regrets"]
    plain = OptFormer.from_pretrained(arguments.checkpoint)
    problems = list(
        surrogates(arguments.yahpo_dir, arguments.data_sets, arguments.seeds)
        if arguments.yahpo_dir
        else functions(arguments.seeds)
    )
    for variant in arguments.only:
        if variant in PEERS and not TEACHERS[PEERS[variant]].available:
            print(f"{VARIANTS[variant][0]} is not installed and left out.")
            continue
        factory = factory_of(variant, plain)
        for problem in problems:
            name = problem.key
            if name in runs.get(variant, {}):
                continue
            curve = problem.regrets(factory, REPEATS.get(variant, 1))
            runs.setdefault(variant, {})[name] = curve
            with log.open("a") as file:
                file.write(json.dumps({"variant": variant, "problem": name, "regrets": curve}) + "\n")
    report(runs)


if __name__ == "__main__":
    main()
