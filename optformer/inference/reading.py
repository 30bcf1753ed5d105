"""A study as a model reads it: the trials that it uses, and its predictions.

Notation: T trials, D slots, N candidates.
"""

import numpy as np
from jaxtyping import Float, Int32

from optformer.inference.compiled import CompiledModel
from optformer.inference.history import Objective, history_batch, window
from optformer.inference.prediction import Prediction
from optformer.inference.settings import SearchSettings
from optformer.model.interface import History
from optformer.model.precision import single_precision
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch
from optformer.serialization.prior_studies import shares
from optformer.serialization.study import EncodedStudy

_AT_ONCE = 16
"""Histories of one trajectory that are encoded in one call."""


class Reading:
    """Predictions and likelihoods of one study.  They depend on the arguments only, so every process gets the same."""

    def __init__(
        self,
        model: CompiledModel,
        settings: SearchSettings,
        study: EncodedStudy,
        *,
        algorithm: str | None = None,
        reads_reports: bool = False,
    ):
        """
        Args:
          model: the compiled model.
          settings: settings of the search; this class uses those on what the model reads.
          study: the encoded study.
          algorithm: the optimizer that the metadata names.
          reads_reports: whether the model reads the intermediate reports of trials.
        """
        self.study = study
        self._model, self._settings, self._algorithm = model, settings, algorithm
        self._reads_reports = reads_reports and any(trial.measurements for trial in study.trials)

    @single_precision
    def predict(
        self,
        rows: Int32[np.ndarray, "candidate slot"],
        metric: int = 0,
        asked: int | None = None,
        left: int = 0,
    ) -> Prediction:
        """Predicts the objective of each row as the next trial; independent of the order of the trials.

        Args:
          rows: int32 [N, D], configurations.
          metric: index of the metric.
          asked: index of the running trial, if the only row is its configuration; its own reports are read first.
          left: level of the remaining budget at which its value is predicted.
        """
        focus = self._objective(self.study, metric, asked)
        _, logits = self._model.score(self._encode_shown(focus, order_free=True), rows, left=left)
        return Prediction.from_logits(logits, focus.scaling, self.study.sign(metric))

    @single_precision
    def log_probability(
        self, rows: Int32[np.ndarray, "candidate slot"], metric: int = 0
    ) -> Float[np.ndarray, " candidate"]:
        """Log-probability, in nats, of each row as the policy's next trial: summed over its active slots, [N]."""
        history = self._encode_shown(self._objective(self.study, metric), order_free=False)
        return self._model.policy_log_probability(history, rows)

    @single_precision
    def sample_policy(self, count: int, seed: int, metric: int = 0) -> Int32[np.ndarray, "sample slot"]:
        """Independent draws of the policy's next trial."""
        history = self._encode_shown(self._objective(self.study, metric), order_free=False)
        return self._model.sample(history, self.study.schema.legality, seed, count)

    @single_precision
    def trajectory_log_probability(self, metric: int = 0, first: int = 0) -> Float[np.ndarray, "trial slot"]:
        """Log-probability, in nats, of each parameter of each trial from index `first` on, given the trials before it.

        Inactive and unknown parameters contribute 0.
        """
        study = self.study
        groups: dict[int, list[tuple[int, StudyBatch]]] = {}
        for count in range(first, len(study.trials)):
            begun = study.first(count)
            focus = Objective.of(begun, begun.metric_values(metric), metric, self._room)
            known, y_tokens = study.x_tokens[focus.shown], focus.y_tokens[focus.shown]
            batch = history_batch(study.row(known, y_tokens, algorithm=self._algorithm, metric=metric))
            groups.setdefault(batch.trial_mask.shape[1], []).append((count, batch))
        result = np.zeros((len(study.trials) - first, len(study.schema)), np.float32)
        for group in groups.values():
            for start in range(0, len(group), _AT_ONCE):
                part = group[start : start + _AT_ONCE]
                # Repeats the last history, so that all calls share one compiled shape.
                filled = part + part[-1:] * (_AT_ONCE - len(part))
                batch = StudyBatch(*(np.concatenate(fields) for fields in zip(*(b for _, b in filled), strict=True)))
                found = self._model.next_log_probability(batch, study.x_tokens[[count for count, _ in filled]])
                for (count, _), values in zip(part, found, strict=False):
                    result[count - first] = values
        return result

    def _objective(self, study: EncodedStudy, metric: int, asked: int | None = None) -> Objective:
        return Objective.of(
            study, study.metric_values(metric), metric, self._shown, reports=self._reports_shown, asked=asked
        )

    @property
    def _room(self) -> int:
        """Largest number of trials that the policy reads; earlier studies and reports get a share of it."""
        return min(self._settings.policy_trials, self._settings.max_trials)

    @property
    def _further(self) -> int:
        """Places that are kept for trials of earlier studies or for reports."""
        more = self._reads_reports or self.study.has_earlier
        return shares(self._room, len(self.study.trials))[0] if more else 0

    @property
    def _shown(self) -> int:
        """Largest number of trials of the study that the model reads."""
        return self._settings.max_trials - self._further

    @property
    def _reports_shown(self) -> int:
        """Largest number of reports that the model reads."""
        return shares(self._room, len(self.study.trials))[0] if self._reads_reports else 0

    # Histories.

    def _each(self, focus: Objective) -> list[Objective]:
        """Every objective and safety metric on the model's scale, for the trials of `focus`."""
        if len(self.study.metrics) == 1:
            return [focus]
        limit = self._shown
        return [
            Objective.of(self.study, self.study.metric_values(metric), metric, limit, focus.shown, self._reports_shown)
            for metric in range(len(self.study.metrics))
        ]

    def _encode(self, focus: Objective, rows: np.ndarray, y_tokens: np.ndarray, order_free: bool) -> History:
        """Encodes these trials: `order_free` for the function head, with the order of trials for the policy."""
        reported = focus.reported
        row = self.study.row(
            np.concatenate([reported.x_tokens, rows]),
            np.concatenate([reported.y_tokens, y_tokens]),
            left=np.concatenate([reported.left, np.zeros(len(rows), np.int32)]),
            algorithm=self._algorithm,
            metric=focus.metric,
            order_free=order_free,
            earlier=shares(self._room, len(rows))[0],
        )
        return self._model.encode(history_batch(row), objective=order_free)

    def _encode_shown(self, focus: Objective, order_free: bool) -> History:
        shown = focus.shown if order_free else self._policy_shown(focus)
        y_tokens = focus.y_tokens[shown] if order_free else self._policy_tokens(focus, shown)
        return self._encode(focus, self.study.x_tokens[shown], y_tokens, order_free)

    def _policy_shown(self, focus: Objective) -> np.ndarray:
        """Indices of the trials that the policy reads, ascending."""
        values = np.where(self.study.holds, focus.values, np.nan)[focus.shown]
        return np.asarray(focus.shown[window(values, self.study.pending[focus.shown], self._room - self._further)])

    def _policy_tokens(self, focus: Objective, shown: np.ndarray) -> Int32[np.ndarray, " shown"]:
        """Objective tokens for the policy, in which trials that violate a constraint count as failed."""
        broken = ~self.study.holds[shown]
        return np.where(broken, tokens.INFEASIBLE, focus.y_tokens[shown]).astype(np.int32)
