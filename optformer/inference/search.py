"""The search for the next trials of a study.

How an acquisition finds a suggestion:

  1. the history is encoded twice: with the order of trials for the policy head, without it for the function head;
  2. candidates from the policy, quasi-random points, neighbours and crossovers of the best trials, and points on the
     bounds are scored in parallel against the encoded history;
  3. in a few more rounds, candidates around the best ones so far are scored, at shrinking distances, together with some
     global ones;
  4. the best candidate becomes the suggestion.

Each objective and each constraint on outcomes is predicted separately; `several_metrics` combines the predictions.  The
policy reads one random scalarization of the objectives, and trials that violate a constraint count as failed.

Acquisition values are multiplied by the user's belief (`beliefs`) and divided by the cost of a trial (`costs`).

After every fourth trial, the model is tested on the newest trials.  If it predicts them worse than a smoothed histogram
of the objectives before them, every other suggestion is quasi-random, until the next test.

State kept between calls is only a cache.

Notation: T trials, D slots, N candidates; u as in `prediction`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from jaxtyping import Float

from optformer.inference import beliefs, costs
from optformer.inference.acquisition import CAUTIOUS_EI, POLICY, check_acquisition
from optformer.inference.candidates import (
    Candidates,
    as_genotypes,
    configurations,
    new_ones,
)
from optformer.inference.failures import nearby_success
from optformer.inference.history import Objective
from optformer.inference.hypervolume import random_directions, scalarize
from optformer.inference.pool import Pool
from optformer.inference.prediction import UNIT, Prediction
from optformer.inference.proposable import Proposable, Proposal, next_seed
from optformer.inference.rounds import refined_candidates
from optformer.inference.several_metrics import FEASIBILITY, Metric, SeveralMetrics, least_holding
from optformer.inference.trust import TESTED_EVERY, gains, on_plateau, predicts, tested_trials
from optformer.model.interface import History
from optformer.model.precision import single_precision
from optformer.serialization import objective, tokens

QUASI_RANDOM: Final = "quasi-random"
DEFAULT: Final = "default"
BELIEF: Final = "belief"
"""Sources of suggestions other than the requested acquisition."""

_CONTENDERS: Final = 32
"""The best predicted mean of a known trial is sought among so many of the best observed ones."""

Scorer: TypeAlias = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Configurations [N, D] and a seed -> acquisition values [N] and logits [N, V], or [N, M, V] with several metrics."""


