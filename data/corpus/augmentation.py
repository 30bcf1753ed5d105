"""Augmentation of logged studies: which trials are used, the order of slots, and the fields of the metadata.

Notation, for one record: N of the logged trials are used, at most T, n0 the known prefix, D slots, S text tokens.
"""

import dataclasses

import numpy as np

from optformer.data.corpus.store import Field, Store


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Rates of the augmentations.

    Attributes:
      drop_names, drop_ranges: share of records that lose the names, or the bounds and values, of all parameters.
      drop_title, drop_description, drop_algorithm, drop_metric: share that lose this part of the header.
      drop_goal: share whose header omits the goal, as it does when suggestions are requested.
      flip_goal: share whose objective and goal are negated.  The trials of these do not train the policy, since the
        optimizer sought what is now the worst.
      permute_slots: whether parameters get a random order, parents before children.
      order_free_rate: share whose prefix carries no order.
      prefix_power: n0 = 2 + floor((N - 2) * u ** prefix_power), u uniform: above 1 favours short prefixes.
      single_prefix_rate: share with a single known trial.
      blind_rate: share without a known trial, from which a model learns to suggest the first trials.
      earlier_rate: share with trials of up to four other studies of the same search space and metric before their own.
      flip_earlier: share of those other studies whose objective is negated, so that they mislead.
      earlier_blind_rate: as `blind_rate`, for studies with trials of others.
      partial_rate: share, among studies with learning curves, in which trials are stopped and reports are included.
      pending_rate: share in which some known trials are marked as still running.
      partial_policy_weight: policy loss weight if the trials used are not the first ones of the study, so that the
        optimizer knew more than the model sees.
    """

    drop_names: float = 0.3
    drop_ranges: float = 0.3
    drop_title: float = 0.5
    drop_description: float = 0.5
    drop_algorithm: float = 0.5
    drop_metric: float = 0.5
    drop_goal: float = 0.7
    flip_goal: float = 0.05
    permute_slots: bool = True
    order_free_rate: float = 0.5
    prefix_power: float = 1.5
    single_prefix_rate: float = 0.03
    blind_rate: float = 0.0
    earlier_rate: float = 0.0
    flip_earlier: float = 0.1
    earlier_blind_rate: float = 0.15
    partial_rate: float = 0.0
    pending_rate: float = 0.1
    partial_policy_weight: float = 0.5

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("prefix_power", "permute_slots") and not 0.0 <= value <= 1.0:
                raise ValueError(f"Augmentation.{field.name} is {value}; it must lie in [0, 1].")
        if self.prefix_power <= 0.0:
            raise ValueError(f"Augmentation.prefix_power is {self.prefix_power}; it must be positive.")


_FIRST, _WINDOW, _SUBSET = 0.4, 0.3, 0.3
"""Probabilities of the ways to cut a study to T trials: the first T, T consecutive ones, or any T in their order."""


def choose_trials(rng: np.random.Generator, logged: int, most: int) -> tuple[np.ndarray, bool]:
    """Indices of the trials to use, ascending, and whether they are the study's first ones."""
    if logged <= most:
        return np.arange(logged), True
    how = rng.random()
    if how < _FIRST:
        return np.arange(most), True
    if how < _FIRST + _WINDOW:
        start = int(rng.integers(0, logged - most + 1))
        return np.arange(start, start + most), start == 0
    return np.sort(rng.choice(logged, most, replace=False)), False


def choose_prefix(rng: np.random.Generator, count: int, augmentation: Augmentation, earlier: bool = False) -> int:
    """Draws n0: 0 for a blind study, else at least 1, and at most N - 1 if there is more than one trial.

    `earlier`: whether trials of earlier studies are also known.
    """
    blind_rate = augmentation.earlier_blind_rate if earlier else augmentation.blind_rate
    # Nothing is drawn for a rate of 0, so that batches of older configs do not change.
    if blind_rate and rng.random() < blind_rate:
        return 0
    if rng.random() < augmentation.single_prefix_rate:
        return 1
    drawn = 2 + int((count - 2) * rng.random() ** augmentation.prefix_power)
    return min(drawn, max(count - 1, 1))


def order_slots(rng: np.random.Generator, parents: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """A random order in which every parent precedes its children; `order[k]` is the slot at position k."""
    if not augmentation.permute_slots:
        return np.arange(len(parents))
    priority = rng.random(len(parents))
    if (parents >= 0).any():
        for slot, parent in enumerate(parents.tolist()):
            if parent >= 0:
                # Parents come first in the record, so theirs is final.
                priority[slot] = priority[parent] + (1.0 - priority[parent]) * priority[slot]
    return np.argsort(priority, kind="stable")


_DROPPABLE = (
    (Field.NAMES, "drop_names"),
    (Field.RANGES, "drop_ranges"),
    (Field.TITLE, "drop_title"),
    (Field.DESCRIPTION, "drop_description"),
    (Field.ALGORITHM, "drop_algorithm"),
    (Field.METRIC, "drop_metric"),
)
_SHORTENING = (Field.DESCRIPTION, Field.RANGES, Field.NAMES, Field.TITLE, Field.METRIC, Field.ALGORITHM)
"""Fields that a text drops until it fits, in this order: the most tokens for the least information first."""


def choose_fields(rng: np.random.Generator, augmentation: Augmentation) -> int:
    """Draws the fields that are written, as bits of `Field`."""
    draws = rng.random(len(_DROPPABLE)).tolist()
    return sum(
        field for (field, rate), drawn in zip(_DROPPABLE, draws, strict=True) if drawn >= getattr(augmentation, rate)
    )


def choose_segments(
    store: Store, headers: np.ndarray, first_clause: int, order: np.ndarray, fields: int, text: int
) -> np.ndarray:
    """Segments of the metadata: the header, then the clauses in the order of the slots, at most S tokens in total.

    If the text does not fit, fields are dropped in a fixed order, then whole clauses, the last ones first.
    """
    offsets = store.columns["segment_offsets"]
    for dropped in (0, *_SHORTENING):
        fields &= ~dropped
        variant = fields & (Field.NAMES | Field.RANGES)
        segments = np.empty(len(order) + 1, np.int64)
        segments[0] = headers[fields]
        segments[1:] = first_clause + variant * len(order) + order
        ends = np.cumsum(offsets[segments + 1] - offsets[segments])
        if ends[-1] <= text:
            return segments
    return segments[: np.searchsorted(ends, text, side="right")]


def tokens_of(store: Store, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, segment numbers from 0 and positions within the segment."""
    offsets = store.columns["segment_offsets"]
    lengths = offsets[segments + 1] - offsets[segments]
    numbers = np.repeat(np.arange(len(segments)), lengths)
    positions = np.arange(len(numbers)) - (np.cumsum(lengths) - lengths)[numbers]
    return store.columns["text_tokens"][offsets[segments][numbers] + positions], numbers, positions
