"""The acquisition of studies with several metrics, each of which the model predicts separately.

Objectives: the improvement of one objective, or of the hypervolume of several (`hypervolume`).

Constraints on outcomes are Vizier's safety metrics: a trial violates one if its value is beyond the threshold.  The
probability that a candidate satisfies them all is the product over safety metrics of the share of the predicted
histogram on the safe side.  A violation counts as a failure.  So the acquisition is the improvement over the best trial
that satisfies all constraints, times that probability (for the expected improvement of one objective its cube, by
`FAILURE_AVERSION`).  As long as there is no such trial, the acquisition is the probability of being one.

Notation: N candidates, K objectives, M metrics, the objectives first, V = 1004 outputs; u, f and v as in `prediction`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy import special

from optformer.inference import hypervolume
from optformer.inference.acquisition import FAILURE_AVERSION, MAX_IMPROVEMENT
from optformer.inference.compiled import CompiledModel
from optformer.inference.history import Objective
from optformer.inference.prediction import MOMENT_RANGE, UNIT
from optformer.model.interface import History
from optformer.serialization import objective, tokens
from optformer.serialization.study import EncodedStudy

FEASIBILITY: Final = "feasibility"
"""Internal acquisition: the probability that a trial neither fails nor violates a constraint."""

_EDGES: Final = np.asarray(objective.bin_edges(UNIT))
_UNLIKELY: Final = -1e9
"""Added to the values of candidates that must rank last."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric of a study, as the model sees it.

    Attributes:
      values: the metric on the model's scale.
      history: the encoded history from which it is predicted.
      threshold: v that a safety metric must reach; None for an objective.
    """

    values: Objective
    history: History
    threshold: float | None = None

    def holds(self, logits: Float[np.ndarray, "candidate output"]) -> Float[np.ndarray, " candidate"]:
        """Probability that the threshold is met if the trial does not fail, [N]; 1 if no value is known yet."""
        if self.threshold is None or not self.values.finite:
            return np.ones(len(logits), np.float32)
        u = np.clip(objective.in_good_ranges(self.threshold, self.values.scaling), _EDGES[0], _EDGES[-1])
        right = int(np.clip(np.searchsorted(_EDGES, u), 1, len(_EDGES) - 1))
        share = np.float32((u - _EDGES[right - 1]) / (_EDGES[right] - _EDGES[right - 1]))
        if np.any(self.values.values == self.threshold):  # a trial meets it exactly: count the whole bin as safe
            share = np.float32(0.0)
        bins = logits[:, : tokens.NUM_LEVELS].astype(np.float32)
        mass = np.exp(bins - bins.max(axis=1, keepdims=True))
        safe = mass[:, right:].sum(axis=1) + (1 - share) * mass[:, right - 1]
        return np.minimum(safe / mass.sum(axis=1), 1.0)


class SeveralMetrics:
    """Scores candidates by all metrics of the study."""

    def __init__(
        self,
        model: CompiledModel,
        metrics: Sequence[Metric],
        acquisition: str,
        best: Float[np.ndarray, "trial objective"],
        *,
        cautious: bool = False,
        least: float = 0.0,
        seed: int = 0,
    ):
        """
        Args:
          model: the model that predicts the metrics.
          metrics: the objectives, then the safety metrics.
          acquisition: its name, or `FEASIBILITY` if no trial satisfies all constraints yet.
          best: u of the trials to improve on.
          cautious: whether to avoid failures, because some trials have failed.
          least: candidates rank last if their probability of satisfying all constraints is below this.
          seed: seed of the scalarizations.
        """
        self._model, self.metrics, self._acquisition = model, tuple(metrics), acquisition
        self._objectives = sum(each.threshold is None for each in metrics)
        self._best, self._cautious, self._least, self._seed = best, cautious, least, seed

    def score(
        self, rows: np.ndarray, seed: int
    ) -> tuple[Float[np.ndarray, " candidate"], Float[np.ndarray, "candidate metric output"]]:
        """Acquisition values, larger is better, and logits [N, M, V] of configurations."""
        logits = np.stack([self._model.score(each.history, rows)[1] for each in self.metrics], axis=1)
        hold, failing = self.holds(logits).prod(axis=1), self._failing(logits)
        if self._acquisition == FEASIBILITY:
            values = (1.0 - failing) * hold
        elif self._objectives == 1:
            own = _failing_with(logits[:, 0], 1.0 - (1.0 - failing) * hold)
            values = self._model.acquire(own, self._acquisition, float(self._best.max()), seed)
        else:
            values = self._hypervolume(logits, 1.0 - (1.0 - failing) * hold, seed)
        if self._acquisition == "ei" and self._cautious:
            values = values * (1.0 - failing) ** FAILURE_AVERSION
        if self._acquisition == "ei" and self._objectives == 1:
            # Only with one objective: the parts of a Pareto front may be separated by infeasible regions.
            values = values * hold**FAILURE_AVERSION
        return np.where(hold < self._least, hold.astype(np.float64) + _UNLIKELY, values), logits

    def holds(self, logits: Float[np.ndarray, "candidate metric output"]) -> Float[np.ndarray, "candidate metric"]:
        """Probability that each metric meets its threshold, given that the trial does not fail; 1 for objectives."""
        return np.stack([each.holds(logits[:, k]) for k, each in enumerate(self.metrics)], axis=1)

    def _failing(self, logits: Float[np.ndarray, "candidate metric output"]) -> Float[np.ndarray, " candidate"]:
        """f, the mean over objectives: a trial that fails has no metrics at all, so each predicts its failure."""
        bins, failure = logits[:, : self._objectives, : tokens.NUM_LEVELS], logits[:, : self._objectives]
        return np.asarray(special.expit(failure[..., tokens.INFEASIBLE] - _log_total(bins)).mean(axis=1))

    def _hypervolume(
        self, logits: Float[np.ndarray, "candidate metric output"], failing: np.ndarray, seed: int
    ) -> Float[np.ndarray, " candidate"]:
        # All candidates of a proposal share the scalarizations.
        rng = np.random.default_rng(self._seed)
        directions = hypervolume.random_directions(rng, hypervolume.DIRECTIONS, self._objectives)
        front = self._best[hypervolume.undominated(self._best)].clip(*MOMENT_RANGE)
        reference = hypervolume.reference_point(front)
        own = [logits[:, k] for k in range(self._objectives)]
        if self._acquisition in ("ucb", "thompson"):
            points = [
                self._model.acquire(_failing_with(each, failing), self._acquisition, 0.0, seed + k)
                for k, each in enumerate(own)
            ]
            return hypervolume.improvement(np.stack(points, axis=1), front, reference, directions)
        survival = [_survival(each) for each in own]
        if self._acquisition == "pi":
            gain = hypervolume.probability_of_improvement(survival, _EDGES, front, reference, directions)
        else:
            limit = front.max(axis=0) + MAX_IMPROVEMENT
            gain = hypervolume.expected_improvement(survival, _EDGES, front, reference, limit, directions, rng)
        return (1.0 - failing) * gain


def least_holding(study: EncodedStudy) -> float:
    """The least probability of satisfying all constraints that a suggestion should have: the share of safe trials that
    the problem asks for, or 0 if the finished trials already have that share."""
    desired = np.array([each.desired_min_safe_trials_fraction or 0.0 for each in study.schema.safety_metrics])
    finished = study.safety[~study.pending]
    if not len(desired) or not len(finished):
        return 0.0
    safe = (~(finished < study.thresholds)).mean(axis=0)
    return float(desired[safe < desired].max(initial=0.0))


def _log_total(bins: np.ndarray) -> np.ndarray:
    top = bins.max(axis=-1)
    return top + np.log(np.exp(bins - top[..., None]).sum(axis=-1))


def _survival(logits: Float[np.ndarray, "candidate output"]) -> Float[np.ndarray, "edge candidate"]:
    """Probability that u exceeds each of the edges of the bins, given that the trial does not fail."""
    bins = logits[:, : tokens.NUM_LEVELS].T.astype(np.float32)
    mass = np.exp(bins - bins.max(axis=0))
    above = np.zeros((len(mass) + 1, mass.shape[1]), np.float32)
    np.cumsum(mass[::-1], axis=0, out=above[1:])
    return above[::-1] / above[-1]


def _failing_with(
    logits: Float[np.ndarray, "candidate output"], failing: Float[np.ndarray, " candidate"]
) -> Float[np.ndarray, "candidate output"]:
    """The same objective distributions with another probability of failure."""
    result = logits.copy()
    failing = np.clip(failing, 1e-7, 1.0 - 1e-7)
    result[:, tokens.INFEASIBLE] = _log_total(logits[:, : tokens.NUM_LEVELS]) + special.logit(failing)
    return result
