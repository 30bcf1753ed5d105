"""What may be proposed in a study: configurations that are allowed and new, and the histories that the model reads.

Pending points, whether from the user or suggested in this call, are PENDING in the policy's history.  In the history of
the function head, each one has a pessimistic fantasy as its value: the median that is predicted without them, or the
median of the history if that is worse, or INFEASIBLE if failure is more likely than not.  So the points of a batch
spread out.

Notation: T trials, D slots, N candidates; u as in `prediction`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int32

from optformer.inference import beliefs
from optformer.inference.beliefs import Belief, Beliefs
from optformer.inference.candidates import (
    Candidates,
    SlotSpace,
    as_genotypes,
    configurations,
    default_row,
    enumerated,
    from_unit_cube,
    new_ones,
    perturbed,
    quasi_random,
)
from optformer.inference.compiled import slots_bucket
from optformer.inference.constraints import AllowedRegion, Constraint, Constraints, attached
from optformer.inference.history import Objective
from optformer.inference.hypervolume import undominated
from optformer.inference.prediction import UNIT, Prediction
from optformer.inference.reading import Reading
from optformer.inference.rounds import first_candidates
from optformer.inference.several_metrics import Metric
from optformer.model.interface import History
from optformer.serialization import objective, tokens
from optformer.serialization.prior_studies import shares

_ALL_SAMPLES: Final = 64
"""With more slots than this, fewer than `policy_samples` samples are drawn."""

_GOOD_ELSEWHERE: Final = 2
"""Number of best trials of each earlier study around which candidates are drawn."""

_MEDIAN_BIN: Final = int(objective.to_bins(np.float64(0.0), UNIT))


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A suggestion as tokens, and how it was found.

    Attributes:
      row: int32 [D], a legal configuration.
      source: the acquisition, or `QUASI_RANDOM`, `DEFAULT`, `BELIEF`, `FEASIBILITY`.
      value: the acquisition's value, or the log-probability for `policy`; None if no candidates were compared.
      predictions: one per objective, then one per safety metric; empty if the model did not predict the trial.
      holds: per safety metric, the probability that the threshold is met if the trial does not fail.
      belief: density under the user's belief, relative to its maximum; None without a belief.
      cost: predicted median cost, in the user's unit; None if costs are not predicted.
    """

    row: Int32[np.ndarray, " slot"]
    source: str
    value: float | None = None
    predictions: tuple[Prediction, ...] = ()
    holds: tuple[float, ...] = ()
    belief: float | None = None
    cost: float | None = None


