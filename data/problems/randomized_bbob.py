"""BBOB functions with random dimension, shift, rotation, parameter types and noise, as in the 2022 paper.

Chen et al. 2022, appendix C.1, and Hansen et al. 2009, "Real-parameter black-box optimization benchmarking 2009: noisy
functions definitions".
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems.bbob import BOUND, METRIC, BBOBExperimenter, least_dimension

QUIET: Final = "NO_NOISE"

NOISES: Final = (
    QUIET,
    "MODERATE_GAUSSIAN",
    "SEVERE_GAUSSIAN",
    "MODERATE_UNIFORM",
    "SEVERE_UNIFORM",
    "MODERATE_SELDOM_CAUCHY",
    "SEVERE_SELDOM_CAUCHY",
    "LIGHT_ADDITIVE_GAUSSIAN",
    "MODERATE_ADDITIVE_GAUSSIAN",
    "SEVERE_ADDITIVE_GAUSSIAN",
)
"""Kinds of noise of Vizier's `NoisyExperimenter`."""

KINDS: Final = ("continuous", "discrete", "categorical")
LEVELS: Final = (2, 8)
"""Smallest and largest number of values of a discrete or categorical parameter, which are evenly spaced."""

LARGEST: Final = 20
"""Largest number of dimensions."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The random choices of a problem, except shift and rotation.

    Attributes:
      dimension: D.
      levels: [D], number of values of each parameter; 0 if it is continuous.
      categorical: [D], whether the values are unordered.
      noise: one of `NOISES`.
    """

    dimension: int
    levels: tuple[int, ...]
    categorical: tuple[bool, ...]
    noise: str


def draw_layout(name: str, seed: int, largest: int = LARGEST, noise_rate: float | None = None) -> Layout:
    """Draws a layout: dimension uniform up to `largest`, the type of each parameter uniform on `KINDS`.

    Noise is uniform on `NOISES`, as in the paper.  With a `noise_rate`, this share of layouts has noise, with a uniform
    kind among the noisy ones.
    """
    rng = np.random.default_rng([seed, 11])
    dimension = int(rng.integers(least_dimension(name), largest + 1))
    kinds = rng.integers(len(KINDS), size=dimension)
    levels = rng.integers(LEVELS[0], LEVELS[1] + 1, size=dimension)
    noise = NOISES[int(rng.integers(len(NOISES)))]
    if noise_rate is not None:
        noisy = [kind for kind in NOISES if kind != QUIET]
        noise = noisy[int(rng.integers(len(noisy)))] if rng.random() < noise_rate else QUIET
    return Layout(
        dimension,
        tuple(0 if kind == 0 else int(count) for kind, count in zip(kinds, levels, strict=True)),
        tuple(bool(kind == 2) for kind in kinds),
        noise,
    )


class RandomizedBBOB(experimenters.Experimenter):
    """One BBOB function with a layout drawn from a seed; to be maximized, as in the paper."""

    def __init__(self, name: str, seed: int, layout: Layout | None = None):
        """
        Args:
          name: one of `bbob.TRAIN` and `bbob.HELD_OUT`.
          seed: seed of all random choices, at least 0.
          layout: replaces the layout drawn from the seed.

        Raises:
          ValueError: as in `BBOBExperimenter`.
        """
        self.name, self.layout = name, layout or draw_layout(name, seed)
        self._function = BBOBExperimenter(name, self.layout.dimension, seed)
        noisy: Any = experimenters.NoisyExperimenter
        # Noise is defined for values to minimize whose optimum is 0.
        self._noisy = noisy.from_type(_Values(self._function), self.layout.noise, seed=seed)

    def problem_statement(self) -> vz.ProblemStatement:
        problem = vz.ProblemStatement()
        root = problem.search_space.root
        for d in range(self.layout.dimension):
            points = self._points(d)
            if points is None:
                root.add_float_param(f"x{d}", -BOUND, BOUND)
            elif self.layout.categorical[d]:
                root.add_categorical_param(f"x{d}", list(points))
            else:
                root.add_discrete_param(f"x{d}", list(points.values()))
        problem.metric_information.append(vz.MetricInformation(METRIC, goal=vz.ObjectiveMetricGoal.MAXIMIZE))
        return problem

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial with the negative of its noisy function value."""
        for trial in suggestions:
            x = np.array([self._number(d, trial.parameters[f"x{d}"].value) for d in range(self.layout.dimension)])
            value = self._noisy.noise_fn(self._function.value(x))
            trial.complete(vz.Measurement(metrics={METRIC: -float(value)}))

    def _points(self, d: int) -> dict[str, float] | None:
        count = self.layout.levels[d]
        return {repr(float(p)): float(p) for p in np.linspace(-BOUND, BOUND, count)} if count else None

    def _number(self, d: int, value: Any) -> float:
        points = self._points(d)
        return points[value] if points is not None and self.layout.categorical[d] else float(value)


class _Values(experimenters.Experimenter):
    """Provides the dimension, which is all that `NoisyExperimenter` needs."""

    def __init__(self, function: BBOBExperimenter):
        self._function = function

    def problem_statement(self) -> vz.ProblemStatement:
        return self._function.problem_statement()

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        self._function.evaluate(suggestions)
