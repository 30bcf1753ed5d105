"""The search for the next trials.

A suggestion by acquisition: candidates ranked on the predicted distribution, then refined.

  1. the history is encoded twice: with trial order for the policy head, without it for the function head;
  2. candidates from everywhere - policy, quasi-random, near and between the best trials, bounds - are scored in
     parallel against the encoded history;
  3. some rounds of candidates around the best scored so far, at shrinking distances, never without global ones;
  4. the best one becomes the suggestion.

Points that are pending, whether they are the user's or were suggested in this call, stand in the policy's history as
PENDING.  The function head is told a pessimistic fantasy of each: the median that it predicts without them, or the
history's own median where that is worse, or INFEASIBLE where that is likelier than not.  So a batch spreads out.

Before all that, the model is put to the test on the newest trials: where it predicts them worse than a smoothed
histogram of the objectives before them, every other suggestion is quasi-random.

Notation: T trials, D slots, N candidates; u as in `prediction`.
"""

import dataclasses
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int32

from optformer.inference import candidates as sources
from optformer.inference.acquisition import CAUTIOUS_EI, POLICY
from optformer.inference.compiled import CompiledModel
from optformer.inference.constraints import AllowedRegion, Constraints
from optformer.inference.history import Objective, history_batch
from optformer.inference.pool import Pool
from optformer.inference.prediction import UNIT, Prediction
from optformer.inference.scalarization import random_direction, scalarize
from optformer.inference.settings import SearchSettings
from optformer.inference.trust import predicts, tested_trials
from optformer.serialization import objective, tokens
from optformer.serialization.study import EncodedStudy

QUASI_RANDOM: Final = "quasi-random"
DEFAULT: Final = "default"
FEASIBILITY: Final = "feasibility"
"""How a suggestion came about, where it was not by the acquisition that was asked for."""

