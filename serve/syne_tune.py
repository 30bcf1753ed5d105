"""OptFormer for Syne Tune: a searcher, and a scheduler, which stops trials by their predicted final value.

scheduler = SingleObjectiveScheduler(
    config_space, metric="loss", do_minimize=True, searcher=OptFormerSearcher(config_space, random_seed=0)
)
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.extras import from_extra

with from_extra("syne-tune", user="searcher or scheduler"):
    from syne_tune import config_space as spaces
    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer.scheduler import SchedulerDecision
    from syne_tune.optimizer.schedulers.searchers.single_objective_searcher import SingleObjectiveBaseSearcher
    from syne_tune.optimizer.schedulers.single_objective_scheduler import SingleObjectiveScheduler
    from syne_tune.util import is_increasing

from optformer.facade import OptFormer, load
from optformer.inference import costs
from optformer.inference.acquisition import check_acquisition
from optformer.inference.beliefs import Belief, checked_belief
from optformer.inference.constraints import Constraint
from optformer.inference.early_stopping import THRESHOLD, stopping
from optformer.serialization.prior_studies import checked_studies
from optformer.serve.domains import Choices, Continuous, Domain, Numbers, Steps, own_values
from optformer.serve.prior_studies import in_domains
from optformer.serve.recorded_study import RUNNING, Recorded, RecordedStudy

OBJECTIVE: Final = "objective"
"""Name of the metric, which Syne Tune does not pass to searchers.  It is always minimized: the scheduler negates it if
necessary."""

_logger = logging.getLogger(__name__)


class OptFormerSearcher(SingleObjectiveBaseSearcher):
    """Suggests through `OptFormer.suggest`; its only state is the trials that were reported to it.

    Running trials are pending, failed ones infeasible.  Syne Tune's own schedulers do not report to a searcher which
    trials they stop (`OptFormerScheduler` does).  So a trial that has reported counts with a final value that is
    extrapolated from its reports (`optformer.inference.stopped`) until it is complete.  The same seed and the same
    trials give the same suggestions, so a new searcher that gets the finished trials continues like the old one.  The
    searcher never ends the experiment; the tuner's stopping criterion does.
    """

    def __init__(
        self,
        config_space: dict[str, Any],
        points_to_evaluate: list[dict[str, Any]] | None = None,
        random_seed: int | None = None,
        *,
        model: OptFormer | str = "default",
        acquisition: str = "ei",
        algorithm: str | None = None,
        constraints: Sequence[Constraint] = (),
        prior_studies: Sequence[vz.ProblemAndTrials] = (),
        belief: Mapping[str, Belief] | None = None,
        cost: str | None = None,
    ):
        """
        Args:
          config_space: Syne Tune's domains and constants by name.
          points_to_evaluate: run first, in order.  The model chooses the parameters that a point lacks.
          random_seed: non-negative; None draws one.
          model: a loaded model, a shipped name (`default`: the best for a CPU), or a checkpoint directory; loaded
            once per process.
          acquisition: `ei`, `pi`, `ucb`, `thompson` or `policy`.
          algorithm: the optimizer to imitate, by its name in the corpus.
          constraints: what the parameters of a suggestion must satisfy, as for `OptFormer.suggest`.
          prior_studies: earlier studies of the same or an overlapping search space with one objective each, as for
            `OptFormer.suggest`.  Their trials have the values with which they were run.
          belief: where good values lie, as for `OptFormer.suggest`; weights are by the values of the space.
          cost: name of a number in the last result of each trial, such as `st_worker_time`, as for `OptFormer.suggest`.
            Needs `OptFormerScheduler`: other schedulers pass only the metric to a searcher.

        Raises:
          ValueError: unknown model or acquisition, negative seed, nothing to tune, a domain that cannot be searched, a
            point outside the space, a belief that does not fit it (names the parameter), or a cost with another
            acquisition than `ei` or `pi`.
          TypeError: `prior_studies` contains anything other than studies with their trials.
        """
        if random_seed is not None and random_seed < 0:
            raise ValueError(f"random_seed must not be negative, got {random_seed}")
        super().__init__(config_space, points_to_evaluate=points_to_evaluate, random_seed=random_seed)
        load(model)
        # The tuner saves its searcher repeatedly, so only the name of the model is written.
        self._model = model
        self._acquisition, self._algorithm = check_acquisition(acquisition), algorithm
        self._constraints = tuple(constraints)
        self._domains = _domains(config_space)
        self._cost = costs.check_cost(cost, acquisition)
        self._study = RecordedStudy(self._domains, {OBJECTIVE: False}, checked_belief(belief, "OptFormerSearcher"))
        wanted = "studies with their trials (vizier.pyvizier.ProblemAndTrials)"
        earlier = checked_studies(prior_studies, (vz.ProblemAndTrials,), wanted)
        self._prior_studies = [in_domains(each, self._domains) for each in earlier]
        for index, point in enumerate(self.points_to_evaluate):
            self._own(point, f"points_to_evaluate[{index}]", partial=True)

    def _own(self, config: Mapping[str, Any], which: str, partial: bool = False) -> dict[str, Any]:
        """The domains' own values of a configuration, which may hold the constants too."""
        chosen = {k: v for k, v in config.items() if k in self._domains or k not in self.config_space}
        return own_values(self._domains, chosen, which, partial)

    def suggest(self, **kwargs: object) -> dict[str, Any]:
        """The next configuration, constants included; never None.

        Raises:
          ValueError: as `OptFormer.suggest`; also if `cost` is given and the scheduler does not report costs.
        """
        if self._cost is not None and not self._study.ends_are_told:
            raise ValueError(
                f"OptFormerSearcher(cost={self._cost!r}) needs OptFormerScheduler: other schedulers do not pass costs "
                "to a searcher"
            )
        point = self._next_points_to_evaluate()
        own = {} if point is None else self._own(point, "points_to_evaluate", partial=True)
        if len(own) < len(self._domains):
            own = self._study.suggest(
                load(self._model),
                acquisition=self._acquisition,
                algorithm=self._algorithm,
                seed=int(self.random_seed),
                constraints=self._constraints,
                given=own,
                prior_studies=self._prior_studies,
                cost=self._cost,
            )
        self._study.record(None, own)
        return {name: own.get(name, value) for name, value in self.config_space.items()} | (point or {}) | own

    def on_trial_result(
        self, trial_id: int, config: dict[str, Any], metric: float, resource_level: int | None = None
    ) -> None:
        """Keeps an intermediate result.  The trial counts with its results so far until it is complete.

        Raises:
          ValueError: a configuration outside the space (names trial and parameter).
        """
        trial = self._trial(trial_id, config)
        counted = trial.reports[-1][0] + 1 if trial.reports else 1
        trial.report(counted if resource_level is None else int(resource_level), metric)

    def on_trial_complete(
        self, trial_id: int, config: dict[str, Any], metric: float, resource_level: int | None = None
    ) -> None:
        """Ends a trial, also one that this searcher did not suggest.  A second result replaces the first.

        Raises:
          ValueError: a configuration outside the space (names trial and parameter).
        """
        self._trial(trial_id, config).finish([metric])

    def on_trial_error(self, trial_id: int) -> None:
        """Ends a trial as failed."""
        trial = self._study.find(int(trial_id)) or self._nameless(int(trial_id))
        if trial is None:
            _logger.warning("trial %s was not suggested by this searcher; its failure is ignored", trial_id)
            return
        trial.trial_id = int(trial_id)
        trial.finish(None, failed=True)

    def _should_stop(self, trial_id: int, threshold: float) -> bool:
        """Whether a trial that has reported is not worth its remaining budget."""
        trials = self._study.pyvizier()
        trial = self._study.find(int(trial_id))
        assert trial is not None
        running = trials[self._study.trials.index(trial)]
        return stopping(load(self._model), self._study.problem, trials, running, threshold).stop

    def _end_early(self, trial_id: int) -> None:
        """Ends a trial as stopped, unless it has already ended."""
        trial = self._study.find(int(trial_id))
        if trial is not None and trial.state == RUNNING:
            trial.finish(None)

    def _keep_cost(self, trial_id: int, result: Mapping[str, Any]) -> None:
        """Keeps the cost of a complete trial; a warning names the trial if the cost is not positive and finite."""
        trial = self._study.find(int(trial_id))
        if self._cost is not None and self._cost in result and trial is not None:
            value = costs.usable_value(result[self._cost], self._cost, f"trial {trial_id}")
            trial.costs = {} if value is None else {self._cost: value}

    def _trial(self, trial_id: int, config: Mapping[str, object]) -> Recorded:
        """The trial with this id.  Syne Tune assigns ids after suggestions, so new ids are matched by the values."""
        number = int(trial_id)
        known = self._study.find(number)
        if known is not None:
            return known
        own = self._own(config, f"trial {number}")
        parameters = self._study.to_model(own)
        for trial in self._study.trials:
            if trial.trial_id is None and trial.parameters == parameters:
                trial.trial_id = number
                return trial
        return self._study.record(number, own)

    def _nameless(self, number: int) -> Recorded | None:
        """The suggestion whose trial failed before its first report; ids follow the order of suggestions."""
        trials = self._study.trials
        if number < len(trials) and trials[number].trial_id is None:
            return trials[number]
        return next((trial for trial in trials if trial.trial_id is None), None)


