"""Optuna distributions and trials as pyvizier, and suggested values back as exactly the objects Optuna expects."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from vizier import pyvizier as vz

MOST_VALUES: Final = 1000
"""Feasible values that one parameter can have in the model."""

GOALS: Final = {
    StudyDirection.MAXIMIZE: vz.ObjectiveMetricGoal.MAXIMIZE,
    StudyDirection.MINIMIZE: vz.ObjectiveMetricGoal.MINIMIZE,
}


def representable(distribution: BaseDistribution) -> bool:
    """Whether the model can suggest this parameter: not a constant, not of an unknown kind or of too many choices."""
    if distribution.single():
        return False
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices) <= MOST_VALUES
    return isinstance(distribution, FloatDistribution | IntDistribution)


def problem(
    name: str,
    distributions: Mapping[str, BaseDistribution],
    directions: Sequence[StudyDirection],
    metric_names: Sequence[str] | None,
) -> vz.ProblemStatement:
    """The study as a problem statement.

    Args:
      name: of the study, which the model reads as its title.
      distributions: parameters that are `representable`.
      directions: one per objective; one that was never set counts as minimise, as in Optuna.
      metric_names: as set by `study.set_metric_names`.
    """
    space = vz.SearchSpace()
    for key, distribution in distributions.items():
        _add(space.root, key, distribution)
    metrics = [
        vz.MetricInformation(metric, goal=GOALS.get(direction, vz.ObjectiveMetricGoal.MINIMIZE))
        for metric, direction in zip(objective_names(directions, metric_names), directions, strict=True)
    ]
    statement = vz.ProblemStatement(space, metric_information=metrics)
    if not name.startswith("no-name-"):  # Optuna's placeholder for a study nobody named
        statement.metadata.ns("optformer")["title"] = name
    return statement


def objective_names(directions: Sequence[StudyDirection], metric_names: Sequence[str] | None) -> list[str]:
    if metric_names:
        return list(metric_names)
    return ["objective"] if len(directions) == 1 else [f"objective_{i}" for i in range(len(directions))]


def _add(root: vz.SearchSpaceSelector, name: str, distribution: BaseDistribution) -> None:
    match distribution:
        case CategoricalDistribution():
            root.add_categorical_param(name, labels(distribution))
        case FloatDistribution() | IntDistribution() if _steps(distribution) is not None:
            root.add_discrete_param(name, _steps(distribution), scale_type=vz.ScaleType.UNIFORM_DISCRETE)
        case FloatDistribution():
            root.add_float_param(name, distribution.low, distribution.high, scale_type=_scale(distribution))
        case IntDistribution():
            root.add_int_param(name, distribution.low, distribution.high, scale_type=_scale(distribution))
        case _:
            raise ValueError(f"parameter {name!r} has a distribution of unknown kind: {distribution!r}")


def _scale(distribution: FloatDistribution | IntDistribution) -> vz.ScaleType:
    return vz.ScaleType.LOG if distribution.log else vz.ScaleType.LINEAR


def _steps(distribution: FloatDistribution | IntDistribution) -> list[float] | list[int] | None:
    """The values of a stepped distribution; None if it has no step, or more values than the model can tell apart."""
    if distribution.step is None or (isinstance(distribution, IntDistribution) and distribution.step == 1):
        return None
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    if count > MOST_VALUES:
        return None
    return [distribution.low + k * distribution.step for k in range(count)]


def labels(distribution: CategoricalDistribution) -> list[str]:
    """One distinct string per choice, in order: as printed, or where that is ambiguous as represented or numbered."""
    printed = [str(choice) for choice in distribution.choices]
    if len(set(printed)) == len(printed) and all(printed):
        return printed
    # Such as 1 beside "1".  All change together, so that a label never depends on which others collided.
    represented = [repr(choice) for choice in distribution.choices]
    if len(set(represented)) == len(represented):
        return represented
    return [f"{k}: {label}" for k, label in enumerate(represented)]


def to_vizier(value: Any, distribution: BaseDistribution) -> str | int | float | None:
    """A value of an Optuna trial as pyvizier's; None if the distribution does not hold it."""
    try:
        internal = distribution.to_internal_repr(value)
    except ValueError:
        return None
    if not distribution._contains(internal):
        return None
    if isinstance(distribution, CategoricalDistribution):
        return labels(distribution)[int(internal)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    steps = _steps(distribution)
    if steps is not None:
        assert distribution.step is not None
        return steps[min(round((internal - distribution.low) / distribution.step), len(steps) - 1)]
    return int(internal) if isinstance(distribution, IntDistribution) else float(internal)


def from_vizier(value: Any, distribution: BaseDistribution) -> Any:
    """A suggested value as Optuna's own: the very object of a choice, an int, a float that lies on its step."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[labels(distribution).index(value)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is not None:
        k = round((value - distribution.low) / distribution.step)
        value = distribution.low + k * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def trial(
    frozen: FrozenTrial,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    objectives: Sequence[str],
) -> vz.Trial:
    """An Optuna trial: running ones are pending, pruned ones lack their objective, failed ones are infeasible.

    Args:
      frozen: state and values are read from here.
      params: parameter values (of a running trial they may be known before Optuna stores them).
      distributions: as in `problem`; parameters outside them, or with values outside their bounds, are left out.
      objectives: metric names, in order.
    """
    parameters = {}
    for name, distribution in distributions.items():
        if name in params and (value := to_vizier(params[name], distribution)) is not None:
            parameters[name] = value
    result = vz.Trial(parameters=parameters, id=frozen.number + 1)
    if frozen.state == TrialState.COMPLETE:
        values = dict(zip(objectives, frozen.values, strict=True))
        if all(math.isfinite(value) for value in values.values()):
            result.complete(vz.Measurement(metrics=values))
        else:
            finite = {name: value for name, value in values.items() if np.isfinite(value)}
            result.complete(vz.Measurement(metrics=finite), infeasibility_reason="the objective is not finite")
    elif frozen.state == TrialState.PRUNED:
        result.stopping_reason = "pruned"
        result.complete(vz.Measurement())
    elif frozen.state == TrialState.FAIL:
        result.complete(vz.Measurement(), infeasibility_reason="the trial failed")
    return result