_MEDIAN_BIN: Final = int(objective.to_bins(np.float64(0.0), UNIT))


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A suggestion as tokens, and why.

    Attributes:
      row: int32 [D], a legal configuration.
      source: the acquisition, or `QUASI_RANDOM`, `DEFAULT`, `FEASIBILITY`.
      value: the acquisition's value; of `policy` the log-probability; None where nothing was compared.
      prediction: of the objective (of its scalarization where there are several); None where the model was not asked.
    """

    row: Int32[np.ndarray, " slot"]
    source: str
    value: float | None = None
    prediction: Prediction | None = None


class Search:
    """One call of `suggest`: what is kept from one proposal to the next."""

    def __init__(
        self,
        model: CompiledModel,
        settings: SearchSettings,
        study: EncodedStudy,
        acquisition: str,
        algorithm: str | None,
        seed: int,
        constraints: Constraints | None = None,
    ):
        self.model, self.settings, self.study = model, settings, study
        self.acquisition, self.algorithm, self.seed = acquisition, algorithm, seed
        self.constraints = constraints or None
        self.space = sources.SlotSpace.of(study.schema)
        self.proposals: list[Proposal] = []
        self.everything = sources.enumerated(self.space, self.settings.enumerate_up_to)
        self.region: AllowedRegion | None = None
        if constraints:
            if self.everything is not None:
                self.everything = self.everything[constraints.allowed(self.everything)]
                if not len(self.everything):
                    raise ValueError(f"study {constraints.study!r}: no configuration satisfies the constraints")
            else:
                rng = np.random.default_rng(np.random.SeedSequence([seed, len(study.trials)]))
                self.region = AllowedRegion(constraints, self.space, study.x_tokens, rng)
        self._focus: Objective | None = None
        self._policy_samples: np.ndarray | None = None
        self._trust: bool | None = None

    # One proposal.

    def next(self) -> Proposal:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, len(self.study.trials), len(self.proposals)]))
        if self.space.slots == 0:
            return Proposal(np.zeros(0, np.int32), QUASI_RANDOM)
        focus = self._focused(rng)
        if self.acquisition == POLICY:
            return self._by_policy(focus, rng)
        if self._cold(focus) or (not self._trusted(focus) and rng.random() < 0.5):
            return self._cold_start(rng)
        return self._by_acquisition(focus, rng)

    def _focused(self, rng: np.random.Generator) -> Objective:
        """The objective to improve: the metric, or for several metrics a new scalarization for each proposal."""
        several = self.study.values.shape[1] > 1
        if self._focus is None or several:
            values = self.study.values[:, 0]
            if several:
                values = scalarize(self.study.values, random_direction(rng, self.study.values.shape[1]))
            self._focus = Objective.of(self.study, values, 0, self.settings.max_trials)
        return self._focus

    def _cold(self, focus: Objective) -> bool:
        """Whether too little is known to trust the model: greedy acquisition on a weak model climbs where it stands."""
        needed = self.settings.initial(self.space.slots)
        finished = int((~self.study.pending).sum())
        # Where nearly everything fails, finite values may never come; then feasibility is what there is to learn.
        return focus.finite < needed and finished < 3 * needed

    def _trusted(self, focus: Objective) -> bool:
        """Whether the model passes the test on the newest trials (`trust`)."""
        if self._trust is None:
            known = focus.shown[np.isfinite(focus.values[focus.shown])]
            count = tested_trials(len(known)) if self.settings.check_trust else 0
            self._trust = True
            if count:
                before, newest = known[:-count], known[-count:]
                history = self._encode(focus, self.study.x_tokens[before], focus.y_tokens[before], True)
                _, logits = self.model.score(history, self.study.x_tokens[newest])
                self._trust = predicts(logits, focus.y_tokens[newest], focus.y_tokens[before])
        return self._trust

    def _cold_start(self, rng: np.random.Generator) -> Proposal:
        taken = self._taken()
        row = self._default()
        if row is not None and len(sources.new_ones(row, taken)):
            return Proposal(row[0], DEFAULT)
        first = len(self.study.trials) + len(self.proposals)
        return Proposal(self._first_new(self._quasi_random(first, rng), taken, rng), QUASI_RANDOM)

    def _default(self) -> np.ndarray | None:
        """The declared default values as a configuration [1, D], the rest in the middle or where constraints allow."""
        found = sources.default_row(self.study.schema)
        if found is None:
            return None
        row, declared = found
        rows = sources.configurations(row[None], self.space)
        if self.constraints and not self.constraints.allowed(rows)[0]:
            if declared.all():
                raise ValueError(f"study {self.constraints.study!r}: the default values break a constraint")
            # The same for every trial, or each would be a default of its own.
            unit = np.random.default_rng(self.seed).random((512, self.space.slots))
            others = sources.from_unit_cube(unit, self.space)
            rows = sources.configurations(np.where(declared[None], row[None], others), self.space)
            rows = rows[self.constraints.allowed(rows)][:1]
        return rows if len(rows) else None

    def _by_policy(self, focus: Objective, rng: np.random.Generator) -> Proposal:
        history = self._policy_history(focus)
        drawn = self.model.sample(history, self.study.schema.legality, _seed(rng), self.settings.policy_samples)
        # The first sample is a fair one; later ones only stand in for it where it is taken.
        row = self._first_new(self._legal(self._as_genotypes(drawn, rng), rng), self._taken(), rng)
        value = float(self.model.policy_log_probability(history, row[None])[0])
        return Proposal(row, POLICY, value, self._predict(focus, row))

    def _by_acquisition(self, focus: Objective, rng: np.random.Generator) -> Proposal:
        taken = self._taken()
        name = self.acquisition if focus.finite else "pi"
        if name == "ei" and (self.study.statuses == tokens.INFEASIBLE).any():
            name = CAUTIOUS_EI
        # With no finite value there is nothing to improve on: an incumbent below everything leaves P(feasible).
        history = self._function_history(focus)
        incumbent = self._incumbent(focus, history) if focus.finite else -1e6
        pool = Pool(self.space, taken)

        def score(genotypes: np.ndarray) -> None:
            fresh = pool.fresh(genotypes if self.region is None else self.region.repaired(genotypes, rng))
            if len(fresh):
                rows = sources.configurations(fresh, self.space)
                values, logits = self.model.score(history, rows, name, incumbent, _seed(rng))
                pool.add(fresh, rows, values, logits)

        if self.everything is not None:
            left = self.everything[sources.new_ones(self.everything, taken)]
            if not len(left):  # exhausted: repeats are all there is, but not within this batch if it can be helped
                batch = self._proposed_rows()
                left = self.everything[sources.new_ones(self.everything, batch)]
                pool = Pool(self.space, batch if len(left) else batch[:0])
                left = left if len(left) else self.everything
            score(sources.genotypes(rng, left, self.space))
        else:
            score(self._first_candidates(focus, rng))
            for number in range(self.settings.rounds):
                score(self._refined_candidates(pool.best(16), number, rng))
        if not len(pool):  # every candidate was taken already: all but exhausted
            row = self._first_new(self._quasi_random(len(self.study.trials), rng), taken, rng)
            return Proposal(row, QUASI_RANDOM, None, self._predict(focus, row))
        row, value, logits = pool.winner()
        prediction = Prediction.from_logits(logits[None], focus.scaling, self._sign())
        return Proposal(row, self.acquisition if focus.finite else FEASIBILITY, value, prediction)

    def _incumbent(self, focus: Objective, history: Any) -> float:
        """u to improve on."""
        if self.settings.incumbent == "observed":
            return focus.incumbent
        known = focus.shown[np.isfinite(focus.values[focus.shown])]
        _, logits = self.model.score(history, self.study.x_tokens[known])
        return min(float(Prediction.from_logits(logits, UNIT, 1.0).mean.max()), 1.0)

    # Candidates, all as genotypes.

    def _first_candidates(self, focus: Objective, rng: np.random.Generator) -> np.ndarray:
        settings, space = self.settings, self.space
        total = settings.first_candidates
        parts = [self._as_genotypes(self._samples(focus, rng), rng)[: total // 2]]
        good = self._good_trials(focus, rng)
        if len(good):
            near = int(0.4 * total)
            parts.append(sources.on_bounds(rng, good, min(2 * space.slots + 16, total // 8), space))
            parts.append(sources.crossed(rng, good, total // 10, space))
            parts.append(sources.perturbed(rng, good, near, space, np.array([0.2, 0.05, 0.01, 0.003])))
        known = sum(len(part) for part in parts)
        spread = max(total - known, int(settings.global_share * total))
        # Elsewhere than the points of the cold start, and elsewhere each time.
        parts.append(sources.quasi_random(space, 0, spread, int(rng.integers(2**31))))
        if self.region is not None:
            parts.insert(0, self.region.examples(total // 8, rng))
        return np.concatenate(parts)[: total + spread]

    def _refined_candidates(self, best: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
        settings, space = self.settings, self.space
        total = settings.round_candidates
        spread = int(settings.global_share * total)
        parts = [sources.quasi_random(space, 0, spread, int(rng.integers(2**31)))]
        if len(best):
            scales = np.array([0.1, 0.03, 0.01]) * 0.3**number
            parts.append(sources.on_bounds(rng, best, min(2 * space.slots, total // 8), space))
            parts.append(sources.crossed(rng, best, total // 8, space))
            parts.append(sources.perturbed(rng, best, total - sum(map(len, parts)), space, scales))
        return np.concatenate(parts)

    def _good_trials(self, focus: Objective, rng: np.random.Generator) -> np.ndarray:
        """The best tenth of the known trials, at least 5, at most 16, the best first."""
        known = np.flatnonzero(np.isfinite(focus.values))
        best = known[np.argsort(-focus.values[known], kind="stable")][: min(16, max(5, len(known) // 10))]
        return sources.genotypes(rng, self.study.x_tokens[best], self.space)

    def _samples(self, focus: Objective, rng: np.random.Generator) -> np.ndarray:
        """Policy samples, drawn once per call: pending points of this batch change them little."""
        if self._policy_samples is None or self.study.values.shape[1] > 1:
            history = self._policy_history(focus)
            legality = self.study.schema.legality
            self._policy_samples = self.model.sample(history, legality, _seed(rng), self.settings.policy_samples)
        return self._policy_samples

    def _as_genotypes(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return sources.genotypes(rng, rows, self.space)

    # Histories.

    def _encode(self, focus: Objective, rows: np.ndarray, y_tokens: np.ndarray, order_free: bool) -> Any:
        return encoded(self.model, self.study, focus.metric, self.algorithm, rows, y_tokens, order_free)

    def _policy_history(self, focus: Objective) -> Any:
        rows = np.concatenate([self.study.x_tokens[focus.shown], self._proposed_rows()])
        pending = np.full(len(self.proposals), tokens.PENDING, np.int32)
        y_tokens = np.concatenate([focus.y_tokens[focus.shown], pending])
        return self._encode(focus, rows, y_tokens, False)

    def _function_history(self, focus: Objective) -> Any:
        """The finished trials, and the pending ones with their fantasies."""
        shown = focus.shown
        finished = shown[~self.study.pending[shown]]
        rows, y_tokens = self.study.x_tokens[finished], focus.y_tokens[finished]
        history = self._encode(focus, rows, y_tokens, True)
        pending = np.concatenate([self.study.x_tokens[shown[self.study.pending[shown]]], self._proposed_rows()])
        if not len(pending):
            return history
        _, logits = self.model.score(history, pending)
        rows, y_tokens = np.concatenate([rows, pending]), np.concatenate([y_tokens, fantasies(logits)])
        return self._encode(focus, rows, y_tokens, True)

    def _predict(self, focus: Objective, row: np.ndarray) -> Prediction:
        _, logits = self.model.score(self._function_history(focus), row[None])
        return Prediction.from_logits(logits, focus.scaling, self._sign())

    def _sign(self) -> float:
        """A scalarization is its own unit, and maximised."""
        return self.study.sign(0) if self.study.values.shape[1] == 1 else 1.0

    # What may be proposed.

    def _proposed_rows(self) -> np.ndarray:
        rows = [proposal.row for proposal in self.proposals]
        return np.array(rows, np.int32).reshape(len(rows), self.space.slots)

    def _taken(self) -> np.ndarray:
        return np.concatenate([self.study.x_tokens, self._proposed_rows()])

    def _quasi_random(self, first: int, rng: np.random.Generator) -> np.ndarray:
        """Configurations of the cold start's sequence from its point `first` on."""
        count = 1024 if self.constraints else 64
        return self._legal(sources.quasi_random(self.space, first, count, self.seed), rng)

    def _legal(self, genotypes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """As configurations; first those that the constraints allow as they are, then the others, repaired."""
        rows = sources.configurations(genotypes, self.space)
        if not self.constraints:
            return rows
        allowed = self.constraints.allowed(rows)
        if self.region is None:
            return rows[allowed]
        repaired = self.region.repaired(genotypes[~allowed], rng)
        return np.concatenate([rows[allowed], sources.configurations(repaired, self.space)])

    def _first_new(self, rows: np.ndarray, taken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The first row that is not taken; else any that is not; else, the space being exhausted, the first one."""
        fresh = sources.new_ones(rows, taken)
        if len(fresh):
            return rows[fresh[0]]
        if self.everything is not None:
            for excluded in (taken, self._proposed_rows()):
                left = sources.new_ones(self.everything, excluded)
                if len(left):
                    return self.everything[left[int(rng.integers(len(left)))]]
            return self.everything[0]
        near = sources.perturbed(rng, self._as_genotypes(rows, rng), 1024, self.space, np.array([0.02, 0.2]))
        near = self._legal(near, rng)
        fresh = sources.new_ones(near, taken)
        return near[fresh[0]] if len(fresh) else rows[0]


def encoded(
    model: CompiledModel,
    study: EncodedStudy,
    metric: int,
    algorithm: str | None,
    rows: Int32[np.ndarray, "trial slot"],
    y_tokens: Int32[np.ndarray, " trial"],
    order_free: bool,
) -> Any:
    """These trials as the model's history: `order_free` for the function head, with trial order for the policy head."""
    row = study.row(rows, y_tokens, algorithm=algorithm, metric=metric, order_free=order_free)
    return model.encode(history_batch(row))


def fantasies(logits: Float[np.ndarray, "pending output"]) -> Int32[np.ndarray, " pending"]:
    """Objective tokens for pending trials: the predicted median or the history's own, whichever is worse; INFEASIBLE
    where that is likelier than not."""
    prediction = Prediction.from_logits(logits, UNIT, 1.0)
    medians = objective.to_bins(prediction.quantile(0.5), UNIT)
    return np.where(prediction.infeasible > 0.5, tokens.INFEASIBLE, np.minimum(medians, _MEDIAN_BIN)).astype(np.int32)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
