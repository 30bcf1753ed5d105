"""Settings of the search for a suggestion."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of the search for a suggestion.

    Attributes:
      max_trials: largest number of trials that the model reads: of more, the best (a third of them) and the newest.
      policy_trials: the same for the policy head.  Earlier studies and reports get a share of these places only.
      start: what proposes the first trials: a quasi-random design, the model, or (`auto`) the model if its card says
        that it was trained on studies without a known trial (`blind_rate`).  The first suggestions of other models are
        meaningless.
      initial_trials: number of trials with a finite objective before the model is used; until then, suggestions are
        quasi-random.  None: 0 if the model proposes the first trials, else D + 1, but at least 3 and at most 8.
      first_candidates: candidates in the first round.
      round_candidates: candidates in each round of refinement.
      rounds: rounds of refinement.
      policy_samples: policy samples among the first candidates; fewer in spaces of more than 64 slots.
      global_share: share of quasi-random points in every round.
      enumerate_up_to: spaces of at most this many configurations are scored completely instead.
      check_trust: whether to explore more if the model predicts the newest trials worse than their marginal does, or if
        the best trials of a short study are nearly equal (`trust`).
      incumbent: what candidates improve on: the best `observed` objective, or the best mean `predicted` for a known
        trial, which is robust to a lucky measurement.
      kept_histories: encoded histories that are cached in memory; results do not depend on it.
    """

    max_trials: int = 128
    policy_trials: int = 128
    start: Literal["auto", "quasi-random", "model"] = "auto"
    initial_trials: int | None = None
    first_candidates: int = 256
    round_candidates: int = 256
    rounds: int = 1
    policy_samples: int = 64
    global_share: float = 0.125
    enumerate_up_to: int = 2048
    check_trust: bool = True
    incumbent: Literal["observed", "predicted"] = "predicted"
    kept_histories: int = 16

    def __post_init__(self) -> None:
        for field in ("max_trials", "policy_trials", "first_candidates", "round_candidates", "policy_samples"):
            if getattr(self, field) < 1:
                raise ValueError(f"SearchSettings.{field} must be at least 1, not {getattr(self, field)}")
        if self.incumbent not in ("observed", "predicted"):
            raise ValueError(f"SearchSettings.incumbent must be 'observed' or 'predicted', not {self.incumbent!r}")
        if self.start not in ("auto", "quasi-random", "model"):
            raise ValueError(f"SearchSettings.start must be 'auto', 'quasi-random' or 'model', not {self.start!r}")
        for field in ("rounds", "initial_trials", "kept_histories"):
            if (getattr(self, field) or 0) < 0:
                raise ValueError(f"SearchSettings.{field} must not be negative, not {getattr(self, field)}")
        if not 0.0 <= self.global_share <= 1.0:
            raise ValueError(f"SearchSettings.global_share must lie in [0, 1], not {self.global_share}")

    def initial(self, slots: int) -> int:
        """`initial_trials`, resolved for a space with this many slots."""
        if self.initial_trials is not None:
            return self.initial_trials
        return 0 if self.start == "model" else max(3, min(8, slots + 1))
