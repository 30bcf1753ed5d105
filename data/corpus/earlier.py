"""Draws earlier studies for a logged study: others with the same search space and metric.

Notation: B studies, T trials, D slots, K earlier studies, E of their trials.
"""

import numpy as np

from optformer.data.corpus.store import Field, Record, Store
from optformer.serialization import tokens
from optformer.serialization.objective import objective_tokens
from optformer.serialization.prior_studies import PriorTrials

FEWEST_TRIALS = 3
"""Smallest number of trials of an earlier study."""

SMALLEST_SHARE, LARGEST_SHARE = 1 / 8, 3 / 4
"""Range of the share of earlier trials among all trials; the share is uniform."""

_SPREAD_RATE = 0.5
"""Share of earlier studies whose trials are selected as when suggesting; those of the others are selected at random."""

_UNMATCHED_RATE = 0.2
"""Share of earlier studies that lack some parameters, as if the search space had changed."""


class Relatives:
    """Finds the records of a corpus that have the same search space and metric as another."""

    def __init__(self, store: Store, records: np.ndarray):
        """`records`: numbers of the records that may be drawn."""
        self._store = store
        columns = store.columns
        studies = columns["record_studies"]
        groups = columns["study_groups"][studies]
        spaces: dict[bytes, dict[int, list[int]]] = {}
        self._space_of: dict[int, dict[int, list[int]]] = {}
        for number in records.tolist():
            same = spaces.setdefault(self._space(int(studies[number])) + self._metric(number), {})
            same.setdefault(int(groups[number]), []).append(number)
            self._space_of[number] = same
        self._groups = groups

    def draw(self, rng: np.random.Generator, number: int, count: int) -> list[int]:
        """Draws up to `count` other records with the same space and metric, from as many different groups as
        possible."""
        same = self._space_of[number]
        others = [group for group in same if group != self._groups[number]]
        chosen = [others[index] for index in rng.permutation(len(others))[:count]]
        found = [same[group][int(rng.integers(len(same[group])))] for group in chosen]
        own = [each for each in same[int(self._groups[number])] if each != number]
        while len(found) < count and own:
            found.append(own.pop(int(rng.integers(len(own)))))
        return found

    def _space(self, study: int) -> bytes:
        columns = self._store.columns
        first, last = columns["slot_offsets"][study : study + 2]
        slots = int(last - first)
        clauses = int(columns["first_clauses"][study]) + int(Field.NAMES | Field.RANGES) * slots
        start, end = columns["segment_offsets"][[clauses, clauses + slots]]
        fields = [columns[name][first:last] for name in ("slot_kinds", "slot_levels", "slot_parents")]
        return b"".join(field.tobytes() for field in [*fields, columns["text_tokens"][start:end]])

    def _metric(self, number: int) -> bytes:
        segment = int(self._store.columns["headers"][number, Field.METRIC])
        start, end = self._store.columns["segment_offsets"][segment : segment + 2]
        text: bytes = self._store.columns["text_tokens"][start:end].tobytes()
        return text


def draw_earlier(
    rng: np.random.Generator, records: list[Record], room: int, flipped: bool, flip_rate: float
) -> list[PriorTrials]:
    """Draws trials of earlier studies; studies without a value are left out.

    Args:
      rng: random generator.
      records: records with the same search space.
      room: E, number of trials of all of them together.
      flipped: whether the objective of the current study is negated.
      flip_rate: probability that an earlier study has the opposite sign of the current one, so that it misleads.
    """
    found = []
    for record in records:
        values = -record.values if flipped != (rng.random() < flip_rate) else record.values
        ended = np.flatnonzero(np.isfinite(values) | (record.statuses == tokens.INFEASIBLE))
        count = room // len(records)
        spread = rng.random() < _SPREAD_RATE
        if not spread and len(ended) > count:
            ended = np.sort(rng.choice(ended, count, replace=False))
        if not np.isfinite(values[ended]).any():
            continue
        x_tokens = record.x_tokens[ended].astype(np.int32)
        if rng.random() < _UNMATCHED_RATE:
            lacking = rng.random(x_tokens.shape[1]) < rng.uniform(0.0, 0.5)
            x_tokens[:, lacking] = np.where(x_tokens[:, lacking] == tokens.INACTIVE, tokens.INACTIVE, tokens.MISSING)
        y_tokens = objective_tokens(values[ended], record.statuses[ended], np.ones(len(ended), bool)).tokens
        found.append(PriorTrials(x_tokens, y_tokens).some(count, record.levels))
    return found
