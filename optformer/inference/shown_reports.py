"""Selects the reports of stopped, running and finished trials that the model reads.

Each stopped or running trial contributes its last report.  Finished trials contribute a report at about the same level
of the budget, from which the model can relate reports to final values.  The running trial whose final value is to be
predicted also contributes some earlier reports.

Notation: T trials, R reports of a trial.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from optformer.serialization.partial_trials import Reports

EARLIER: Final = 3
"""Number of earlier reports of the trial whose final value is to be predicted."""


class Shown(NamedTuple):
    """The selected reports.

    Attributes:
      trials: int [E], indices of their trials.
      levels: int32 [E], levels of the remaining budget.
      values: float64 [E], larger is better.
    """

    trials: Int[np.ndarray, " report"]
    levels: Int32[np.ndarray, " report"]
    values: Float[np.ndarray, " report"]


def shown_reports(
    reports: Sequence[Reports],
    open_ended: Bool[np.ndarray, " trial"],
    finished: Bool[np.ndarray, " trial"],
    most: int,
    asked: int | None = None,
) -> Shown:
    """At most `most` reports, in the order of their trials.

    Args:
      reports: the reports of every trial.
      open_ended: bool [T], trials without a final value that have not failed.
      finished: bool [T], trials with a final value.
      most: largest number of reports.
      asked: index of the trial whose final value is to be predicted.
    """
    has_reports = np.array([len(each) > 0 for each in reports], bool)
    unfinished = np.flatnonzero(open_ended & has_reports)
    if not len(unfinished) or most < 1:
        return Shown(np.zeros(0, int), np.zeros(0, np.int32), np.zeros(0))
    last = {trial: len(reports[trial]) - 1 for trial in unfinished.tolist()}
    chosen: list[tuple[int, int]] = []
    if asked in last:
        own = reports[asked].levels
        wanted = own[-1] + (1 + np.arange(EARLIER)) * (own[0] - own[-1]) / EARLIER
        before = {int(np.abs(own[:-1] - level).argmin()) for level in wanted} if len(own) > 1 else set()
        chosen += [(asked, last.pop(asked)), *((asked, place) for place in sorted(before, reverse=True))]
        level = own[-1]
    else:
        level = np.median([reports[trial].levels[place] for trial, place in last.items()])
    # The newest first: half of the room for open-ended trials, half for finished ones.
    of_unfinished = [(trial, place) for trial, place in reversed(last.items())]
    of_finished = [
        (trial, int(np.abs(reports[trial].levels - level).argmin()))
        for trial in np.flatnonzero(finished & has_reports)[::-1]
    ]
    room = max(most - len(chosen), 0)
    count = min(len(of_finished), max(room // 2, room - len(of_unfinished)))
    chosen += of_unfinished[: room - count] + of_finished[:count]
    chosen = sorted(chosen[:most])
    return Shown(
        np.array([trial for trial, _ in chosen], int),
        np.array([reports[trial].levels[place] for trial, place in chosen], np.int32),
        np.array([reports[trial].values[place] for trial, place in chosen], np.float64),
    )
