"""Statistics that characterize the trajectories of an optimizer; a faithful imitation has the same values.

Notation: T trials, D slots; a row holds the levels of a trial's parameters.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from vizier import pyvizier as vz

from optformer.evaluate.optimization.tuning import maximizes, objective_values
from optformer.serialization import tokens
from optformer.serialization.space import StudySchema

POPULATION: Final = 25
"""Population size of regularized evolution."""

_GRID_POINTS: Final = 100
"""Number of grid points of a continuous parameter, as in the grids of the teachers."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """A trajectory, in the form that the statistics use.

    Attributes:
      rows: int [T, D], levels.
      levels: int [D], number of levels of each parameter.
      categorical: bool [D], whether each parameter is categorical.
      values: float64 [T], larger is better, -inf if infeasible.
    """

    rows: Int[np.ndarray, "trial slot"]
    levels: Int[np.ndarray, " slot"]
    categorical: np.ndarray
    values: Float[np.ndarray, " trial"]

    @classmethod
    def of(cls, study: vz.ProblemAndTrials) -> "Walk":
        """From a study with one objective and no conditional parameters."""
        schema = StudySchema(study.problem)
        values = objective_values(study.problem, study.trials) * (1.0 if maximizes(study.problem) else -1.0)
        kinds = np.asarray(schema.slot_kinds)
        return cls(
            schema.encode(study.trials),
            schema.slot_levels,
            kinds == tokens.CATEGORICAL,
            np.where(np.isfinite(values), values, -np.inf),
        )

    @property
    def unit(self) -> Float[np.ndarray, "trial slot"]:
        return self.rows / np.maximum(self.levels - 1, 1)

    def changed(self, row: int, others: Int[np.ndarray, "other slot"]) -> Int[np.ndarray, " other"]:
        """Number of parameters in which a trial differs from each other one; one level of a thousand does not count."""
        tolerance = np.where(self.levels == tokens.NUM_LEVELS, 1, 0)
        return np.asarray((np.abs(self.rows[row] - others) > tolerance).sum(axis=1))


def counting(walk: Walk) -> float:
    """Share of steps that count through a grid: one parameter goes up by a point, and faster ones start again.

    A parameter is faster if it moves more often.  The order of the parameters is not used, because the model does not
    know it: it is trained with parameters in random orders.
    """
    tolerance = np.where(walk.levels == tokens.NUM_LEVELS, 1, 0)
    speed = (np.abs(np.diff(walk.rows, axis=0)) > tolerance).sum(axis=0)
    order = np.argsort(-speed, kind="stable")
    rows, levels, tolerance = walk.rows[:, order], walk.levels[order], tolerance[order]
    steps = np.where(levels == tokens.NUM_LEVELS, (levels - 1) / (_GRID_POINTS - 1), 1.0)
    hits = 0
    for before, after in itertools.pairwise(rows):
        moved = np.abs(after - before) > tolerance
        if not moved.any():
            continue
        last = int(np.flatnonzero(moved)[-1])
        up = abs((after[last] - before[last]) - steps[last]) <= 1.5
        again = (np.abs(after[:last]) <= 1).all() and (before[:last] >= levels[:last] - 2).all()
        hits += bool(up and again)
    return hits / max(len(walk.rows) - 1, 1)


def from_incumbent(walk: Walk) -> float:
    """Share of trials (from the second on) that differ from the best one before them in at most one parameter."""
    hits = []
    for row in range(1, len(walk.rows)):
        best = int(np.argmax(walk.values[:row]))
        hits.append(walk.changed(row, walk.rows[best][None])[0] <= 1)
    return float(np.mean(hits))


def from_population(walk: Walk) -> float:
    """Share of trials (from the 26th on) that differ from one of the 25 before them in at most one parameter."""
    hits = [
        walk.changed(row, walk.rows[row - POPULATION : row]).min() <= 1 for row in range(POPULATION, len(walk.rows))
    ]
    return float(np.mean(hits)) if hits else float("nan")


def contraction(walk: Walk) -> float:
    """Mean distance to the best trial so far, in the second half of the trials, relative to that of random trials."""
    unit = walk.unit
    rng = np.random.default_rng(0)
    distances, random = [], []
    for row in range(len(unit) // 2, len(unit)):
        best = unit[int(np.argmax(walk.values[:row]))]
        distances.append(np.abs(unit[row] - best).mean())
        random.append(np.abs(rng.integers(walk.levels) / np.maximum(walk.levels - 1, 1) - best).mean())
    return float(np.mean(distances) / max(float(np.mean(random)), 1e-9))


def evenness(walk: Walk) -> float:
    """Kolmogorov-Smirnov distance of each parameter's levels from a uniform distribution, mean over parameters."""
    found = []
    for column, count in enumerate(walk.levels):
        shares = np.bincount(walk.rows[:, column], minlength=int(count)).cumsum() / len(walk.rows)
        found.append(np.abs(shares - np.arange(1, count + 1) / count).max())
    return float(np.mean(found))


COUNTS: Final[dict[str, Callable[[Walk], float]]] = {
    "counts through a grid": counting,
    "one parameter from the best": from_incumbent,
    "one parameter from the last 25": from_population,
    "distance to the best": contraction,
    "distance from uniform": evenness,
}


@dataclasses.dataclass(frozen=True)
class Count:
    """A statistic of the teacher's trajectories and of the model's: means and standard errors over trajectories."""

    teacher: float
    teacher_error: float
    model: float
    model_error: float


def compare(teacher: Sequence[vz.ProblemAndTrials], model: Sequence[vz.ProblemAndTrials]) -> dict[str, Count]:
    """All statistics of the teacher's trajectories and of the model's."""
    walks = [[Walk.of(study) for study in studies] for studies in (teacher, model)]
    found = {}
    for name, count in COUNTS.items():
        own, theirs = (np.array([count(walk) for walk in each]) for each in walks)
        own, theirs = own[np.isfinite(own)], theirs[np.isfinite(theirs)]
        if len(own) and len(theirs):
            found[name] = Count(*_mean_and_error(own), *_mean_and_error(theirs))
    return found


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return float(values.mean()), float(error)
