"""BBOB functions as problems to tune, split as in the 2022 paper: f(R (x - s)) on [-5, 5]^D.

Notation: D dimensions, s in [-4, 4]^D the shift, R a random rotation.

The functions are those of Vizier's benchmarks (Hansen et al. 2009, "Real-parameter black-box optimization benchmarking
2009: noiseless functions definitions"), which draw R from their seed; some of them are separable and ignore it.
"""

import importlib.util
import math
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

HELD_OUT: Final = ("LinearSlope", "RosenbrockRotated", "SumOfPowers", "GriewankRosenbrock", "Lunacek")
"""The test functions of Chen et al. 2022, appendix C.1: never trained or tuned on."""

TRAIN: Final = (
    "Sphere",
    "EllipsoidSeparable",
    "RastriginSeparable",
    "BuecheRastrigin",
    "AttractiveSector",
    "StepEllipsoid",
    "Discus",
    "BentCigar",
    "SharpRidge",
    "Weierstrass",
    "SchaffersF7",
    "SchaffersF7IllConditioned",
    "Schwefel",
    "Gallagher21",
    "Gallagher101",
    "Katsuura",
)

_VIZIER_NAMES: Final = {
    "SumOfPowers": "DifferentPowers",
    "EllipsoidSeparable": "Ellipsoidal",
    "RastriginSeparable": "Rastrigin",
    "StepEllipsoid": "StepEllipsoidal",
    "Gallagher21": "Gallagher21Me",
    "Gallagher101": "Gallagher101Me",
}
"""The paper's name -> Vizier's name, where they differ."""

_TWO_AT_LEAST: Final = frozenset(
    {
        "RosenbrockRotated",
        "GriewankRosenbrock",
        "Lunacek",
        "SchaffersF7",
        "SchaffersF7IllConditioned",
        "Katsuura",
    }
)
"""Functions that are constant or not defined in one dimension."""

BOUND: Final = 5.0
SHIFT: Final = 4.0
METRIC: Final = "bbob_eval"


def least_dimension(name: str) -> int:
    """The smallest dimension in which a function is defined and not constant: 1 or 2."""
    return 2 if name in _TWO_AT_LEAST else 1


def _vizier_functions() -> types.ModuleType:
    """A private copy of Vizier's module, in which `float` and `math` also take arrays of one element.

    The functions call them on such arrays, which numpy 2.4 does not accept.  The shared module is not modified.
    """
    spec = importlib.util.find_spec("vizier._src.benchmarks.experimenters.synthetic.bbob")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("this version of google-vizier has no BBOB functions where they were expected")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def scalar(value: object) -> object:
        return value.item() if isinstance(value, np.ndarray) else value

    def taking_arrays(function: Callable[..., object]) -> Callable[..., object]:
        return lambda *arguments: function(*map(scalar, arguments))

    functions = {name: taking_arrays(member) if callable(member) else member for name, member in vars(math).items()}
    namespace: Any = module
    namespace.float = taking_arrays(float)
    namespace.math = types.SimpleNamespace(**functions)
    return namespace


_FUNCTIONS: Final = _vizier_functions()


class BBOBExperimenter(experimenters.Experimenter):
    """One BBOB function, shifted and rotated at random; to be minimized.

    Args:
      name: one of `TRAIN` and `HELD_OUT`.
      dimension: D, 1 to 20 in the paper.
      seed: seed of shift and rotation, at least 0.

    Raises:
      ValueError: an unknown name, or too few dimensions for the function.
    """

    def __init__(self, name: str, dimension: int, seed: int):
        if name not in TRAIN + HELD_OUT:
            raise ValueError(f"unknown BBOB function {name!r}; known: {', '.join(TRAIN + HELD_OUT)}")
        if dimension < least_dimension(name):
            raise ValueError(
                f"BBOB function {name} needs at least {least_dimension(name)} dimensions, not {dimension}."
            )
        self.name = name
        self.dimension = dimension
        rng = np.random.default_rng([seed, dimension])
        self._shift = rng.uniform(-SHIFT, SHIFT, dimension)
        # Vizier interprets 0 as "no rotation".
        self._rotation_seed = int(rng.integers(1, 2**31))
        self._function = getattr(_FUNCTIONS, _VIZIER_NAMES.get(name, name))

    def problem_statement(self) -> vz.ProblemStatement:
        problem = vz.ProblemStatement()
        for d in range(self.dimension):
            problem.search_space.root.add_float_param(f"x{d}", -BOUND, BOUND)
        problem.metric_information.append(vz.MetricInformation(METRIC, goal=vz.ObjectiveMetricGoal.MINIMIZE))
        return problem

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial with its function value."""
        for trial in suggestions:
            x = np.array([trial.parameters[f"x{d}"].value for d in range(self.dimension)], dtype=float)
            trial.complete(vz.Measurement(metrics={METRIC: self.value(x)}))

    def value(self, x: np.ndarray) -> float:
        """The function at x [D]."""
        # A copy, because some of the functions reshape their argument in place.
        return float(self._function(np.array(x - self._shift, dtype=float), seed=self._rotation_seed))
