"""The part of a study that the model reads: its scaled objective, a window of its trials, and the batch of both.

Notation: T trials, D slots; v an objective value, larger is better.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from optformer.inference.compiled import slots_bucket, text_bucket, trials_bucket
from optformer.inference.shown_reports import shown_reports
from optformer.serialization.batch import BatchShape, StudyBatch, StudyRow, blank_batch, write_row
from optformer.serialization.objective import Scaling, in_good_ranges, objective_tokens
from optformer.serialization.study import EncodedStudy
from optformer.serialization.tokens import MISSING


class Reported(NamedTuple):
    """Intermediate values of E reports.

    Attributes:
      x_tokens: int32 [E, D], parameters of the trials that reported.
      y_tokens: int32 [E], bins.
      left: int32 [E], levels of the remaining budget.
      stopped: indices of the stopped trials among them.
    """

    x_tokens: Int32[np.ndarray, "report slot"]
    y_tokens: Int32[np.ndarray, " report"]
    left: Int32[np.ndarray, " report"]
    stopped: np.ndarray

    @classmethod
    def none(cls, study: EncodedStudy) -> "Reported":
        return cls(study.x_tokens[:0], np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, int))


@dataclasses.dataclass(frozen=True)
class Objective:
    """One objective of a study on the model's scale: a metric (also a safety metric), or a scalarization of several.

    Attributes:
      values: float64 [T], larger is better, NaN where unknown.
      y_tokens: int32 [T], bins or statuses.
      shown: int [W], ascending indices of the trials that the model reads; the scaling is fitted on these.
      scaling: scaling of `values`.
      reported: intermediate values of stopped and running trials, and of finished ones for comparison.
      incumbent: best known u among these trials, clipped to 1 to ignore an isolated outlier; 0 if there is none.
      metric: index of the metric whose name the model reads.
    """

    values: Float[np.ndarray, " trial"]
    y_tokens: Int32[np.ndarray, " trial"]
    shown: np.ndarray
    scaling: Scaling
    reported: "Reported"
    incumbent: float
    metric: int

    @classmethod
    def of(
        cls,
        study: EncodedStudy,
        values: Float[np.ndarray, " trial"],
        metric: int,
        limit: int,
        shown: np.ndarray | None = None,
        reports: int = 0,
        asked: int | None = None,
    ) -> "Objective":
        """
        Args:
          study: the study.
          values: float64 [T], larger is better, NaN where unknown.
          metric: index of the metric whose name the model reads.
          limit: largest number of trials that the model reads.
          shown: int [W], indices of the trials to read, instead of the best and newest ones.
          reports: largest number of intermediate values that the model reads.
          asked: index of the trial whose final value is to be predicted.
        """
        known = np.isfinite(values)
        selected = None
        if reports:
            selected = shown_reports(study.reports(metric), study.open_ended & ~known, known, reports, asked)
        stopped = np.zeros(len(values), bool)
        if selected is not None:
            stopped[selected.trials] = True
            stopped &= ~known & ~study.pending
        if shown is None:
            others = np.flatnonzero(~stopped)
            shown = others[window(np.where(study.holds, values, np.nan)[others], study.pending[others], limit)]
        is_shown = np.zeros(len(values), bool)
        is_shown[shown] = True
        intermediate = np.zeros(0) if selected is None else selected.values
        count = len(intermediate)
        tokens_of_all, scaling, _ = objective_tokens(
            np.concatenate([intermediate, values]),
            np.concatenate([np.full(count, MISSING), study.statuses]),
            np.concatenate([np.ones(count, bool), is_shown]),
            np.arange(count + len(values)) >= count,
        )
        y_tokens = tokens_of_all[count:]
        scaling = Scaling(float(scaling.center), float(scaling.scale))
        reported = (
            Reported.none(study)
            if selected is None
            else Reported(
                study.x_tokens[selected.trials], tokens_of_all[:count], selected.levels, np.flatnonzero(stopped)
            )
        )
        best = values[shown][known[shown]].max(initial=-np.inf)
        incumbent = min(float(in_good_ranges(best, scaling)), 1.0) if np.isfinite(best) else 0.0
        return cls(values, y_tokens, shown, scaling, reported, incumbent, metric)

    @property
    def finite(self) -> int:
        """Number of trials with a known value; the last report of a stopped trial counts."""
        return int(np.isfinite(self.values).sum()) + len(self.reported.stopped)


def window(values: Float[np.ndarray, " trial"], pending: np.ndarray, limit: int) -> np.ndarray:
    """Ascending indices of at most `limit` trials: the pending ones; of the rest, a third the best, the others the
    newest.

    Pending trials leave at least half of the places to finished ones.  The newest pending trials are kept.

    Args:
      values: float64 [T], larger is better, NaN where unknown.
      pending: bool [T].
      limit: largest number of trials.
    """
    if len(values) <= limit:
        return np.arange(len(values))
    finished, running = np.flatnonzero(~pending), np.flatnonzero(pending)
    room = max(limit - len(running), min(len(finished), (limit + 1) // 2))
    running = running[max(len(running) + room - limit, 0) :]
    ranked = finished[np.argsort(-np.where(np.isfinite(values[finished]), values[finished], -np.inf), kind="stable")]
    best = ranked[: room // 3]
    newest = finished[~np.isin(finished, best)][::-1][: room - len(best)]
    return np.sort(np.concatenate([running, best, newest]))


def history_batch(row: StudyRow) -> StudyBatch:
    """One study for `model.encode`, padded to bucketed sizes."""
    trials, slots = row.x_tokens.shape
    shape = BatchShape(trials_bucket(trials), slots_bucket(slots), text_bucket(len(row.text_tokens)), policy_trials=1)
    batch = blank_batch(1, shape)
    write_row(batch, 0, row)
    return batch
