"""The padded sizes of a training batch, one set for both routes (corpus and prior)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Padded sizes of a `StudyBatch`: one compiled training step per shape.

    Attributes:
      trials: T, trials per study.
      slots: D, parameters per study.
      text: S, metadata tokens per study.
      policy_trials: P, trials per study whose parameters carry policy loss.

    Raises:
      ValueError: A size is below 1, or `policy_trials` exceeds `trials`.
    """

    trials: int = 48
    slots: int = 8
    text: int = 128
    policy_trials: int = 8

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"BatchShape.{field.name} is {getattr(self, field.name)}; it must be at least 1.")
        if self.policy_trials > self.trials:
            raise ValueError(
                f"BatchShape.policy_trials is {self.policy_trials}, more than the {self.trials} trials of a study; "
                "policy loss falls on distinct trials."
            )
