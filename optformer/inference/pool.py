"""The candidates of one proposal that have been scored.

Notation: N candidates, D slots, V = 1004 outputs.
"""

import numpy as np

from optformer.inference.candidates import Candidates, new_ones


class Pool:
    """The candidates scored so far, without duplicates and without taken configurations."""

    def __init__(self, taken: np.ndarray):
        """`taken`: configurations [N, D] that must not be proposed again."""
        self._taken = taken
        self._candidates = Candidates(taken[:0], taken[:0])
        self._values = np.zeros(0)
        self._logits: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._candidates)

    def fresh(self, candidates: Candidates) -> Candidates:
        """The candidates that are neither taken nor scored yet, without duplicates."""
        return candidates[new_ones(candidates.rows, np.concatenate([self._taken, self._candidates.rows]))]

    def add(self, candidates: Candidates, values: np.ndarray, logits: np.ndarray) -> None:
        self._candidates += candidates
        self._values = np.concatenate([self._values, np.where(np.isfinite(values), values, -np.inf)])
        self._logits += list(logits)

    def best(self, count: int) -> np.ndarray:
        """Genotypes of the `count` highest values, the best first."""
        return self._candidates.genotypes[np.argsort(-self._values, kind="stable")[:count]]

    def winner(self) -> tuple[np.ndarray, float, np.ndarray]:
        """Configuration [D], value and logits [V] of the highest value; of ties, the one scored first."""
        best = int(np.argmax(self._values))
        return self._candidates.rows[best], float(self._values[best]), self._logits[best]
