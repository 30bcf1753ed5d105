"""The problems on which optimizers are compared, and the scales of their regret.

The shipped models were trained on none of them: BBOB's held-out functions, real scikit-learn models, YAHPO's surrogates
(HPO-B's are in `hpob_protocol`).  All are small descriptions, which are sent to other processes and built there.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from scipy import optimize
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems import bbob
from optformer.evaluate.optimization.tuning import maximizes, objective_values, random_trials

VARIANTS: Final = ("plain", "noisy", "mixed")
"""Variants of a BBOB function: continuous; with noise; two thirds of the parameters integer or categorical."""

NOISE: Final = 0.1
"""Standard deviation of the noise, as a share of half the distance between the 16th and 84th percentile of values."""

_RANDOM_POINTS: Final = {"bbob": 1000, "yahpo": 1000, "sklearn": 50}


@dataclasses.dataclass(frozen=True)
class Scale:
    """Scale that converts objective values to regret, in the problem's own units.

    Attributes:
      reference: median of random points: regret 1.
      best: the best value known before any optimizer ran: regret 0, unless one of them finds a better one.
    """

    reference: float
    best: float


class BenchmarkProblem(Protocol):
    """A problem to compare optimizers on; hashable, and may be sent to another process."""

    @property
    def family(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def conditional(self) -> bool: ...

    def experimenter(self, seed: int) -> experimenters.Experimenter:
        """The experimenter; `seed` is the seed of its noise."""

    def first_trials(self, experimenter: experimenters.Experimenter, count: int, seed: int) -> list[vz.Trial]:
        """Completed first trials that every optimizer gets; the same for the same seed."""

    def judged(self, trials: Sequence[vz.Trial]) -> np.ndarray:
        """float64 [T], the objective without noise; NaN for infeasible trials."""

    def scale(self) -> Scale:
        """Scale of the regret.  Not cached; takes up to a minute for some problems."""


class RandomStart:
    """Base class of problems whose first trials are random."""

    def first_trials(self, experimenter: experimenters.Experimenter, count: int, seed: int) -> list[vz.Trial]:
        return random_trials(experimenter, count, seed)


# --- BBOB ---


@dataclasses.dataclass(frozen=True)
class BBOBProblem(RandomStart):
    """One of BBOB's functions, shifted and rotated.

    Attributes:
      function: name of the function.
      dimension: D.
      variant: one of `VARIANTS`.
      instance: seed of shift and rotation.
    """

    function: str
    dimension: int
    variant: str = "plain"
    instance: int = 0

    family = "bbob"
    conditional = False

    @property
    def name(self) -> str:
        return f"{self.function} {self.dimension}d {self.variant}" + (f" {self.instance}" if self.instance else "")

    def experimenter(self, seed: int) -> "_BBOBExperimenter":
        return _BBOBExperimenter(self, _noise(self) if self.variant == "noisy" else 0.0, seed)

    def judged(self, trials: Sequence[vz.Trial]) -> np.ndarray:
        exact = _BBOBExperimenter(self, 0.0, 0)
        return np.array([np.nan if trial.infeasible else exact.value(trial.parameters.as_dict()) for trial in trials])

    def scale(self) -> Scale:
        exact = _BBOBExperimenter(self, 0.0, 0)
        values = _random_values(exact, _RANDOM_POINTS["bbob"])
        start = (exact.function._shift + bbob.BOUND) / (2 * bbob.BOUND)
        # Starts at the shift, where most of the functions have their minimum.
        found = optimize.differential_evolution(
            exact.value_of_unit, [(0.0, 1.0)] * self.dimension, x0=np.clip(start, 0, 1), seed=0, maxiter=150, tol=1e-8
        )
        return Scale(float(np.median(values)), min(float(found.fun), exact.value_of_unit(start), float(values.min())))


class _BBOBExperimenter(experimenters.Experimenter):
    def __init__(self, problem: BBOBProblem, noise: float, seed: int):
        self.problem, self.noise = problem, noise
        self.function = bbob.BBOBExperimenter(problem.function, problem.dimension, problem.instance)
        self._rng = np.random.default_rng([seed, 3])
        kinds = np.random.default_rng([problem.instance, problem.dimension, 5])
        self.levels = [0] * problem.dimension
        if problem.variant == "mixed":
            # Alternating, so that every mixed problem with two or more parameters has two kinds.
            self.levels = [0 if d % 3 == 0 else int(kinds.integers(3, 9)) for d in range(problem.dimension)]

    def problem_statement(self) -> vz.ProblemStatement:
        statement = vz.ProblemStatement()
        root = statement.search_space.root
        for d, levels in enumerate(self.levels):
            if not levels:
                root.add_float_param(f"x{d}", -bbob.BOUND, bbob.BOUND)
            elif d % 3 == 1:
                root.add_int_param(f"x{d}", 0, levels - 1)
            else:
                root.add_categorical_param(f"x{d}", [chr(ord("a") + level) for level in range(levels)])
        statement.metric_information.append(vz.MetricInformation(bbob.METRIC, goal=vz.ObjectiveMetricGoal.MINIMIZE))
        return statement

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        for trial in suggestions:
            value = self.value(trial.parameters.as_dict()) + self.noise * float(self._rng.normal())
            trial.complete(vz.Measurement(metrics={bbob.METRIC: value}))

    def value(self, parameters: Mapping[str, float | int | str]) -> float:
        """The value without noise."""
        return self.function.value(
            np.array([self._coordinate(d, parameters[f"x{d}"]) for d in range(len(self.levels))])
        )

    def value_of_unit(self, unit: np.ndarray) -> float:
        """The value without noise at a point of the unit cube, rounded to levels of integers and categories."""
        clipped = np.clip(unit, 0.0, 1.0)
        rounded = [
            round(u * (levels - 1)) / (levels - 1) if levels else u
            for u, levels in zip(clipped, self.levels, strict=True)
        ]
        return self.function.value(bbob.BOUND * (2 * np.array(rounded) - 1))

    def _coordinate(self, d: int, value: Any) -> float:
        levels = self.levels[d]
        if not levels:
            return float(value)
        level = int(value) if d % 3 == 1 else ord(value) - ord("a")
        return bbob.BOUND * (2 * level / (levels - 1) - 1)


@functools.cache
def _noise(problem: BBOBProblem) -> float:
    values = _random_values(_BBOBExperimenter(problem, 0.0, 0), 256)
    return NOISE * float(np.subtract(*np.quantile(values, [0.84, 0.16]))) / 2


def _random_values(exact: _BBOBExperimenter, count: int) -> np.ndarray:
    points = np.random.default_rng(7).uniform(0.0, 1.0, (count, exact.problem.dimension))
    return np.array([exact.value_of_unit(point) for point in points])


# --- scikit-learn ---


@dataclasses.dataclass(frozen=True)
class SklearnProblem(RandomStart):
    """A model and a data set of scikit-learn, cross-validated."""

    task: str

    family = "sklearn"
    conditional = False

    @property
    def name(self) -> str:
        return self.task

    def experimenter(self, seed: int) -> experimenters.Experimenter:
        return _sklearn(self.task)

    def judged(self, trials: Sequence[vz.Trial]) -> np.ndarray:
        return objective_values(_sklearn(self.task).problem_statement(), trials)

    def scale(self) -> Scale:
        return _scale_of_random_points(_sklearn(self.task), _RANDOM_POINTS["sklearn"])


@functools.lru_cache(maxsize=4)
def _sklearn(task: str) -> experimenters.Experimenter:
    from optformer.data.problems.sklearn import SklearnExperimenter

    return SklearnExperimenter(task)


# --- YAHPO ---


@dataclasses.dataclass(frozen=True)
class YahpoProblem(RandomStart):
    """An instance of a YAHPO scenario; its first metric at full fidelity."""

    folder: Path
    instance: str
    conditional: bool = False

    family = "yahpo"

    @property
    def name(self) -> str:
        return f"{self.folder.name} {self.instance}"

    def experimenter(self, seed: int) -> experimenters.Experimenter:
        from optformer.data.problems.yahpo import YahpoExperimenter, load_scenario

        return YahpoExperimenter(load_scenario(self.folder), self.instance)

    def judged(self, trials: Sequence[vz.Trial]) -> np.ndarray:
        return objective_values(self.experimenter(0).problem_statement(), trials)

    def scale(self) -> Scale:
        return _scale_of_random_points(self.experimenter(0), _RANDOM_POINTS["yahpo"])


def _scale_of_random_points(experimenter: experimenters.Experimenter, count: int) -> Scale:
    problem = experimenter.problem_statement()
    values = objective_values(problem, random_trials(experimenter, count, seed=10_000))
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError(f"none of {count} random points is feasible, so the regret has no scale")
    return Scale(float(np.median(values)), float(values.max() if maximizes(problem) else values.min()))


# --- Suites ---


def bbob_suite(per_function: int) -> list[BenchmarkProblem]:
    """The five held-out functions, each in `per_function` of the settings below."""
    settings = [(2, "plain"), (4, "noisy"), (6, "mixed"), (8, "plain"), (20, "plain"), (12, "mixed")]
    return [
        BBOBProblem(function, max(dimension, bbob.least_dimension(function)), variant)
        for index, function in enumerate(bbob.HELD_OUT)
        for dimension, variant in (settings[(index + turn) % len(settings)] for turn in range(per_function))
    ]


def sklearn_suite(count: int) -> list[BenchmarkProblem]:
    """The first `count` held-out pairs."""
    from optformer.data.problems.sklearn import HELD_OUT

    return [SklearnProblem(task) for task in HELD_OUT[:count]]


def yahpo_suite(folder: str, per_scenario: int, *, training: bool = False) -> list[YahpoProblem]:
    """`per_scenario` held-out instances of every scenario in a folder, chosen by a hash of their names.

    With `training`, instances that are not held out, for choosing settings.

    Raises:
      ValueError: the folder has no scenario.
    """
    from optformer.data.problems.yahpo import held_out, load_scenario, scenarios

    found: list[YahpoProblem] = []
    for name in scenarios(folder):
        path = Path(folder).resolve() / name
        scenario = load_scenario(path)
        # In the order of a hash, since neighbours in the original order may be similar.
        kept = [instance for instance in scenario.instances if held_out(name, str(instance)) != training]
        instances = [instance for instance in kept if scenario.tuned_metrics(instance)]
        ordered = sorted(instances, key=lambda each: hashlib.sha256(str(each).encode()).digest())
        conditional = scenario.search_space().is_conditional
        found += [YahpoProblem(path, instance, conditional) for instance in ordered[:per_scenario]]
    return found
