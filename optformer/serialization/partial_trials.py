"""Values that a trial reported on its way: one more slot says how much of the trial's budget was left then.

    step 3 of 12: level(3 / 12) = 200 of the slot's 1000 levels, with the value that was reported there

A value of a stopped or running trial is written as a trial of its own, with the same parameters.  Level 0 is the end of
the budget: finished trials have it, and every candidate, so that the model predicts what a trial will come to.  The
scale is logarithmic: half of the budget is a tenth of it, and a 1024th or less is all of it.

Notation, for one study: T trials, R reports of a trial.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int, Int32

from optformer.serialization import tokens
from optformer.serialization.batch import StudyRow
from optformer.serialization.further_slots import with_slots
from optformer.serialization.vocabulary import Vocabulary

if TYPE_CHECKING:
    from vizier import pyvizier as vz

KIND: Final = tokens.CONTINUOUS
LEVELS: Final = tokens.NUM_LEVELS
SPAN: Final = 1024.0
"""One share of the budget in so many is the least that is told apart from none."""

MOST_REPORTS: Final = 8
"""Of one trial, that are kept: the newest, and others at about equal distances on the slot's scale."""


def clause() -> list[int]:
    """Metadata of the slot: `<reserved_1> <double>`.  No text of a user gives these ids."""
    vocabulary = Vocabulary.default()
    return [vocabulary.keyword("reserved_1"), vocabulary.keyword("double")]


def level(share: "Float[np.ndarray, ' report'] | float") -> Int32[np.ndarray, " report"]:
    """The slot's level where a share of the budget is used: 0 from 1 on, else at least 1."""
    share = np.asarray(share, np.float64)
    with np.errstate(divide="ignore"):
        left = -np.log(np.clip(share, 1.0 / SPAN, 1.0)) / math.log(SPAN)
    levels = 1 + np.rint((LEVELS - 2) * left)
    return np.where(share >= 1.0, 0, levels).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Reports:
    """What one trial reported, in the order of time.

    Attributes:
      levels: int32 [R], descending, from 1 on; a report at the end of the budget has level 1.
      values: float64 [R], finite, larger is better.
    """

    levels: Int32[np.ndarray, " report"]
    values: Float[np.ndarray, " report"]

    def __len__(self) -> int:
        return len(self.levels)


def reports_of(trial: "vz.Trial", metric: str) -> dict[int, float]:
    """Step -> value of what a trial reported of a metric; by their order where steps are not told."""
    told = [measurement for measurement in trial.measurements if metric in measurement.metrics]
    steps = [int(measurement.steps) for measurement in told]
    if len(set(steps)) < len(steps) or steps == [0]:
        steps = list(range(1, len(told) + 1))
    return {step: measurement.metrics[metric].value for step, measurement in zip(steps, told, strict=True)}


def counted(curves: Iterable[Iterable[int]]) -> tuple[int, int]:
    """The step that is counted first, 0 or 1, and the budget in steps, at least 1; of the steps of every trial."""
    every = [step for steps in curves for step in steps]
    first = 0 if every and min(every) == 0 else 1
    return first, max(max(every, default=0) + 1 - first, 1)


def of_study(curves: Sequence[Mapping[int, float]], sign: float = 1.0) -> list[Reports]:
    """At most `MOST_REPORTS` reports of each trial.

    The budget is the largest step of any trial.  Where a trial reports a step 0, steps are counted from 0.

    Args:
      curves: step -> value; values that are not finite, and steps below 0, are left out.
      sign: -1 if small values are good.
    """
    steps = [[step for step, value in curve.items() if step >= 0 and math.isfinite(value)] for curve in curves]
    counted_from, budget = counted(steps)
    found = []
    for curve, own in zip(curves, steps, strict=True):
        own.sort()
        levels = np.maximum(level((np.array(own, np.float64) + 1 - counted_from) / budget), 1)
        kept = spread(levels, MOST_REPORTS)
        values = np.array([curve[own[place]] for place in kept.tolist()], np.float64)
        found.append(Reports(levels[kept].astype(np.int32), sign * values))
    return found


def spread(levels: Int[np.ndarray, " report"], most: int) -> Int[np.ndarray, " kept"]:
    """Ascending indices of at most `most` reports: the last one, and those that are nearest to equal distances."""
    if len(levels) <= most:
        return np.arange(len(levels))
    wanted = np.linspace(levels[0], levels[-1], most)[:-1]
    nearest = np.abs(levels[None, :] - wanted[:, None]).argmin(axis=1)
    return np.unique(np.append(nearest, len(levels) - 1))


def with_budget(row: StudyRow, left: Int[np.ndarray, " trial"]) -> StudyRow:
    """The study with the slot, where its trials have these levels."""
    return with_slots(row, np.asarray(left)[:, None], KIND, LEVELS, clause())
