"""What the model is shown of a study: its objective on the model's scale, a window of its trials, the batch it reads.

Notation: T trials, D slots; v an objective value, larger is better.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int32

from optformer.inference.compiled import slots_bucket, text_bucket, trials_bucket
from optformer.serialization.batch import BatchShape, StudyBatch, StudyRow, blank_batch, write_row
from optformer.serialization.objective import Scaling, in_good_ranges, objective_tokens
from optformer.serialization.study import EncodedStudy


@dataclasses.dataclass(frozen=True)
class Objective:
    """One objective of a study on the model's scale: a metric (also a safety metric), or a scalarization of several.

    Attributes:
      values: float64 [T], larger is better, NaN where unknown.
      y_tokens: int32 [T], bins or statuses.
      shown: int [W], ascending indices of the trials the model is shown; the scaling is fitted on these.
      scaling: of `values`.
      incumbent: best known u among those shown, at most 1 (an isolated outlier beyond is no yardstick); 0 if none.
      metric: the metric named to the model.
    """

    values: Float[np.ndarray, " trial"]
    y_tokens: Int32[np.ndarray, " trial"]
    shown: np.ndarray
    scaling: Scaling
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
    ) -> "Objective":
        """
        Args:
          study: whose trials have these values.
          values: larger is better, NaN where unknown.
          metric: named to the model.
          limit: most trials that the model is shown.
          shown: these trials instead.
        """
        known = np.isfinite(values)
        if shown is None:
            shown = window(np.where(study.holds, values, np.nan), study.pending, limit)
        is_shown = np.zeros(len(values), bool)
        is_shown[shown] = True
        y_tokens, scaling, _ = objective_tokens(values, study.statuses, is_shown)
        scaling = Scaling(float(scaling.center), float(scaling.scale))
        best = values[shown][known[shown]].max(initial=-np.inf)
        incumbent = min(float(in_good_ranges(best, scaling)), 1.0) if np.isfinite(best) else 0.0
        return cls(values, y_tokens, shown, scaling, incumbent, metric)

    @property
    def finite(self) -> int:
        """Trials with a known value."""
        return int(np.isfinite(self.values).sum())


def window(values: Float[np.ndarray, " trial"], pending: np.ndarray, limit: int) -> np.ndarray:
    """Ascending indices of at most `limit` trials: all pending ones, a third of the rest the best, then the newest."""
    if len(values) <= limit:
        return np.arange(len(values))
    running = np.flatnonzero(pending)[-limit:]
    room = limit - len(running)
    finished = np.flatnonzero(~pending)
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
