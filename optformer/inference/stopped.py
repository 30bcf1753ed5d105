"""Extrapolates the final values of stopped trials from their reports and from trials that went on.

    final_values([({1: 0.9, 2: 0.5}, 0.3), ({1: 1.2}, None)], minimize=True)     # [0.3, 0.6]

Reports at different steps cannot be compared.  So a stopped trial is compared, at each of its last steps, with the
trials that continued beyond its last step.  A line through their points (value at that step, final value) predicts its
final value.  The predictions from several steps are averaged, which reduces noise; steps at which the line fits the
other trials closely have more weight.

    slope        the median of the slopes of pairs of trials (Theil and Sen), together with a few slopes of 1, which
                 matter as long as there are few pairs.  If early values say little, the slope is near 0, and the
                 prediction is a typical final value; if curves cross, it is negative.
    intercept    the median residual.  One outlier changes neither.

The trials with the most steps are predicted first, and then count as finished: at each step, the trials that continued
include them, and without them the line would be fitted to the better trials only.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

_USUAL: Final = 3
"""Number of slopes of 1 added to those of the pairs of trials."""

_COMPARED: Final = 100
"""A stopped trial is compared with the newest trials, at most this many."""

_READ: Final = 4
"""The newest reports of a stopped trial are used, at most this many."""


def final_values(trials: Sequence[tuple[Mapping[int, float], float | None]], *, minimize: bool) -> list[float | None]:
    """The final value of each trial, predicted for stopped ones.

    A prediction is never better than the best observed final value.

    Args:
      trials: in order of time, pairs of reports (step -> value; values that are not finite are ignored) and the final
        value, which is None for a stopped trial.
      minimize: whether small values are good.

    Returns:
      Per trial, its final value as given, or a prediction; None for a stopped trial without a finite report.
    """
    curves = [_Curve(reports) for reports, _ in trials]
    finals = [final for _, final in trials]
    seen = [final for final in finals if final is not None and math.isfinite(final)]
    best = (min(seen) if minimize else max(seen)) if seen else None
    stopped = [index for index, final in enumerate(finals) if final is None and curves[index].steps]
    known = {index: final for index, final in enumerate(finals) if final is not None and math.isfinite(final)}
    for step in sorted({curves[index].steps[-1] for index in stopped}, reverse=True):
        here = [index for index in stopped if curves[index].steps[-1] == step]
        lines = _Lines([(curves[index], final) for index, final in sorted(known.items())], step)
        for index in here:
            value = lines.predicted(curves[index])
            if best is not None:
                value = max(value, best) if minimize else min(value, best)
            finals[index] = known[index] = value
    return finals


class _Curve:
    """Finite reports in the order of their steps."""

    def __init__(self, reports: Mapping[int, float]):
        self.steps = sorted(step for step, value in reports.items() if math.isfinite(value))
        self.values = [float(reports[step]) for step in self.steps]

    def at(self, step: int) -> float | None:
        """The newest value at or before the step; None if there is none."""
        count = bisect.bisect_right(self.steps, step)
        return self.values[count - 1] if count else None


class _Line(NamedTuple):
    slope: float
    intercept: float
    deviation: float
    """Median absolute residual."""


class _Lines:
    """Lines from early values to final values, one for each step."""

    def __init__(self, others: Sequence[tuple[_Curve, float]], last: int):
        self._others = [(curve, final) for curve, final in others if curve.at(last) is not None][-_COMPARED:]
        self._known: dict[int, _Line | None] = {}

    def predicted(self, curve: _Curve) -> float:
        """The final value of a stopped trial."""
        steps, values = curve.steps[-_READ:], np.array(curve.values[-_READ:])
        lines = [line for step in steps if (line := self._at(step))]
        if not lines:  # no trial continued
            return curve.values[-1]
        # Only the first steps can lack a line, because the others had not reported yet.
        slope, intercept, deviation = np.array(lines, np.float64).T
        least = max(float(deviation.max()) * 1e-3, np.finfo(np.float64).tiny)
        with np.errstate(over="ignore", invalid="ignore"):
            predictions = intercept + slope * values[-len(lines) :]
            value = float(np.average(predictions, weights=(least / np.maximum(deviation, least)) ** 2))
        return value if math.isfinite(value) else curve.values[-1]

    def _at(self, step: int) -> _Line | None:
        if step not in self._known:
            pairs = [(early, final) for curve, final in self._others if (early := curve.at(step)) is not None]
            self._known[step] = _line(pairs) if pairs else None
        return self._known[step]


def _line(pairs: Sequence[tuple[float, float]]) -> _Line:
    early, late = np.array(pairs, np.float64).T
    first, second = np.triu_indices(len(early), 1)
    with np.errstate(over="ignore", invalid="ignore"):
        run, rise = early[second] - early[first], late[second] - late[first]
        slopes = rise[run != 0] / run[run != 0]
        slope = float(np.median(np.concatenate([slopes, np.ones(_USUAL)])))
        rest = late - slope * early
        intercept = float(np.median(rest))
        return _Line(slope, intercept, float(np.median(np.abs(rest - intercept))))
