"""What is known of a study when a suggestion is asked for: its slots, its trials as tokens, its objective's scale.

Notation: T trials, D slots, M objective metrics, S text tokens; v an objective value, larger is better.
"""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32
from vizier import pyvizier as vz

from optformer.inference.candidates import SlotSpace
from optformer.inference.compiled import slots_bucket, text_bucket, trials_bucket
from optformer.serialization import objective, tokens
from optformer.serialization.batch import StudyBatch
from optformer.serialization.metadata import MetadataOptions, metadata_segments, tokenize
from optformer.serialization.objective import Scaling
from optformer.serialization.space import StudySchema


class StudyInput:
    """A problem and its trials, encoded once for everything that is asked about them.

    Attributes:
      schema: slots of the search space.
      trials: as given.
      rows: int32 [T, D], parameter tokens.
      values: float64 [T, M], larger is better, NaN where unknown.
      statuses: int32 [T], OBSERVED or the status token.

    Raises:
      ValueError: naming study, trial and parameter; see `StudySchema`.  Also if the problem has no objective metric.
    """

    def __init__(self, problem: vz.ProblemStatement, trials: Sequence[vz.Trial]):
        self.schema = StudySchema(problem)
        if not self.schema.metrics:
            raise ValueError(f"study {self.schema.study!r}: no objective metric; add one to problem.metric_information")
        self.trials = list(trials)
        self.rows = self.schema.encode(self.trials)
        self.values, self.statuses = self.schema.objectives(self.trials)
        self._texts: dict[tuple[str | None, int], dict[str, np.ndarray]] = {}

    def first(self, count: int) -> "StudyInput":
        """As it was when it had `count` trials."""
        earlier = copy.copy(self)
        earlier.trials = self.trials[:count]
        earlier.rows, earlier.values, earlier.statuses = self.rows[:count], self.values[:count], self.statuses[:count]
        return earlier

    @functools.cached_property
    def space(self) -> SlotSpace:
        """The search space as candidates see it."""
        return slot_space(self.schema)

    @property
    def pending(self) -> np.ndarray:
        """bool [T]."""
        return self.statuses == tokens.PENDING

    def metric_index(self, name: str | None) -> int:
        """Index of an objective metric; without a name there must be only one.

        Raises:
          ValueError: no such metric, or several and none named.
        """
        names = [metric.name for metric in self.schema.metrics]
        if name is None and len(names) == 1:
            return 0
        if name not in names:
            asked = "several objectives" if name is None else f"no objective {name!r}"
            raise ValueError(f"study {self.schema.study!r}: {asked}; name one of {', '.join(map(repr, names))}")
        return names.index(name)

    def sign(self, metric: int) -> float:
        """-1 if the metric is minimised: user value = sign * v."""
        return -1.0 if self.schema.metrics[metric].goal.is_minimize else 1.0

    def text(self, algorithm: str | None, metric: int) -> dict[str, np.ndarray]:
        """The metadata's fields of `StudyBatch`, without the batch axis."""
        known = self._texts.get((algorithm, metric))
        if known is None:
            # Without the goal: minimising f and maximising -f are then the same study, token for token.
            options = MetadataOptions(goal=False)
            known = tokenize(metadata_segments(self.schema, algorithm, options, objective=metric))._asdict()
            self._texts[algorithm, metric] = known
        return known


def slot_space(schema: StudySchema) -> SlotSpace:
    """Slots without names or values: where their levels lie on their own scale, and which levels share a value."""
    positions, canonical = [], {}
    for slot in schema.slots:
        values = slot.values
        if len(set(values)) < len(values):
            canonical[slot.index], _ = slot.quantizer.encode(values)
        logarithmic = slot.kind == tokens.INTEGER and slot.scale == vz.ScaleType.LOG and values[0] > 0
        if logarithmic and len(values) == values[-1] - values[0] + 1:
            # By index: the levels of every other kind are evenly spaced on their scale already.
            positions.append(np.log(np.asarray(values, float) / values[0]) / np.log(values[-1] / values[0]))
        else:
            positions.append(None)
    return SlotSpace.from_legality(schema.slot_kinds, schema.legality, positions, canonical)


