"""The candidates of one proposal that have been scored.

Notation: N candidates, D slots, V = 1004 outputs.
"""

import numpy as np

from optformer.inference.candidates import Candidates, new_ones


class Pool:
    """Candidates scored so far; no configuration twice, none that is taken."""

    def __init__(self, taken: np.ndarray):
        """`taken`: configurations [N, D]."""
        self._taken = taken
        self._candidates = Candidates(taken[:0], taken[:0])
        self._values = np.zeros(0)
        self._logits: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._candidates)

    def fresh(self, candidates: Candidates) -> Candidates:
        """Those that are neither taken nor scored, each once."""
        return candidates[new_ones(candidates.rows, np.concatenate([self._taken, self._candidates.rows]))]

    def add(self, candidates: Candidates, values: np.ndarray, logits: np.ndarray) -> None:
        self._candidates += candidates
        self._values = np.concatenate([self._values, np.where(np.isfinite(values), values, -np.inf)])
        self._logits += list(logits)

    def best(self, count: int) -> np.ndarray:
        """Genotypes of the highest values, the best first."""
        return self._candidates.genotypes[np.argsort(-self._values, kind="stable")[:count]]

    def winner(self) -> tuple[np.ndarray, float, np.ndarray]:
        """Configuration, value and logits [V] of the highest value; of equals, the first scored."""
        best = int(np.argmax(self._values))
        return self._candidates.rows[best], float(self._values[best]), self._logits[best]