class Search(Proposable):
    """Proposals for one study, one after the other.

    They depend on the arguments only, so every process gets the same.
    """

    def __init__(self, *arguments: Any, acquisition: str = "ei", cost: str | None = None, **keywords: Any):
        """
        Args:
          arguments, keywords: further arguments of `Proposable`.
          acquisition: name of the acquisition, or `policy`.
          cost: metric by which the acquisition is divided; takes precedence over the one attached to the problem.

        Raises:
          ValueError: unknown acquisition, one that cannot be divided by a cost, or a negative seed.
        """
        check_acquisition(acquisition)
        super().__init__(*arguments, **keywords)
        self._acquisition = acquisition
        self._cost = costs.check_cost(cost, acquisition)
        self._focus: Objective | None = None
        self._trust: bool | None = None

    # Proposals.

    @single_precision
    def suggest(self, count: int) -> list[Proposal]:
        """`count` proposals, one after the other; each treats those before it as pending.

        None repeats a finished or pending configuration or another proposal, unless the space is exhausted.

        Raises:
          ValueError: negative count, constraints that cannot be read or satisfied, a belief that does not fit the
            search space.
        """
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        while len(self.proposals) < count:
            self.proposals.append(self._with_belief_and_cost(self._next()))
        return self.proposals[:count]

    @functools.cached_property
    def _costs(self) -> costs.PredictedCosts | None:
        cost = self._cost or costs.check_cost(costs.attached(self.study.schema.problem), self._acquisition)
        study = None if cost is None else costs.cost_study(self.study, cost)
        return None if study is None else costs.PredictedCosts(Search(self._model, self._settings, study))

    @functools.cached_property
    def _some_failed(self) -> bool:
        return bool((self.study.statuses == tokens.INFEASIBLE).any())

    @property
    def _finished(self) -> int:
        return int((~self.study.pending).sum())

    def _next(self) -> Proposal:
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, len(self.study.trials), len(self.proposals)]))
        if self._space.slots == 0 and self._everything is not None:
            return Proposal(self._everything[0], QUASI_RANDOM)
        focus = self._focused(rng)
        if self._acquisition == POLICY:
            return self._by_policy(focus, rng)
        if not focus.finite and (default := self._new_default()) is not None:
            return default
        if self._first_trials and (len(self.study.trials) + len(self.proposals)) % 3 < 2:
            return self._by_belief(focus, rng)
        if self._cold(focus) or (self._explores(focus) and rng.random() < 0.5):
            return self._cold_start(rng)
        return self._by_acquisition(focus, rng)

    def _focused(self, rng: np.random.Generator) -> Objective:
        """The objective to improve: the single objective, or for several a new random scalarization per proposal."""
        several = self.study.values.shape[1] > 1
        if self._focus is None or several:
            values = self.study.values[:, 0]
            if several:
                values = scalarize(self.study.values, random_directions(rng, 1, self.study.values.shape[1])[0])
            reports = 0 if several else self._reports_shown
            self._focus = Objective.of(self.study, values, 0, self._shown, reports=reports)
        return self._focus

    def _cold(self, focus: Objective) -> bool:
        """Whether too few trials are known to use the model: with few, a greedy acquisition stays near known trials."""
        needed = self._settings.initial(self._space.slots)
        # If nearly all trials fail, there may never be enough finite values; then the search looks for feasible ones.
        return focus.finite < needed and self._finished < 3 * needed

    def _explores(self, focus: Objective) -> bool:
        """Whether half of the suggestions are quasi-random."""
        single = self.study.values.shape[1] == 1
        if single and self._settings.check_trust and on_plateau(focus.values[np.isfinite(focus.values)]):
            return True
        return not self._trusted()

    def _trusted(self) -> bool:
        """Whether the model passes the test on the newest trials (`trust`)."""
        if self._trust is None:
            self._trust = not self._settings.check_trust or self._passes_test()
        return self._trust

    def _passes_test(self) -> bool:
        # The same trials for several suggestions in a row, so that their encoded history comes from the cache.
        study = self.study.first(len(self.study.trials) // TESTED_EVERY * TESTED_EVERY)
        # No more trials than the policy reads, to save time, and no reports: those of the newest trials would reveal
        # their final values.
        limit = self._room - self._further
        first = Objective.of(study, study.metric_values(0), 0, limit)
        others = range(1, study.values.shape[1])
        objectives = [first, *(Objective.of(study, study.metric_values(k), k, limit, first.shown) for k in others)]
        known = first.shown[np.isfinite(study.values[first.shown]).all(axis=1)]
        count = tested_trials(len(known))
        if not count:
            return True
        before, newest = known[:-count], known[-count:]
        found = []
        for each in objectives:
            history = self._encode(each, study.x_tokens[before], each.y_tokens[before], True)
            _, logits = self._model.score(history, study.x_tokens[newest])
            found.append(gains(logits, each.y_tokens[newest], each.y_tokens[before]))
        return predicts(np.sum(found, axis=0))

    def _cold_start(self, rng: np.random.Generator) -> Proposal:
        default = self._new_default()
        if default is not None:
            return default
        first = len(self.study.trials) + len(self.proposals)
        return Proposal(self._first_new(self._quasi_random(first, rng), self._taken(), rng), QUASI_RANDOM)

    @functools.cached_property
    def _first_trials(self) -> bool:
        """Whether two of three trials are drawn from the belief, and the third ignores it.

        This also holds if the model suggests the first trials: an acquisition would always pick the mode of the belief,
        and trials that lie close together give little information.
        """
        count = dataclasses.replace(self._settings, start="quasi-random").initial(self._space.slots)
        known = np.isfinite(self.study.values).all(axis=1).sum()
        return bool(self._beliefs) and known < count and self._finished < 2 * count

    def _by_belief(self, focus: Objective, rng: np.random.Generator) -> Proposal:
        """The mode of the belief before any trial, later draws from it.  The other parameters are samples of the policy
        if the model may suggest first trials."""
        number, others = len(self.study.trials) + len(self.proposals), None
        if self._settings.start == "model":
            others = as_genotypes(rng, self._samples(focus, rng), self._space)
        drawn = self._beliefs.draws(number, 1024 if self._limits else 64, self._seed, others)
        if not number:
            drawn = np.concatenate([self._beliefs.modes(drawn), drawn])
        candidates = self._legal(Candidates.of(drawn, self._space), rng)
        return Proposal(self._first_new(candidates, self._taken(), rng), BELIEF)

    def _new_default(self) -> Proposal | None:
        """The declared default values; None if there are none or they are taken."""
        row = self._default()
        return None if row is None or not len(new_ones(row, self._taken())) else Proposal(row[0], DEFAULT)

    def _by_policy(self, focus: Objective, rng: np.random.Generator) -> Proposal:
        history = self._policy_history(focus)
        drawn = self._drawn(history, rng)
        if self._beliefs:  # weighted resampling with the Gumbel-max trick
            weights = self._log_weights(configurations(as_genotypes(rng, drawn, self._space), self._space))
            drawn = drawn[np.argsort(-weights - rng.gumbel(size=len(drawn)), kind="stable")]
        # The first sample follows the policy exactly; later ones are used only if it is taken.
        row = self._first_new(self._legal(self._candidates(drawn, rng), rng), self._taken(), rng)
        value = float(self._model.policy_log_probability(history, row[None])[0])
        return self._predicted(Proposal(row, POLICY, value), focus)

    def _by_acquisition(self, focus: Objective, rng: np.random.Generator) -> Proposal:
        taken = self._taken()
        metrics = self._metrics(focus)
        compare, source = self._comparison(focus, metrics, rng)
        pool = Pool(taken)

        def score(candidates: Candidates) -> None:
            fresh = pool.fresh(candidates if self._region is None else self._region.repaired(candidates, rng))
            if len(fresh):
                values, logits = compare(fresh.rows, next_seed(rng))
                pool.add(fresh, self._weighed(values, fresh.rows, source), logits)

        if self._everything is not None:
            left = self._everything[new_ones(self._everything, taken)]
            if not len(left):  # exhausted: repeat known trials, but avoid repeats within this batch if possible
                batch = self._proposed_rows()
                left = self._everything[new_ones(self._everything, batch)]
                pool = Pool(batch if len(left) else batch[:0])
                left = left if len(left) else self._everything
            score(self._candidates(left, rng))
        else:
            score(Candidates.of(self._first_candidates(focus, rng), self._space))
            for number in range(self._settings.rounds):
                score(
                    Candidates.of(
                        refined_candidates(rng, self._space, self._settings, pool.best(16), number), self._space
                    )
                )
        if not len(pool):  # every candidate is taken: the space is nearly exhausted
            row = self._first_new(self._quasi_random(len(self.study.trials), rng), taken, rng)
            return self._predicted(Proposal(row, QUASI_RANDOM), focus)
        row, value, logits = pool.winner()
        proposal = Proposal(row, source, value)
        if source != FEASIBILITY and not focus.finite:  # the objective's unit is not known yet
            return proposal
        return self._with_predictions(proposal, metrics, logits.reshape(len(metrics), -1))

    def _comparison(self, focus: Objective, metrics: Sequence[Metric], rng: np.random.Generator) -> tuple[Scorer, str]:
        """The scorer of configurations, and the source that proposals by it report."""
        begins = self._settings.start == "model" and not focus.finite and not self._some_failed
        if len(metrics) > 1:
            succeeded = bool((np.isfinite(focus.values) & self.study.holds).any())
            source = self._acquisition if succeeded or begins else FEASIBILITY
            several = SeveralMetrics(
                self._model,
                metrics,
                source,
                self._best(focus, metrics),
                cautious=self._some_failed,
                least=least_holding(self.study),
                seed=next_seed(rng),
            )
            return several.score, source
        history = metrics[0].history
        name = self._acquisition if focus.finite or begins else "pi"
        if name == "ei" and self._some_failed:
            name = CAUTIOUS_EI
        if focus.finite:
            incumbent = self._incumbent(focus, history)
        else:
            # The first trials improve on the median of the study.  If all trials have failed, an incumbent below every
            # value reduces the acquisition to P(feasible).
            incumbent = 0.0 if begins else -1e6

        def score(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
            return self._model.score(history, rows, name, incumbent, seed)

        return score, self._acquisition if focus.finite or begins else FEASIBILITY

    def _weighed(self, values: np.ndarray, rows: np.ndarray, source: str) -> np.ndarray:
        """Acquisition values, weighted by the user's belief, the cost, and how the trials nearby have ended."""
        if source == "ei" and self._some_failed:
            values = np.where(values > 0, values * nearby_success(self.study, rows), values)
        if not self._beliefs and self._costs is None:
            return values
        weights, one = self._log_weights(rows), self.study.values.shape[1] == 1
        if source in ("ucb", "thompson") and one:  # may be negative: add the weights, one nat as one good range
            return values + weights
        # Negative values rank last anyway.
        return np.where(values > 0, values * np.exp(weights), values)

    def _log_weights(self, rows: np.ndarray) -> np.ndarray:
        """Log of the factor on the acquisition of each configuration, [N]."""
        weights = np.zeros(len(rows))
        if self._beliefs and not self._first_trials:
            weights += beliefs.power(self._finished) * self._beliefs.log_density(rows)
        if self._costs is not None:
            weights -= costs.alpha(self._finished) * self._costs.log_ratio(rows)
        return weights

    def _incumbent(self, focus: Objective, history: History) -> float:
        """u to improve on; at most the median of the study if `_to_beat` is empty."""
        known = self._to_beat(focus)
        if not len(known):
            return min(0.0, focus.incumbent)
        if self._settings.incumbent == "observed":
            best = objective.in_good_ranges(focus.values[known].max(), focus.scaling)
        else:
            contenders = known[np.argsort(-focus.values[known], kind="stable")[:_CONTENDERS]]
            _, logits = self._model.score(history, self.study.x_tokens[contenders])
            best = Prediction.from_logits(logits, UNIT, 1.0).mean.max()
        return min(float(best), 1.0)

    def _best(self, focus: Objective, metrics: Sequence[Metric]) -> Float[np.ndarray, "trial objective"]:
        """u of the trials to improve on, in each objective."""
        objectives = metrics[: self.study.values.shape[1]]
        if len(objectives) == 1:
            return np.array([[self._incumbent(focus, metrics[0].history)]])
        known = self._to_beat(focus)
        if not len(known):  # the median of the study
            return np.zeros((1, len(objectives)))
        if self._settings.incumbent == "observed":
            best = [objective.in_good_ranges(o.values.values[known], o.values.scaling) for o in objectives]
        else:
            rows = self.study.x_tokens[known]
            logits = [self._model.score(each.history, rows)[1] for each in objectives]
            best = [Prediction.from_logits(each, UNIT, 1.0).mean for each in logits]
        return np.stack(best, axis=1)

    def _to_beat(self, focus: Objective) -> np.ndarray:
        """Indices of the trials to improve on: those that the model reads, have a value and violate no constraint."""
        return focus.shown[np.isfinite(focus.values[focus.shown]) & self.study.holds[focus.shown]]

    def _predicted(self, proposal: Proposal, focus: Objective) -> Proposal:
        """The proposal with the model's predictions."""
        metrics = self._metrics(focus)
        logits = [self._model.score(each.history, proposal.row[None])[1][0] for each in metrics]
        return self._with_predictions(proposal, metrics, np.stack(logits))

    def _with_predictions(
        self, proposal: Proposal, metrics: Sequence[Metric], logits: Float[np.ndarray, "metric output"]
    ) -> Proposal:
        predictions = [
            Prediction.from_logits(logits[k : k + 1], each.values.scaling, self.study.sign(k))
            for k, each in enumerate(metrics)
        ]
        holds = [
            float(each.holds(logits[k : k + 1])[0]) for k, each in enumerate(metrics) if each.threshold is not None
        ]
        return dataclasses.replace(proposal, predictions=tuple(predictions), holds=tuple(holds))

    def _with_belief_and_cost(self, proposal: Proposal) -> Proposal:
        """The proposal with its density under the belief and its predicted cost."""
        row = proposal.row[None]
        belief = float(np.exp(self._beliefs.log_density(row)[0])) if self._beliefs else None
        cost = None if self._costs is None else float(self._costs.of(row)[0])
        return dataclasses.replace(proposal, belief=belief, cost=cost)
