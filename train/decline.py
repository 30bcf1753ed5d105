"""Warns if the validation loss of a run gets worse."""

import dataclasses
from typing import Final

PATIENCE: Final = 3
"""Number of consecutive validations above the best by more than `TOLERANCE` before each warning."""

TOLERANCE: Final = 0.03
"""Random changes of the loss between two validations are smaller than this, in nats."""


@dataclasses.dataclass
class Decline:
    """Follows the validation loss of a run.

    Attributes:
      best: lowest validation loss so far, in nats; None before the first validation.
      best_step: its step.
      worse: number of consecutive validations above `best` by more than `TOLERANCE`.
    """

    best: float | None = None
    best_step: int = 0
    worse: int = 0

    def observe(self, step: int, loss: float) -> str | None:
        """Records a validation loss in nats; returns a warning if one is due."""
        if self.best is None or loss < self.best:
            self.best, self.best_step, self.worse = loss, step, 0
            return None
        if loss <= self.best + TOLERANCE:
            self.worse = 0
            return None
        self.worse += 1
        if self.worse % PATIENCE:
            return None
        return (
            f"step {step}: the validation loss has been above that of step {self.best_step} for {self.worse} "
            f"validations ({loss:.3f} against {self.best:.3f}).  If this continues, stop, and start a new run "
            "with lower learning rates (optimizer.matrix_learning_rate, optimizer.learning_rate) or with more "
            "optimizer.weight_decay."
        )

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)
