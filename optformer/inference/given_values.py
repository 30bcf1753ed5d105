"""Suggestions some of whose values are given: the search chooses the others to go with them."""

import numpy as np

from optformer.inference.candidates import as_genotypes
from optformer.inference.history import Objective
from optformer.inference.search import Search
from optformer.serialization import tokens
from optformer.serialization.space import Configuration


class SearchAround(Search):
    """A search that has no other values for some parameters than those given."""

    def hold(self, given: Configuration) -> None:
        """Sets these values (their levels); to be called before the first proposal.

        Raises:
          ValueError: naming the parameter that is unknown, or whose value is outside the space.
        """
        schema = self.study.schema
        (row,) = schema.encode([given])
        canonical = self._space.canonical.copy()
        held = row < schema.slot_levels
        for slot in schema.slots:
            if not held[slot.index]:
                continue
            canonical[slot.index] = canonical[slot.index, row[slot.index]]
            # Parents that are not given: values under which this one is active.
            while slot.parent >= 0 and row[slot.parent] == tokens.MISSING:
                left = canonical[slot.parent]
                left[~np.isin(left, slot.parent_levels)] = slot.parent_levels[0]
                slot = schema.slots[slot.parent]
        # Every candidate is made canonical, so it has the one level that is left.
        self._space = self._space._replace(canonical=canonical)
        self._alike = (self.study.x_tokens[:, held] == row[held]).all(axis=1)

    def _to_beat(self, focus: Objective) -> np.ndarray:
        """The trials with these values.

        The best of all trials may be out of reach with these values, and every candidate would then be as bad.
        """
        known = super()._to_beat(focus)
        return known[self._alike[known]]

    def _good_trials(self, focus: Objective, rng: np.random.Generator) -> np.ndarray:
        """The good trials with these values before all others."""
        good = super()._good_trials(focus, rng)
        known = np.flatnonzero(np.isfinite(focus.values) & self._alike)
        best = known[np.argsort(-focus.values[known], kind="stable")][:16]
        if not len(best):
            return good
        return np.concatenate([as_genotypes(rng, self.study.x_tokens[best], self._space), good])[:16]
