"""A study of another library: its parameters, objectives and trials in the form for `OptFormer.suggest`."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Final

from vizier import pyvizier as vz

from optformer.facade import OptFormer
from optformer.inference.beliefs import Belief, Beliefs
from optformer.inference.constraints import Constraint
from optformer.serialization.space import StudySchema, keep_scales
from optformer.serve.domains import Domain, ModelValue, belief_over, constraints_over, search_space

RUNNING: Final = "running"
COMPLETE: Final = "complete"
STOPPED: Final = "stopped"
FAILED: Final = "failed"
REPORTS_KEPT: Final = 100
"""Number of intermediate results that are kept per trial, the newest ones; thousands would make saved states large."""


@dataclasses.dataclass
class Recorded:
    """A trial of another library.

    Attributes:
      trial_id: the other library's id; None until it is known.
      parameters: the model's values by name.
      state: `RUNNING` (pending until it reports), `COMPLETE`, `STOPPED` (has no objective), or `FAILED` (infeasible).
      values: value of each objective, in order; empty if there are none.
      reports: step and value of each intermediate result of the only objective.
      costs: name -> cost of the trial.
    """

    trial_id: str | int | None
    parameters: dict[str, ModelValue]
    state: str = RUNNING
    values: list[float] = dataclasses.field(default_factory=list)
    reports: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    costs: dict[str, float] = dataclasses.field(default_factory=dict)

    def report(self, step: int, value: float) -> None:
        """Adds an intermediate result, unless the trial has ended or the value is not finite."""
        if self.state == RUNNING and math.isfinite(value):
            self.reports = [*self.reports[1 - REPORTS_KEPT :], (step, float(value))]

    def finish(self, values: Sequence[float] | None, failed: bool = False) -> None:
        """Ends the trial, or replaces its result.  Without values it was stopped; if one is not finite, it failed."""
        self.values = [] if values is None or failed else [float(value) for value in values]
        if failed or not all(map(math.isfinite, self.values)):
            self.state, self.values = FAILED, []
        else:
            self.state = COMPLETE if self.values else STOPPED


class RecordedStudy:
    """Parameters, objectives and trials of a study of another library.

    Attributes:
      domains: parameters by name, in order.
      problem: search space and objectives for the model.
      trials: all trials, in order of time.
      belief: where good values lie, with the model's values.
      ends_are_told: whether the other library reports which trials it has stopped.  If not, trials that have reported
        but not ended may have been stopped.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        objectives: Mapping[str, bool],
        belief: Mapping[str, Belief] | None = None,
    ):
        """
        Args:
          domains: parameters by name, in order.
          objectives: metric name -> whether it is maximized.
          belief: where good values lie, with the domains' own values.

        Raises:
          ValueError: no parameters, one that the model cannot represent, or a belief that does not fit it (named).
        """
        if not domains:
            raise ValueError("the search space has no parameter to choose")
        self.domains = dict(domains)
        self.objectives = dict(objectives)
        goals = {True: vz.ObjectiveMetricGoal.MAXIMIZE, False: vz.ObjectiveMetricGoal.MINIMIZE}
        metrics = [vz.MetricInformation(name, goal=goals[maximize]) for name, maximize in objectives.items()]
        self.problem = keep_scales(vz.ProblemStatement(search_space(domains), metric_information=metrics))
        self.belief = {**(belief or {}), **belief_over(domains, belief or {})}
        Beliefs(StudySchema(self.problem), self.belief)
        self.trials: list[Recorded] = []
        self.ends_are_told = False

    def suggest(
        self,
        model: OptFormer,
        *,
        acquisition: str,
        algorithm: str | None,
        seed: int,
        constraints: Sequence[Constraint],
        given: Mapping[str, object],
        prior_studies: Sequence[vz.ProblemAndTrials] = (),
        cost: str | None = None,
    ) -> dict[str, object]:
        """The domains' own values of the next trial, including those that are given.

        Args:
          model, acquisition, algorithm, seed, constraints, cost: as for `OptFormer.suggest`.
          given: fixed values of some parameters, as the domains' own values.
          prior_studies: earlier studies, with the model's values.

        Raises:
          ValueError: as `OptFormer.suggest`.
        """
        (suggestion,) = model.suggest(
            self.problem,
            self.pyvizier(),
            acquisition=acquisition,
            algorithm=algorithm,
            seed=seed,
            constraints=constraints_over(self.domains, constraints),
            given=self.to_model(given),
            prior_studies=prior_studies,
            belief=self.belief,
            cost=cost,
        )
        return self.own(suggestion.parameters.as_dict()) | dict(given)

    def own(self, parameters: Mapping[str, ModelValue]) -> dict[str, object]:
        """The domains' own values for the model's."""
        return {name: domain.from_model(parameters[name]) for name, domain in self.domains.items()}

    def to_model(self, own: Mapping[str, object]) -> dict[str, ModelValue]:
        """The model's values for the domains' own values of some parameters."""
        return {name: domain.to_model(own[name]) for name, domain in self.domains.items() if name in own}

    def record(self, trial_id: str | int | None, own: Mapping[str, object]) -> Recorded:
        """Adds a running trial."""
        trial = Recorded(trial_id, self.to_model(own))
        self.trials.append(trial)
        return trial

    def find(self, trial_id: str | int) -> Recorded | None:
        """The trial with this id of the other library; None if there is none."""
        return next((trial for trial in reversed(self.trials) if trial.trial_id == trial_id), None)

    def pyvizier(self) -> list[vz.Trial]:
        """The trials, numbered from 1.  Those that may have been stopped (`ends_are_told`) have a `stopping_reason`."""
        return [self._pyvizier(number, trial) for number, trial in enumerate(self.trials, 1)]

    def _pyvizier(self, number: int, trial: Recorded) -> vz.Trial:
        names = list(self.objectives)
        result = vz.Trial(parameters=dict(trial.parameters), id=number)
        result.measurements = list(_measurements(names[0], tuple(trial.reports)))
        if trial.state == COMPLETE:
            result.complete(vz.Measurement(metrics=dict(zip(names, trial.values, strict=True)) | trial.costs))
        elif trial.state == RUNNING and trial.reports and not self.ends_are_told:
            result.stopping_reason = "may have been stopped after its last report"
        elif trial.state == STOPPED:
            result.stopping_reason = "stopped"
            result.complete(vz.Measurement())
        elif trial.state == FAILED:
            result.complete(vz.Measurement(), infeasibility_reason="the trial failed")
        return result


@functools.lru_cache(1024)
def _measurements(metric: str, reports: tuple[tuple[int, float], ...]) -> tuple[vz.Measurement, ...]:
    """Reports as measurements.  Cached, because a study is converted for every report, and this conversion is slow."""
    return tuple(vz.Measurement(metrics={metric: value}, steps=step) for step, value in reports)
