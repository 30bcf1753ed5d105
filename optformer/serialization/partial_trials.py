"""Intermediate values of a trial: an extra slot says how much of the trial's budget was left at each report.

    step 3 of 12: level(3 / 12) = 200 of the slot's 1000 levels, with the value that was reported there

A report of a stopped or running trial is written as a separate trial with the same parameters.  Level 0 is the end of
the budget, which finished trials and candidates have, so that the model predicts final values.  The scale is
logarithmic: each halving of the used share is a tenth of the scale, and a 1024th or less is its end.

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
"""Used shares of the budget below 1 / SPAN count as none."""

MOST_REPORTS: Final = 8
"""Most reports kept per trial: the newest, and others at about equal distances on the slot's scale."""


def clause() -> list[int]:
    """Metadata of the slot: `<reserved_1> <double>`, ids that user text cannot produce."""
    vocabulary = Vocabulary.default()
    return [vocabulary.keyword("reserved_1"), vocabulary.keyword("double")]


def level(share: "Float[np.ndarray, ' report'] | float") -> Int32[np.ndarray, " report"]:
    """The slot's level for a used share of the budget: 0 for shares of at least 1, else at least 1."""
    share = np.asarray(share, np.float64)
    with np.errstate(divide="ignore"):
        left = -np.log(np.clip(share, 1.0 / SPAN, 1.0)) / math.log(SPAN)
    levels = 1 + np.rint((LEVELS - 2) * left)
    return np.where(share >= 1.0, 0, levels).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Reports:
    """The reports of one trial, in order of time.

    Attributes:
      levels: int32 [R], descending, at least 1, even for a report at the end of the budget.
      values: float64 [R], finite, larger is better.
    """

    levels: Int32[np.ndarray, " report"]
    values: Float[np.ndarray, " report"]

    def __len__(self) -> int:
        return len(self.levels)


def reports_of(trial: "vz.Trial", metric: str) -> dict[int, float]:
    """Step -> reported value of a metric; numbered by their order if the measurements have no steps."""
    reports = [measurement for measurement in trial.measurements if metric in measurement.metrics]
    steps = [int(measurement.steps) for measurement in reports]
    if len(set(steps)) < len(steps) or steps == [0]:
        steps = list(range(1, len(reports) + 1))
    return {step: measurement.metrics[metric].value for step, measurement in zip(steps, reports, strict=True)}


def counted(curves: Iterable[Iterable[int]]) -> tuple[int, int]:
    """The number of the first step, 0 or 1, and the budget in steps, at least 1, given the steps of every trial."""
    every = [step for steps in curves for step in steps]
    first = 0 if every and min(every) == 0 else 1
    return first, max(max(every, default=0) + 1 - first, 1)


def of_study(curves: Sequence[Mapping[int, float]], sign: float = 1.0) -> list[Reports]:
    """At most `MOST_REPORTS` reports of each trial.

    The budget is the largest step of any trial.  If any trial reports a step 0, steps are counted from 0.

    Args:
      curves: per trial, step -> value; values that are not finite, and negative steps, are ignored.
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
    """Ascending indices of at most `most` reports: the last one, and others at about equal distances."""
    if len(levels) <= most:
        return np.arange(len(levels))
    wanted = np.linspace(levels[0], levels[-1], most)[:-1]
    nearest = np.abs(levels[None, :] - wanted[:, None]).argmin(axis=1)
    return np.unique(np.append(nearest, len(levels) - 1))


def with_budget(row: StudyRow, left: Int[np.ndarray, " trial"]) -> StudyRow:
    """Adds the slot of the budget to a study, with these levels of its trials."""
    return with_slots(row, np.asarray(left)[:, None], KIND, LEVELS, clause())