class OptFormerScheduler(SingleObjectiveScheduler):
    """Runs the suggestions of an `OptFormerSearcher`, and stops trials that are unlikely to become the best.

        searcher = OptFormerSearcher(config_space)
        scheduler = OptFormerScheduler(config_space, "loss", searcher=searcher, time_attr="epoch")

    No trial is stopped before four have finished, or while it is ahead of all other running trials.  The budget is the
    largest step of any trial (`optformer.inference.early_stopping`).  The scheduler reports to the searcher which
    trials it has stopped, and the cost of each trial.
    """

    searcher: OptFormerSearcher

    def __init__(
        self,
        config_space: dict[str, Any],
        metric: str,
        do_minimize: bool = True,
        *,
        searcher: OptFormerSearcher,
        time_attr: str | None = None,
        threshold: float = THRESHOLD,
    ):
        """
        Args:
          config_space: as the searcher's.
          metric: name of the objective in the results.
          do_minimize: whether small values are good.
          searcher: its model, which must be trained with learning curves, decides which trials are stopped.
          time_attr: name of the step in the results, such as the epoch; None: results are counted.
          threshold: probability of a new best value below which a trial is stopped.  0: none is stopped, and the
            checkpoint need not be trained with learning curves.

        Raises:
          TypeError: the searcher is not an `OptFormerSearcher`.
          ValueError: a threshold outside [0, 1], or a checkpoint that was not trained with learning curves.
        """
        if not isinstance(searcher, OptFormerSearcher):
            raise TypeError(f"OptFormerScheduler needs an OptFormerSearcher, not {type(searcher).__name__}")
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold is a probability between 0 and 1, not {threshold}")
        if threshold > 0.0:
            load(searcher._model).check_reads_reports()
        super().__init__(config_space, metric, do_minimize, searcher, random_seed=int(searcher.random_seed))
        searcher._study.ends_are_told = True
        self._time_attr, self._threshold = time_attr, threshold

    def on_trial_result(self, trial: Trial, result: dict[str, Any]) -> str:
        """Records a report of the trial, and decides whether it continues."""
        config = spaces.remove_constant_and_cast(trial.config, self.config_space)
        step = None if self._time_attr is None else int(result[self._time_attr])
        self.searcher.on_trial_result(trial.trial_id, config, result[self.metrics[0]] * self.metric_multiplier, step)
        stops = self._threshold > 0.0 and self.searcher._should_stop(trial.trial_id, self._threshold)
        return SchedulerDecision.STOP if stops else SchedulerDecision.CONTINUE

    def on_trial_remove(self, trial: Trial) -> None:
        """Ends a trial that was stopped."""
        self.searcher._end_early(trial.trial_id)

    def on_trial_complete(self, trial: Trial, result: dict[str, Any]) -> None:
        """Ends a trial with its last result."""
        super().on_trial_complete(trial, result)
        self.searcher._keep_cost(trial.trial_id, result)


