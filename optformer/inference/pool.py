"""The candidates of one proposal that have been scored.

Notation: N candidates, D slots, V = 1004 outputs.
"""

import numpy as np

from optformer.inference import candidates as sources


class Pool:
    """Candidates scored so far; no configuration twice, none that is taken."""

    def __init__(self, space: sources.SlotSpace, taken: np.ndarray):
        self._space = space
        self._seen = taken
        self._genotypes: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def fresh(self, genotypes: np.ndarray) -> np.ndarray:
        rows = sources.configurations(genotypes, self._space)
        return genotypes[sources.new_ones(rows, self._seen)]

    def add(self, genotypes: np.ndarray, rows: np.ndarray, values: np.ndarray, logits: np.ndarray) -> None:
        self._seen = np.concatenate([self._seen, rows])
        self._genotypes.append(genotypes)
        self._rows.append(rows)
        self._values.append(np.where(np.isfinite(values), values, -np.inf))
        self._logits.append(logits)

    def best(self, count: int) -> np.ndarray:
        """Genotypes of the highest values, the best first."""
        if not self._values:
            return np.zeros((0, self._space.slots), np.int32)
        order = np.argsort(-np.concatenate(self._values), kind="stable")[:count]
        return np.concatenate(self._genotypes)[order]

    def winner(self) -> tuple[np.ndarray, float, np.ndarray]:
        """Configuration, value and logits of the highest value; of equals, the first scored."""
        best = int(np.argmax(np.concatenate(self._values)))
        value = float(np.concatenate(self._values)[best])
        return np.concatenate(self._rows)[best], value, np.concatenate(self._logits)[best]
