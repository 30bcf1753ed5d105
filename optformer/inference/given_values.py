"""Suggestions with some values fixed by the caller: the search chooses the other values to fit."""

import numpy as np

from optformer.inference.candidates import as_genotypes
from optformer.inference.history import Objective
from optformer.inference.search import Search
from optformer.serialization import tokens
from optformer.serialization.space import Configuration


class SearchAround(Search):
    """A search in which some parameters can only take the given value."""

    def hold(self, given: Configuration) -> None:
        """Fixes these values (rounded to levels).  Call before the first proposal.

        Raises:
          ValueError: a parameter is unknown or its value is outside the space; the message names it.
        """
        schema = self.study.schema
        (row,) = schema.encode([given])
        canonical = self._space.canonical.copy()
        held = row < schema.slot_levels
        for slot in schema.slots:
            if not held[slot.index]:
                continue
            canonical[slot.index] = canonical[slot.index, row[slot.index]]
            # Parents without a given value get one under which this parameter is active.
            while slot.parent >= 0 and row[slot.parent] == tokens.MISSING:
                left = canonical[slot.parent]
                left[~np.isin(left, slot.parent_levels)] = slot.parent_levels[0]
                slot = schema.slots[slot.parent]
        # Making a candidate canonical maps every level to the one that is left.
        self._space = self._space._replace(canonical=canonical)
        self._alike = (self.study.x_tokens[:, held] == row[held]).all(axis=1)

    def _to_beat(self, focus: Objective) -> np.ndarray:
        """The trials with the given values.

        The best of all trials may be out of reach with these values; then no candidate could improve on it.
        """
        known = super()._to_beat(focus)
        return known[self._alike[known]]

    def _good_trials(self, focus: Objective, rng: np.random.Generator) -> np.ndarray:
        """The good trials, those with the given values first."""
        good = super()._good_trials(focus, rng)
        known = np.flatnonzero(np.isfinite(focus.values) & self._alike)
        best = known[np.argsort(-focus.values[known], kind="stable")][:16]
        if not len(best):
            return good
        return np.concatenate([as_genotypes(rng, self.study.x_tokens[best], self._space), good])[:16]