# Syne Tune's search spaces.


def _domains(config_space: Mapping[str, Any]) -> dict[str, Domain]:
    """Domains by name, in order; constants are left out.

    Raises:
      ValueError: naming the parameter that cannot be searched.
    """
    domains = {}
    for name, value in config_space.items():
        if isinstance(value, spaces.Domain):
            try:
                domains[name] = _converted(value)
            except ValueError as error:
                raise ValueError(f"parameter {name!r}: {error}") from error
    return domains


def _converted(domain: spaces.Domain) -> Domain:
    match domain:
        case spaces.FiniteRange():
            # After rounding to integers, neighbours may be equal.
            return Numbers(tuple(dict.fromkeys(domain.values)), domain.log_scale)
        case spaces.OrdinalNearestNeighbor():
            return Numbers(tuple(domain.categories), domain.log_scale)
        case spaces.Ordinal():
            ascending = domain.value_type in (int, float) and is_increasing(domain.categories)
            return Numbers(tuple(domain.categories)) if ascending else Choices(tuple(domain.categories), ordered=True)
        case spaces.Categorical() if not domain.is_grid():
            return Choices(tuple(domain.categories))
    sampler: Any = domain.get_sampler()
    step: Any = None
    if isinstance(sampler, spaces.Quantized):
        sampler, step = sampler.sampler, sampler.q
    if isinstance(sampler, spaces.Normal):
        raise ValueError("a normal distribution has no bounds to search in; use uniform or loguniform")
    if not isinstance(sampler, spaces.Uniform | spaces.LogUniform):
        raise ValueError(f"{type(domain).__name__} sampled by {type(sampler).__name__} is not supported")
    mirrored = isinstance(sampler, spaces.Float._ReverseLogUniform)
    log = isinstance(sampler, spaces.LogUniform) and not mirrored
    match domain:
        case spaces.Float() if step is None:
            return Continuous(float(domain.lower), float(domain.upper), log, mirrored)
        case spaces.Float() if not mirrored:
            return Steps(float(domain.lower), float(domain.upper), float(step), log)
        case spaces.Integer():
            step = 1 if step is None else int(step)
            return Steps(domain.lower, domain.upper, step, log, integral=True)
    raise ValueError(f"{type(domain).__name__} sampled by {type(sampler).__name__} is not supported")