class Proposable(Reading):
    """What may be proposed in a study, given the proposals so far."""

    def __init__(
        self,
        *arguments: Any,
        seed: int = 0,
        constraints: Sequence[Constraint] = (),
        belief: Mapping[str, Belief] | None = None,
        **keywords: Any,
    ):
        """
        Args:
          arguments, keywords: further arguments of `Reading`.
          seed: non-negative seed of the proposals.
          constraints: on the proposals, in addition to those attached to the problem.
          belief: parameter -> belief; takes precedence over the belief attached to the problem.

        Raises:
          ValueError: a negative seed.
        """
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        super().__init__(*arguments, **keywords)
        self.proposals = list[Proposal]()
        self._seed, self._constraints = seed, constraints
        self._belief_told = belief
        self._space = SlotSpace.of(self.study.schema)
        self._policy_samples: np.ndarray | None = None

    @functools.cached_property
    def _limits(self) -> Constraints:
        schema = self.study.schema
        return Constraints(schema, [*attached(schema.problem, schema.study), *self._constraints])

    @functools.cached_property
    def _beliefs(self) -> Beliefs:
        schema = self.study.schema
        return Beliefs(schema, beliefs.attached(schema.problem, schema.study) | dict(self._belief_told or {}))

    @functools.cached_property
    def _everything(self) -> np.ndarray | None:
        """All allowed configurations, [N, D], of a space that has few; else None."""
        every = enumerated(self._space, self._settings.enumerate_up_to)
        if every is not None and self._limits:
            every = every[self._limits.allowed(every)]
            if not len(every):
                raise ValueError(f"study {self._limits.study!r}: no configuration satisfies the constraints")
        return every

    @functools.cached_property
    def _region(self) -> AllowedRegion | None:
        if not self._limits or self._everything is not None:
            return None
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, len(self.study.trials)]))
        return AllowedRegion(self._limits, self._space, self.study.x_tokens, rng)

    def _default(self) -> np.ndarray | None:
        """The declared default values as a configuration [1, D]; other parameters get their middle level, or random
        values that satisfy the constraints.  None if there is no such configuration."""
        found = default_row(self.study.schema)
        if found is None:
            return None
        row, declared = found
        rows = configurations(row[None], self._space)
        if self._limits and not self._limits.allowed(rows)[0]:
            if declared.all():
                raise ValueError(f"study {self._limits.study!r}: the default values violate a constraint")
            # Seeded alike for every proposal, so that the default configuration stays the same.
            unit = np.random.default_rng(self._seed).random((512, self._space.slots))
            others = from_unit_cube(unit, self._space)
            rows = configurations(np.where(declared[None], row[None], others), self._space)
            rows = rows[self._limits.allowed(rows)][:1]
        return rows if len(rows) else None

    # Candidates: genotypes [N, D].

    def _first_candidates(self, focus: Objective, rng: np.random.Generator) -> np.ndarray:
        samples = as_genotypes(rng, self._samples(focus, rng), self._space)
        size = self._settings.first_candidates // 8
        believed = self._beliefs.candidates(size, next_seed(rng)) if self._beliefs else samples[:0]
        good = self._good_trials(focus, rng)
        found = first_candidates(rng, self._space, self._settings, samples, believed, good)
        if self._region is None:
            return found
        return np.concatenate([self._region.examples(size, rng), found])[: len(found)]

    def _good_trials(self, focus: Objective, rng: np.random.Generator) -> np.ndarray:
        """The best tenth of the known trials, at least 5, at most 16, the best first.

        With several objectives, also up to 8 Pareto-optimal ones.  Trials that violate a constraint come last, in the
        order of their violation.
        """
        known = np.flatnonzero(np.isfinite(focus.values))
        shortfall = self.study.shortfall[known]
        best = known[np.lexsort((-focus.values[known], shortfall))][: min(16, max(5, len(known) // 10))]
        if self.study.values.shape[1] > 1:
            holding = known[shortfall == 0.0]
            front = rng.permutation(holding[undominated(self.study.values[holding])])[:8]
            best = np.concatenate([best[: 16 - len(front)], front[~np.isin(front, best)]])
        rows = np.concatenate([self.study.x_tokens[best], self._good_elsewhere(focus)])
        return as_genotypes(rng, rows[:16], self._space)

    def _good_elsewhere(self, focus: Objective) -> Int32[np.ndarray, "trial slot"]:
        """The best trials of earlier studies."""
        shown = self.study.earlier(focus.metric, shares(self._room, 0)[0])
        return np.concatenate([self.study.x_tokens[:0], *(each.best(_GOOD_ELSEWHERE) for each in shown)])

    def _samples(self, focus: Objective, rng: np.random.Generator) -> np.ndarray:
        """Policy samples, drawn once per call, since the pending points of a batch hardly change them."""
        if self._policy_samples is None or self.study.values.shape[1] > 1:
            self._policy_samples = self._drawn(self._policy_history(focus), rng)
        return self._policy_samples

    def _drawn(self, history: History, rng: np.random.Generator) -> np.ndarray:
        """Samples of the policy; fewer in a space with many slots, since the time per sample grows quadratically."""
        slots = slots_bucket(self._space.slots)
        count = max(1, self._settings.policy_samples * _ALL_SAMPLES // max(_ALL_SAMPLES, slots))
        return self._model.sample(history, self.study.schema.legality, next_seed(rng), count)

    def _candidates(self, rows: np.ndarray, rng: np.random.Generator) -> Candidates:
        """Configurations as candidates."""
        return Candidates.of(as_genotypes(rng, rows, self._space), self._space)

    # Histories.

    def _policy_history(self, focus: Objective) -> History:
        shown = self._policy_shown(focus)
        rows = np.concatenate([self.study.x_tokens[shown], self._proposed_rows()])
        pending = np.full(len(self.proposals), tokens.PENDING, np.int32)
        y_tokens = np.concatenate([self._policy_tokens(focus, shown), pending])
        return self._encode(focus, rows, y_tokens, False)

    def _metrics(self, focus: Objective) -> list[Metric]:
        """Every objective and safety metric, with the encoded history from which it is predicted."""
        thresholds = [None] * self.study.values.shape[1] + list(map(float, self.study.thresholds))
        return [
            Metric(each, self._function_history(each), threshold)
            for each, threshold in zip(self._each(focus), thresholds, strict=True)
        ]

    def _function_history(self, focus: Objective) -> History:
        """The finished trials, and the pending ones with their fantasies.

        Stopped trials without an extrapolated final value, as in studies of several objectives, have fantasies, too:
        otherwise, where their reports look promising, the search would suggest points near them again and again.
        """
        shown = focus.shown
        finished = shown[~self.study.pending[shown]]
        rows, y_tokens = self.study.x_tokens[finished], focus.y_tokens[finished]
        history = self._encode(focus, rows, y_tokens, True)
        open_ended = np.concatenate([shown[self.study.pending[shown]], focus.reported.stopped])
        pending = np.concatenate([self.study.x_tokens[open_ended], self._proposed_rows()])
        if not len(pending):
            return history
        _, logits = self._model.score(history, pending)
        rows, y_tokens = np.concatenate([rows, pending]), np.concatenate([y_tokens, fantasies(logits)])
        return self._encode(focus, rows, y_tokens, True)

    # What may be proposed.

    def _proposed_rows(self) -> np.ndarray:
        rows = [proposal.row for proposal in self.proposals]
        return np.array(rows, np.int32).reshape(len(rows), self._space.slots)

    def _taken(self) -> np.ndarray:
        return np.concatenate([self.study.x_tokens, self._proposed_rows()])

    def _quasi_random(self, first: int, rng: np.random.Generator) -> Candidates:
        """Candidates of the quasi-random sequence of the cold start, from point `first` on."""
        count = 1024 if self._limits else 64
        return self._legal(Candidates.of(quasi_random(self._space, first, count, self._seed), self._space), rng)

    def _legal(self, candidates: Candidates, rng: np.random.Generator) -> Candidates:
        """The candidates that satisfy the constraints, then the others after repair."""
        if not self._limits:
            return candidates
        allowed = self._limits.allowed(candidates.rows)
        if self._region is None:
            return candidates[allowed]
        return candidates[allowed] + self._region.repaired(candidates[~allowed], rng)

    def _first_new(self, candidates: Candidates, taken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The first candidate that is not taken; else any other configuration that is not; else the first candidate."""
        rows = candidates.rows
        fresh = new_ones(rows, taken)
        if len(fresh):
            return rows[fresh[0]]
        if self._everything is not None:
            for excluded in (taken, self._proposed_rows()):
                left = new_ones(self._everything, excluded)
                if len(left):
                    return self._everything[left[int(rng.integers(len(left)))]]
            return self._everything[0]
        parents = as_genotypes(rng, rows, self._space)
        near = Candidates.of(perturbed(rng, parents, 1024, self._space, np.array([0.02, 0.2])), self._space)
        near = self._legal(near, rng)
        fresh = new_ones(near.rows, taken)
        return near.rows[fresh[0]] if len(fresh) else rows[0]


def fantasies(logits: Float[np.ndarray, "pending output"]) -> Int32[np.ndarray, " pending"]:
    """Objective tokens for pending trials: the predicted median or the median of the history, whichever is worse, or
    INFEASIBLE if failure is more likely than not."""
    prediction = Prediction.from_logits(logits, UNIT, 1.0)
    medians = objective.to_bins(prediction.quantile(0.5), UNIT)
    return np.where(prediction.infeasible > 0.5, tokens.INFEASIBLE, np.minimum(medians, _MEDIAN_BIN)).astype(np.int32)


def next_seed(rng: np.random.Generator) -> int:
    """A seed for functions of jax."""
    return int(rng.integers(2**31))
