"""What stopped trials would have come to, told by their reports and by trials that went on.

    final_values([({1: 0.9, 2: 0.5}, 0.3), ({1: 1.2}, None)], minimize=True)     # [0.3, 0.6]

Reports of different steps cannot be compared, so a stopped trial is compared at each of its last steps with the trials
that went on from its very last one.  A line through these (value at that step, final value) predicts its final value;
of the steps, those from which the finished trials are predicted closely have the most weight.  So noise is averaged.

    slope        the median over pairs of trials (Theil and Sen), beside some slopes of 1, which count as long as there
                 are few pairs.  Where early values say little it is near 0, and the prediction is what the others came
                 to; where curves cross it is negative.
    intercept    the median of what then remains, so one outlier moves neither.

The last to be stopped are predicted first, and then stand beside the finished ones: trials that were stopped later are
the worse half of those that went on, and without them the line would be drawn through the better half alone.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

_USUAL: Final = 3
"""Slopes of 1 beside those of the trials."""

_COMPARED: Final = 100
"""Trials, the newest, that a stopped one is compared with."""

_READ: Final = 4
"""Reports of a stopped trial, the newest, that are read."""


def final_values(trials: Sequence[tuple[Mapping[int, float], float | None]], *, minimize: bool) -> list[float | None]:
    """The final value of each trial, predicted where there is none.

    A prediction is never better than the best final value that was seen.

    Args:
      trials: in the order of time, reports (step -> value; those that are not finite are passed over) and the final
        value, None for a stopped trial.
      minimize: whether small values are good.

    Returns:
      Per trial its final value as given, or a prediction; None for a stopped trial without a finite report.
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
        """The newest value by then."""
        count = bisect.bisect_right(self.steps, step)
        return self.values[count - 1] if count else None


class _Line(NamedTuple):
    slope: float
    intercept: float
    deviation: float
    """The median distance of the trials from it."""


class _Lines:
    """Final values over early ones, a line for each step."""

    def __init__(self, others: Sequence[tuple[_Curve, float]], last: int):
        self._others = [(curve, final) for curve, final in others if curve.at(last) is not None][-_COMPARED:]
        self._known: dict[int, _Line | None] = {}

    def predicted(self, curve: _Curve) -> float:
        """The final value of a stopped trial."""
        steps, values = curve.steps[-_READ:], np.array(curve.values[-_READ:])
        lines = [line for step in steps if (line := self._at(step))]
        if not lines:  # nobody went on
            return curve.values[-1]
        # Steps that the others had not come to are the first ones.
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
