"""A study of another library: its parameters, objectives and trials, as `OptFormer.suggest` wants them and as JSON."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.facade import OptFormer
from optformer.inference.constraints import Constraint
from optformer.serialization.space import StudySchema
from optformer.serve.domains import Domain, ModelValue, constraints_over, search_space

RUNNING: Final = "running"
COMPLETE: Final = "complete"
STOPPED: Final = "stopped"
FAILED: Final = "failed"
REPORTS_KEPT: Final = 100
"""Newest intermediate results of a trial that are kept: thousands of steps would fill every saved state."""
_STATES: Final = (RUNNING, COMPLETE, STOPPED, FAILED)


@dataclasses.dataclass
class Recorded:
    """A trial.

    Attributes:
      trial_id: the other library's; None as long as it has told none.
      parameters: the model's values by name.
      state: `RUNNING` (pending), `COMPLETE`, `STOPPED` (has no objective), or `FAILED` (infeasible).
      values: of each objective, in order; empty without.
      reports: step and value of intermediate results of the only objective.
    """

    trial_id: str | int | None
    parameters: dict[str, ModelValue]
    state: str = RUNNING
    values: list[float] = dataclasses.field(default_factory=list)
    reports: list[tuple[int, float]] = dataclasses.field(default_factory=list)

    def report(self, step: int, value: float) -> None:
        """Adds an intermediate result, unless the trial has ended or the value is not finite."""
        if self.state == RUNNING and math.isfinite(value):
            self.reports = [*self.reports[1 - REPORTS_KEPT :], (step, float(value))]

    def finish(self, values: Sequence[float] | None, failed: bool = False) -> None:
        """Ends the trial; told again, the newer result counts.  Without values it was stopped; not finite is failed."""
        self.values = [] if values is None or failed else [float(value) for value in values]
        if failed or not all(map(math.isfinite, self.values)):
            self.state, self.values = FAILED, []
        else:
            self.state = COMPLETE if self.values else STOPPED


class RecordedStudy:
    """Parameters, objectives and trials.

    Attributes:
      domains: parameters by name, in order.
      problem: the same for the model.
      trials: in order of time.
    """

    def __init__(self, domains: Mapping[str, Domain], objectives: Mapping[str, bool]):
        """
        Args:
          objectives: metric name -> whether it is maximised.

        Raises:
          ValueError: no parameters, or one that the model cannot represent (named).
        """
        if not domains:
            raise ValueError("the search space has no parameter to choose")
        self.domains = dict(domains)
        self.objectives = dict(objectives)
        goals = {True: vz.ObjectiveMetricGoal.MAXIMIZE, False: vz.ObjectiveMetricGoal.MINIMIZE}
        metrics = [vz.MetricInformation(name, goal=goals[maximise]) for name, maximise in objectives.items()]
        self.problem = vz.ProblemStatement(search_space(domains), metric_information=metrics)
        StudySchema(self.problem)
        self.trials: list[Recorded] = []

    def suggest(
        self, model: OptFormer, *, acquisition: str, algorithm: str | None, seed: int, constraints: Sequence[Constraint]
    ) -> dict[str, Any]:
        """The domains' own values of the next trial.

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
        )
        return self.own(suggestion.parameters.as_dict())

    def own(self, parameters: Mapping[str, ModelValue]) -> dict[str, Any]:
        """The domains' own values for the model's."""
        return {name: domain.from_model(parameters[name]) for name, domain in self.domains.items()}

    def to_model(self, own: Mapping[str, Any]) -> dict[str, ModelValue]:
        """The model's values for the domains' own."""
        return {name: domain.to_model(own[name]) for name, domain in self.domains.items()}

    def record(self, trial_id: str | int | None, own: Mapping[str, Any]) -> Recorded:
        """A new trial, which is running."""
        trial = Recorded(trial_id, self.to_model(own))
        self.trials.append(trial)
        return trial

    def find(self, trial_id: str | int) -> Recorded | None:
        """The trial that the other library knows by this id."""
        return next((trial for trial in reversed(self.trials) if trial.trial_id == trial_id), None)

    def pyvizier(self) -> list[vz.Trial]:
        """The trials, numbered from 1."""
        return [self._pyvizier(number, trial) for number, trial in enumerate(self.trials, 1)]

    def _pyvizier(self, number: int, trial: Recorded) -> vz.Trial:
        names = list(self.objectives)
        result = vz.Trial(parameters=dict(trial.parameters), id=number)
        for step, value in trial.reports:
            result.measurements.append(vz.Measurement(metrics={names[0]: value}, steps=step))
        if trial.state == COMPLETE:
            result.complete(vz.Measurement(metrics=dict(zip(names, trial.values, strict=True))))
        elif trial.state == STOPPED:
            result.stopping_reason = "stopped"
            result.complete(vz.Measurement())
        elif trial.state == FAILED:
            result.complete(vz.Measurement(), infeasibility_reason="the trial failed")
        return result

    # As JSON.

    def to_json(self) -> dict[str, Any]:
        """The trials, and what tells this study from others."""
        return {
            "parameters": {name: domain.signature() for name, domain in self.domains.items()},
            "objectives": self.objectives,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }

    def load_json(self, kept: Mapping[str, Any]) -> None:
        """Takes the trials of `to_json` in place of its own.

        Raises:
          ValueError: of another study (says what differs), or no such JSON.
        """
        mine = json.loads(json.dumps(self.to_json()))
        try:
            for what in ("parameters", "objectives"):
                for name in [*kept[what], *mine[what]]:
                    if kept[what].get(name) != mine[what].get(name):
                        here, there = mine[what].get(name, "missing"), kept[what].get(name, "missing")
                        raise ValueError(f"another study: {what[:-1]} {name!r} is {here} here and {there} there")
            trials = [Recorded(**fields) for fields in kept["trials"]]
            for trial in trials:
                if trial.state not in _STATES or len(trial.values) != len(self.objectives) * (trial.state == COMPLETE):
                    raise ValueError(f"trial {trial.trial_id!r} is {trial.state!r} with values {trial.values!r}")
                trial.reports = [(int(step), float(value)) for step, value in trial.reports]
            StudySchema(self.problem).encode([trial.parameters for trial in trials])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no record of trials: {error!r}") from error
        self.trials = trials
