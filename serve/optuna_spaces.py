"""Optuna distributions as domains, and Optuna trials as pyvizier."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from vizier import pyvizier as vz

from optformer.serve.domains import MOST_VALUES, Choices, Continuous, Domain, ModelValue, Steps, search_space

GOALS: Final = {
    StudyDirection.MAXIMIZE: vz.ObjectiveMetricGoal.MAXIMIZE,
    StudyDirection.MINIMIZE: vz.ObjectiveMetricGoal.MINIMIZE,
}


def domain(distribution: BaseDistribution) -> Domain | None:
    """What the model chooses from; None for constants, more choices than it can tell apart, and unknown kinds."""
    if distribution.single():
        return None
    match distribution:
        case CategoricalDistribution(choices=choices) if len(choices) <= MOST_VALUES:
            return Choices(tuple(choices))
        case FloatDistribution(low=low, high=high, log=log, step=None):
            return Continuous(low, high, log)
        # Optuna counts steps from the lower bound.
        case FloatDistribution(low=low, high=high, step=step) if step is not None:
            return Steps(low, high, step, origin=low)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return Steps(low, high, step, log, integral=True, origin=low)
    return None


def domains(distributions: Mapping[str, BaseDistribution]) -> dict[str, Domain]:
    """The domains by name, in order; without those that have none."""
    found = {name: domain(distribution) for name, distribution in distributions.items()}
    return {name: each for name, each in found.items() if each is not None}


def problem(
    name: str,
    parameters: Mapping[str, Domain],
    directions: Sequence[StudyDirection],
    metric_names: Sequence[str] | None,
) -> vz.ProblemStatement:
    """The study as a problem statement.

    Args:
      name: of the study, which the model reads as its title.
      parameters: of the study.
      directions: one per objective; one that was never set counts as minimise, as in Optuna.
      metric_names: as set by `study.set_metric_names`.
    """
    metrics = [
        vz.MetricInformation(metric, goal=GOALS.get(direction, vz.ObjectiveMetricGoal.MINIMIZE))
        for metric, direction in zip(objective_names(directions, metric_names), directions, strict=True)
    ]
    statement = vz.ProblemStatement(search_space(parameters), metric_information=metrics)
    if not name.startswith("no-name-"):  # Optuna's placeholder for a study nobody named
        statement.metadata.ns("optformer")["title"] = name
    return statement


def objective_names(directions: Sequence[StudyDirection], metric_names: Sequence[str] | None) -> list[str]:
    """As set by the user, or `objective`, with numbers where there are several."""
    if metric_names:
        return list(metric_names)
    return ["objective"] if len(directions) == 1 else [f"objective_{i}" for i in range(len(directions))]


def trial(
    frozen: FrozenTrial, params: Mapping[str, Any], parameters: Mapping[str, Domain], objectives: Sequence[str]
) -> vz.Trial:
    """An Optuna trial: running ones are pending, pruned ones lack their objective, failed ones are infeasible.

    Args:
      frozen: state and values are read from here.
      params: parameter values (of a running trial they may be known before Optuna stores them).
      parameters: of the study; values of others, or outside these, are left out.
      objectives: metric names, in order.
    """
    values: dict[str, ModelValue] = {}
    for name, each in parameters.items():
        if name in params:
            try:
                values[name] = each.to_model(each.own(params[name]))
            except ValueError:  # from before the space changed
                continue
    result = vz.Trial(parameters=values, id=frozen.number + 1)
    if frozen.state == TrialState.COMPLETE:
        metrics = dict(zip(objectives, frozen.values, strict=True))
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        reason = None if len(finite) == len(metrics) else "the objective is not finite"
        result.complete(vz.Measurement(metrics=finite), infeasibility_reason=reason)
    elif frozen.state == TrialState.PRUNED:
        result.stopping_reason = "pruned"
        result.complete(vz.Measurement())
    elif frozen.state == TrialState.FAIL:
        result.complete(vz.Measurement(), infeasibility_reason="the trial failed")
    return result
