"""A pyvizier study as tokens, and what of it the model reads.

Notation: T trials, D slots, M objective metrics, S text tokens; v an objective value, larger is better.
"""

import copy
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.batch import StudyRow
from optformer.serialization.metadata import MetadataOptions, MetadataTokens, metadata_segments, tokenize
from optformer.serialization.space import StudySchema


class EncodedStudy:
    """A problem and its trials, encoded once for everything that is asked about them.

    Attributes:
      schema: slots of the search space.
      trials: as given.
      x_tokens: int32 [T, D], parameter tokens.
      values: float64 [T, M], larger is better, NaN where unknown.
      statuses: int32 [T], OBSERVED or the status token.

    Raises:
      ValueError: naming study, trial and parameter; see `StudySchema`.  Also if the problem has no objective metric.
    """

    def __init__(self, problem: vz.ProblemStatement, trials: Sequence[vz.Trial]):
        self.schema = StudySchema(problem)
        if not self.schema.metrics:
            raise ValueError(f"study {self.schema.study!r}: no objective metric; add one to problem.metric_information")
        self.trials = list(trials)
        self.x_tokens = self.schema.encode(self.trials)
        self.values, self.statuses = self.schema.objectives(self.trials)
        self._texts: dict[tuple[str | None, int], MetadataTokens] = {}

    def first(self, count: int) -> "EncodedStudy":
        """As it was when it had `count` trials."""
        earlier = copy.copy(self)
        earlier.trials, earlier.x_tokens = self.trials[:count], self.x_tokens[:count]
        earlier.values, earlier.statuses = self.values[:count], self.statuses[:count]
        return earlier

    @property
    def pending(self) -> np.ndarray:
        """bool [T]."""
        return self.statuses == tokens.PENDING

    def metric_index(self, name: str | None) -> int:
        """Index of an objective metric; without a name there must be only one.

        Raises:
          ValueError: no such metric, or several and none named.
        """
        names = [metric.name for metric in self.schema.metrics]
        if name is None and len(names) == 1:
            return 0
        if name not in names:
            asked = "several objectives" if name is None else f"no objective {name!r}"
            raise ValueError(f"study {self.schema.study!r}: {asked}; name one of {', '.join(map(repr, names))}")
        return names.index(name)

    def sign(self, metric: int) -> float:
        """-1 if the metric is minimised: user value = sign * v."""
        return -1.0 if self.schema.metrics[metric].goal.is_minimize else 1.0

    def best(self, metric: int) -> int | None:
        """Index of the trial with the best value of a metric; None where no trial has one."""
        values = self.values[:, metric]
        return int(np.nanargmax(values)) if np.isfinite(values).any() else None

    def text(self, algorithm: str | None, metric: int) -> MetadataTokens:
        """The metadata that suggestions are asked for with."""
        known = self._texts.get((algorithm, metric))
        if known is None:
            # Without the goal: minimising f and maximising -f are then the same study, token for token.
            options = MetadataOptions(goal=False)
            known = tokenize(metadata_segments(self.schema, algorithm, options, objective=metric))
            self._texts[algorithm, metric] = known
        return known

    def row(
        self,
        x_tokens: Int32[np.ndarray, "trial slot"],
        y_tokens: Int32[np.ndarray, " trial"],
        *,
        algorithm: str | None = None,
        metric: int = 0,
        order_free: bool = False,
    ) -> StudyRow:
        """These trials of its search space, all of them known together, with no policy loss.

        Args:
          x_tokens: of its own trials or of others.
          y_tokens: their objectives.
          algorithm: name for the metadata; default: the problem's own entry.
          metric: the objective that the metadata names.
          order_free: see `StudyBatch`.
        """
        slots = len(self.schema)
        return StudyRow(
            **self.text(algorithm, metric)._asdict(),
            slot_kinds=self.schema.slot_kinds,
            slot_levels=self.schema.slot_levels,
            slot_identities=np.arange(slots, dtype=np.int32) % tokens.NUM_SLOT_IDENTITIES,
            x_tokens=x_tokens,
            y_tokens=y_tokens,
            prefix_length=len(x_tokens),
            order_free=order_free,
            policy_trials=np.zeros(0, np.int32),
            policy_weights=np.zeros((0, slots), np.float32),
        )
