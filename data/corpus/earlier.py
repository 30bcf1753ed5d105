"""Earlier studies for studies of a corpus: others of the same search space and metric.

Notation: B studies, T trials, D slots, K earlier studies, E of their trials.
"""

import numpy as np

from optformer.data.corpus.store import Field, Record, Store
from optformer.serialization import tokens
from optformer.serialization.objective import objective_tokens
from optformer.serialization.prior_studies import PriorTrials

FEWEST_TRIALS = 3
"""Of an earlier study for which there is room."""

SMALLEST_SHARE, LARGEST_SHARE = 1 / 8, 3 / 4
"""Between these, uniform, is the share of earlier trials among all that are shown."""

_SPREAD_RATE = 0.5
"""Share of earlier studies of which the trials are shown that would be shown in suggesting; of the others, any."""

_UNMATCHED_RATE = 0.2
"""Share of earlier studies that lack some parameters, as a search space that changed between the two does."""


class Relatives:
    """Which records of a corpus have the same search space and the same metric."""

    def __init__(self, store: Store, records: np.ndarray):
        """`records`: numbers of those that may be shown."""
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
        """Up to `count` other records of the same space and metric, of as many other groups as there are."""
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
    """What is shown of earlier studies; those without a value are left out.

    Args:
      records: of the same search space.
      room: E, for all of them together.
      flipped: whether the study at hand has its objective negated.
      flip_rate: probability that one of them is negated beside it, so that it misleads.
    """
    found = []
    for record in records:
        values = -record.values if flipped != (rng.random() < flip_rate) else record.values
        told = np.flatnonzero(np.isfinite(values) | (record.statuses == tokens.INFEASIBLE))
        count = room // len(records)
        spread = rng.random() < _SPREAD_RATE
        if not spread and len(told) > count:
            told = np.sort(rng.choice(told, count, replace=False))
        if not np.isfinite(values[told]).any():
            continue
        x_tokens = record.x_tokens[told].astype(np.int32)
        if rng.random() < _UNMATCHED_RATE:
            lacking = rng.random(x_tokens.shape[1]) < rng.uniform(0.0, 0.5)
            x_tokens[:, lacking] = np.where(x_tokens[:, lacking] == tokens.INACTIVE, tokens.INACTIVE, tokens.MISSING)
        y_tokens = objective_tokens(values[told], record.statuses[told], np.ones(len(told), bool)).tokens
        found.append(PriorTrials(x_tokens, y_tokens).some(count, record.levels))
    return found
