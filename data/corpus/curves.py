"""Learning curves of a logged study: draws which trials are stopped and which reports are used.

    known     trials with their final value, or stopped with their last report; further reports of both
    to come   the final value of stopped trials, final values of new trials, a few of their reports

Notation: T trials of the study, R reports of a trial, N rows that are used, n0 of them known; levels of the budget as
in `serialization.partial_trials`.
"""

import dataclasses

import numpy as np

from optformer.data.stopping import LOOSENESS, REPORT_RATE, RUNG_RATE, RUNGS, RUNNING_RATE, STOPPED, WORSE_RATE
from optformer.serialization import tokens
from optformer.serialization.partial_trials import Reports

FEWEST_TRIALS = 4
"""Smallest number of trials with reports in a study whose reports are used."""

_TRIALS_SHARE = (0.3, 0.9)
"""Range of the share of the rows that are trials; the others are reports."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a study.

    Attributes:
      trials: int [N], the trial of each row.
      left: int32 [N], level of the remaining budget.
      values: float64 [N], larger is better, NaN where there is none.
      statuses: int [N], the token where `values` is NaN.
      known: n0.
      new: bool [N], rows to predict that are a new trial, as an optimizer chose it.
    """

    trials: np.ndarray
    left: np.ndarray
    values: np.ndarray
    statuses: np.ndarray
    known: int
    new: np.ndarray


def trials_shown(rng: np.random.Generator, most: int) -> int:
    """Draws the number of trials of a study for `most` rows; the other rows are reports."""
    return max(2, int(most * rng.uniform(*_TRIALS_SHARE)))


def draw_rows(
    rng: np.random.Generator,
    values: np.ndarray,
    statuses: np.ndarray,
    reports: list[Reports],
    known: int,
    most: int,
) -> Rows:
    """Draws the rows of a study whose first `known` trials are known.

    Args:
      rng: random generator.
      values, statuses: [T], as in `Rows`.
      reports: the reports of each trial.
      known: number of known trials, 0 or more.
      most: largest number of rows.
    """
    rungs = _rungs(rng, reports)
    stopped = _stopped(rng, values, statuses, reports[:known], rungs)
    # For each known trial, the index of its last used report; for a finished trial, the number of its reports.
    ends = [_end(rng, reports[trial], rungs) if stopped[trial] else len(reports[trial]) for trial in range(known)]
    first: list[tuple[int, int | None]] = [(trial, ends[trial] if stopped[trial] else None) for trial in range(known)]
    further = [(trial, place) for trial in range(known) for place in _before(rng, reports[trial], ends[trial], rungs)]
    room = max(0, min(len(further), most - known - 1))
    first += [further[place] for place in rng.permutation(len(further))[: int(rng.integers(0, room + 1))]]

    running = [trial for trial in range(known) if stopped[trial] and np.isfinite(values[trial])]
    running = [running[place] for place in rng.permutation(len(running))]
    new = list(range(known, len(values)))
    later: list[tuple[int, int | None]] = []
    while len(first) + len(later) < most and (running or new):
        trial = running.pop() if running and (not new or rng.random() < RUNNING_RATE) else new.pop(0)
        start = ends[trial] + 1 if trial < known else 0
        later.append((trial, _report_to_come(rng, reports[trial], start, np.isfinite(values[trial]))))

    shown = first + later
    places = np.array([trial for trial, _ in shown], int)
    left = np.array([0 if place is None else reports[trial].levels[place] for trial, place in shown], np.int32)
    found = [values[trial] if place is None else reports[trial].values[place] for trial, place in shown]
    return Rows(
        trials=places,
        left=left,
        values=np.array(found, np.float64),
        statuses=np.where(left > 0, tokens.MISSING, statuses[places]),
        known=len(first),
        new=(np.arange(len(shown)) >= len(first)) & (places >= known) & (left == 0),
    )


def _rungs(rng: np.random.Generator, reports: list[Reports]) -> np.ndarray | None:
    """Draws the levels at which trials are stopped; None: any level."""
    every = np.concatenate([each.levels for each in reports])
    return rng.choice(every, RUNGS) if len(every) and rng.random() < RUNG_RATE else None


def _stopped(
    rng: np.random.Generator,
    values: np.ndarray,
    statuses: np.ndarray,
    reports: list[Reports],
    rungs: np.ndarray | None,
) -> np.ndarray:
    """Draws the stopped trials, bool [known]: those without a final value, and some of the others."""
    has_reports = np.array([len(each) > 0 for each in reports], bool)
    observed = np.isfinite(values[: len(reports)])
    ended = has_reports & (statuses[: len(reports)] == tokens.MISSING) & ~observed
    free = np.flatnonzero(has_reports & observed)
    count = int(len(free) * rng.uniform(*STOPPED))
    if rng.random() < WORSE_RATE:
        early = [reports[trial].values[_end(rng, reports[trial], rungs)] for trial in free.tolist()]
        order = np.argsort(np.argsort(early, kind="stable")) + rng.normal(size=len(free)) * LOOSENESS * len(free)
        free = free[np.argsort(order)]
    else:
        free = rng.permutation(free)
    ended[free[:count]] = True
    return ended


def _end(rng: np.random.Generator, reports: Reports, rungs: np.ndarray | None) -> int:
    """Draws the index of the report after which a trial is stopped."""
    if rungs is None:
        return int(rng.integers(len(reports)))
    return int(np.abs(reports.levels - rungs[int(rng.integers(len(rungs)))]).argmin())


def _before(rng: np.random.Generator, reports: Reports, end: int, rungs: np.ndarray | None) -> list[int]:
    """Indices of the reports before `end` that may also be used."""
    if rungs is None or end == 0:
        return list(range(end))
    return sorted({int(np.abs(reports.levels[:end] - rung).argmin()) for rung in rungs})


def _report_to_come(rng: np.random.Generator, reports: Reports, start: int, finished: bool) -> int | None:
    """Draws the index of the report to predict, or None for the final value."""
    if start < len(reports) and (not finished or rng.random() < REPORT_RATE):
        return int(rng.integers(start, len(reports)))
    return None
