"""From a problem and its trials to predictions, suggestions and policy likelihoods.

Stateless: everything that is kept between calls is cache.

Notation: T trials, D slots, N candidates.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int32

from optformer.inference.acquisition import check_acquisition
from optformer.inference.compiled import CompiledModel
from optformer.inference.constraints import Constraint, Constraints, attached
from optformer.inference.history import Objective, history_batch
from optformer.inference.prediction import Prediction
from optformer.inference.search import Proposal, Search, encoded
from optformer.inference.settings import SearchSettings
from optformer.model.precision import single_precision
from optformer.serialization.batch import StudyBatch
from optformer.serialization.study import EncodedStudy

_AT_ONCE = 16
"""Histories of one trajectory that are encoded together."""


class Engine:
    """Predictions, suggestions and policy likelihoods of one model."""

    def __init__(self, model: Any, settings: SearchSettings | None = None):
        self.settings = settings or SearchSettings()
        self._model = CompiledModel(model, self.settings.kept_histories)

    def with_settings(self, **changes: Any) -> "Engine":
        """The same weights with other settings."""
        return Engine(self._model.module(), dataclasses.replace(self.settings, **changes))

    @single_precision
    def predict(
        self, study: EncodedStudy, rows: Int32[np.ndarray, "candidate slot"], metric: int, algorithm: str | None
    ) -> Prediction:
        """The objective of each row, were it the next trial; independent of the order of the trials."""
        focus = Objective.of(study, study.values[:, metric], metric, self.settings.max_trials)
        history = self._history(study, focus, algorithm, order_free=True)
        _, logits = self._model.score(history, rows)
        return Prediction.from_logits(logits, focus.scaling, study.sign(metric))

    @single_precision
    def log_probability(
        self, study: EncodedStudy, rows: Int32[np.ndarray, "candidate slot"], metric: int, algorithm: str | None
    ) -> Float[np.ndarray, " candidate"]:
        """Log-probability of each row as the policy's next trial: mass over levels, summed over active slots."""
        focus = Objective.of(study, study.values[:, metric], metric, self.settings.max_trials)
        history = self._history(study, focus, algorithm, order_free=False)
        return self._model.policy_log_probability(history, rows)

    @single_precision
    def trajectory_log_probability(
        self, study: EncodedStudy, metric: int, algorithm: str | None, first: int = 0
    ) -> Float[np.ndarray, "trial slot"]:
        """Log-probability, in nats, of each parameter of each trial from number `first` on, given those before it.

        Inactive and unknown parameters count 0.
        """
        groups: dict[int, list[tuple[int, StudyBatch]]] = {}
        for count in range(first, len(study.trials)):
            earlier = study.first(count)
            focus = Objective.of(earlier, earlier.values[:, metric], metric, self.settings.max_trials)
            known, y_tokens = study.x_tokens[focus.shown], focus.y_tokens[focus.shown]
            batch = history_batch(study.row(known, y_tokens, algorithm=algorithm, metric=metric))
            groups.setdefault(batch.trial_mask.shape[1], []).append((count, batch))
        result = np.zeros((len(study.trials) - first, len(study.schema.slots)), np.float32)
        for group in groups.values():
            for start in range(0, len(group), _AT_ONCE):
                part = group[start : start + _AT_ONCE]
                # One compiled size: the last one is repeated.
                filled = part + part[-1:] * (_AT_ONCE - len(part))
                batch = StudyBatch(*(np.concatenate(fields) for fields in zip(*(b for _, b in filled), strict=True)))
                found = self._model.next_log_probability(batch, study.x_tokens[[count for count, _ in filled]])
                for (count, _), values in zip(part, found, strict=False):
                    result[count - first] = values
        return result

    @single_precision
    def sample_policy(
        self, study: EncodedStudy, metric: int, algorithm: str | None, count: int, seed: int
    ) -> Int32[np.ndarray, "sample slot"]:
        """Independent draws of the policy's next trial."""
        focus = Objective.of(study, study.values[:, metric], metric, self.settings.max_trials)
        history = self._history(study, focus, algorithm, order_free=False)
        return self._model.sample(history, study.schema.legality, seed, count)

    @single_precision
    def suggest(
        self,
        study: EncodedStudy,
        count: int,
        acquisition: str,
        algorithm: str | None,
        seed: int,
        constraints: Sequence[Constraint] = (),
    ) -> list[Proposal]:
        """`count` proposals, one after the other, each knowing those before it as pending.

        None of them is a finished or pending configuration, or repeats another, unless the space is exhausted.  The
        result is a function of the arguments alone, in any process.

        Args:
          constraints: beside those attached to the problem.

        Raises:
          ValueError: unknown acquisition, negative count or seed, constraints that cannot be read or met.
        """
        check_acquisition(acquisition)
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        own = attached(study.schema.problem, study.schema.study)
        limits = Constraints(study.schema, [*own, *constraints])
        search = Search(self._model, self.settings, study, acquisition, algorithm, seed, limits)
        while len(search.proposals) < count:
            search.proposals.append(search.next())
        return search.proposals

    def _history(self, study: EncodedStudy, focus: Objective, algorithm: str | None, order_free: bool) -> Any:
        rows, y_tokens = study.x_tokens[focus.shown], focus.y_tokens[focus.shown]
        return encoded(self._model, study, focus.metric, algorithm, rows, y_tokens, order_free)
