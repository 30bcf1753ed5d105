"""Optuna distributions as domains, and Optuna trials as pyvizier."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from vizier import pyvizier as vz

from optformer.serve.domains import MOST_VALUES, Choices, Continuous, Domain, ModelValue, Steps, search_space, unequal

GOALS: Final = {
    StudyDirection.MAXIMIZE: vz.ObjectiveMetricGoal.MAXIMIZE,
    StudyDirection.MINIMIZE: vz.ObjectiveMetricGoal.MINIMIZE,
}


def domain(distribution: BaseDistribution) -> Domain | None:
    """What the model chooses from; None for constants, more choices than it can tell apart, and unknown kinds.

    Raises:
      ValueError: a range that is not finite; the reason alone.
    """
    if distribution.single():
        return None
    match distribution:
        case CategoricalDistribution(choices=choices):
            different = unequal(choices)  # Optuna stores the first of those that are equal
            return Choices(tuple(different)) if 1 < len(different) <= MOST_VALUES else None
        case FloatDistribution(low=low, high=high, log=log, step=None):
            return Continuous(low, high, log)
        # Optuna counts steps from the lower bound.
        case FloatDistribution(low=low, high=high, step=step) if step is not None:
            return Steps(low, high, step, origin=low)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return Steps(low, high, step, log, integral=True, origin=low)
    return None


def domains(distributions: Mapping[str, BaseDistribution]) -> dict[str, Domain]:
    """The domains by name, in order; without those that have none.

    Raises:
      ValueError: a range that is not finite (names the parameter).
    """
    found: dict[str, Domain] = {}
    for name, distribution in distributions.items():
        try:
            each = domain(distribution)
        except ValueError as error:
            raise ValueError(f"parameter {name!r}: {error}") from error
        if each is not None:
            found[name] = each
    return found


class CommonSpace(NamedTuple):
    """Parameters that all finished trials have, by name, sorted.

    Attributes:
      newest: as the newest of these trials has them: what is searched.
      united: what holds the values of all of them, as the ranges of a study may change: what the model sees.
    """

    newest: dict[str, BaseDistribution]
    united: dict[str, BaseDistribution]


def common_space(trials: Sequence[FrozenTrial]) -> CommonSpace:
    """Of complete and pruned trials.  A parameter whose kind, choices or scale have changed is left out."""
    finished = [each for each in trials if each.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    newest, united = dict[str, BaseDistribution](), dict[str, BaseDistribution]()
    for name, latest in sorted(finished[-1].distributions.items()) if finished else ():
        known = [latest]
        for each in finished:
            distribution = each.distributions.get(name)
            if distribution is None:
                break
            if distribution not in known:
                known.append(distribution)
        else:
            if (union := unite(known)) is not None:
                newest[name], united[name] = latest, union
    return CommonSpace(newest, united)


def unite(distributions: Sequence[BaseDistribution]) -> BaseDistribution | None:
    """One that has the values of all; None where they are not of one kind.  A step that all share is kept."""
    first, *others = distributions
    if not others:
        return first
    if isinstance(first, FloatDistribution):
        floats = [each for each in distributions if isinstance(each, FloatDistribution) and each.log == first.log]
        if len(floats) < len(distributions):
            return None
        low, high = min(each.low for each in floats), max(each.high for each in floats)
        step = first.step
        if step is not None and not all(each.step == step and _on_step(each.low - low, step) for each in floats):
            step = None
        return FloatDistribution(low, high, log=first.log, step=step)
    if isinstance(first, IntDistribution):
        integers = [each for each in distributions if isinstance(each, IntDistribution) and each.log == first.log]
        if len(integers) < len(distributions):
            return None
        least, most = min(each.low for each in integers), max(each.high for each in integers)
        shared = all(each.step == first.step and (each.low - least) % first.step == 0 for each in integers)
        return IntDistribution(least, most, log=first.log, step=first.step if shared else 1)
    return None


def problem_and_trials(study: Study) -> tuple[vz.ProblemStatement, list[vz.Trial]]:
    """An Optuna study as a whole, for looking at it: all parameters of any trial, whatever the others have.

    Parameters that have changed their kind, choices or scale are left out.  Ids are Optuna's numbers.
    """
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL)
    frozen = [each for each in study.get_trials(deepcopy=False, states=states) if each.params]
    known: dict[str, list[BaseDistribution]] = {}
    for each in frozen:
        for name, distribution in each.distributions.items():
            if distribution not in known.setdefault(name, []):
                known[name].append(distribution)
    unions = {name: unite(each) for name, each in known.items()}
    parameters = domains({name: union for name, union in unions.items() if union is not None})
    objectives = objective_names(study.directions, study.metric_names)
    statement = problem(study.study_name, parameters, study.directions, study.metric_names)
    converted = []
    for each in frozen:
        one = trial(each, each.params, parameters, objectives)
        one.id = each.number
        converted.append(one)
    return statement, converted


def _on_step(distance: float, step: float) -> bool:
    return math.isclose(distance / step, round(distance / step), rel_tol=1e-9, abs_tol=1e-9)


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


def model_values(params: Mapping[str, Any], parameters: Mapping[str, Domain]) -> dict[str, ModelValue]:
    """The model's values for those of Optuna, as far as they are in the space."""
    values: dict[str, ModelValue] = {}
    for name, each in parameters.items():
        if name in params:
            try:
                values[name] = each.to_model(each.own(params[name]))
            except ValueError:  # from before the space changed
                continue
    return values


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
    result = vz.Trial(parameters=model_values(params, parameters), id=frozen.number + 1)
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