def default_row(schema: StudySchema) -> tuple[Int32[np.ndarray, " slot"], Bool[np.ndarray, " slot"]] | None:
    """The declared default values, with the middle level where none is declared, and which are declared; None if none.

    Raises:
      ValueError: a default value outside its parameter's range.
    """
    declared = np.array([slot.config.default_value is not None for slot in schema.slots], bool)
    if not declared.any():
        return None
    row = schema.slot_levels // 2
    for slot in schema.slots:
        default = slot.config.default_value
        if default is None:
            continue
        levels, bad = slot.quantizer.encode([default])
        if bad[0]:
            raise ValueError(
                f"study {schema.study!r}, parameter {slot.path!r}: default value: {slot.quantizer.complaint(default)}"
            )
        row[slot.index] = levels[0]
    return row.astype(np.int32), declared


@dataclasses.dataclass(frozen=True)
class Objective:
    """One objective of a study on the model's scale: a metric, or a scalarization of several.

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
    def of(cls, study: StudyInput, values: Float[np.ndarray, " trial"], metric: int, limit: int) -> "Objective":
        """`limit`: most trials that the model is shown."""
        known = np.isfinite(values)
        shown = window(values, study.pending, limit)
        scaling = objective.fit(values[shown], known[shown])
        scaling = Scaling(float(scaling.center), float(scaling.scale))
        bins = objective.to_bins(np.where(known, values, 0.0), scaling)
        statuses = np.where(study.statuses < 0, tokens.MISSING, study.statuses)
        best = values[shown][known[shown]].max(initial=-np.inf)
        incumbent = min((best - scaling.center) / scaling.scale, 1.0) if np.isfinite(best) else 0.0
        return cls(values, np.where(known, bins, statuses).astype(np.int32), shown, scaling, incumbent, metric)

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


def history_batch(
    study: StudyInput,
    text: dict[str, np.ndarray],
    rows: Int32[np.ndarray, "trial slot"],
    y_tokens: Int32[np.ndarray, " trial"],
    order_free: bool,
    orders: int = 1,
) -> StudyBatch:
    """One study for `model.encode`, all of its trials known together, padded to bucketed sizes.

    With `orders` > 1 it is there as often, each time with other identities of its slots.
    """
    count, slots = rows.shape
    padded_trials, padded_slots = trials_bucket(count), slots_bucket(slots)
    length = len(text["text_tokens"])

    def padded(array: Any, shape: tuple[int, ...], fill: int = 0, dtype: Any = np.int32) -> np.ndarray:
        result = np.full((1, *shape), fill, dtype)
        array = np.asarray(array)
        result[0][tuple(slice(size) for size in array.shape)] = array
        return result

    text_shape = (text_bucket(length),)
    batch = StudyBatch(
        text_tokens=padded(text["text_tokens"], text_shape),
        text_segments=padded(text["text_segments"], text_shape, fill=-1),
        text_positions=padded(text["text_positions"], text_shape),
        slot_kinds=padded(study.schema.slot_kinds, (padded_slots,)),
        slot_levels=padded(study.schema.slot_levels, (padded_slots,)),
        slot_identities=padded(np.arange(slots) % tokens.NUM_SLOT_IDENTITIES, (padded_slots,)),
        x_tokens=padded(rows, (padded_trials, padded_slots), fill=tokens.PAD),
        y_tokens=padded(y_tokens, (padded_trials,), fill=tokens.PAD),
        trial_mask=padded(np.ones(count, bool), (padded_trials,), dtype=bool),
        prefix_length=np.array([count], np.int32),
        order_free=np.array([order_free]),
        function_weights=np.zeros((1, padded_trials), np.float32),
        # Policy loss and its trials matter in training only.
        policy_trials=np.zeros((1, 1), np.int32),
        policy_weights=np.zeros((1, 1, padded_slots), np.float32),
    )
    if orders == 1:
        return batch
    repeated = StudyBatch(*(np.repeat(field, orders, axis=0) for field in batch))
    repeated.slot_identities[1:, :slots] = slot_identities(orders - 1, slots)
    return repeated


def slot_identities(orders: int, slots: int) -> Int32[np.ndarray, "order slot"]:
    """Random identities, the same each time: a model has learned to read a study under any."""
    rng = np.random.default_rng(0)
    columns = np.arange(slots) % tokens.NUM_SLOT_IDENTITIES
    return np.stack([rng.permutation(tokens.NUM_SLOT_IDENTITIES)[columns] for _ in range(orders)]).astype(np.int32)
