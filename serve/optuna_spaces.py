"""Optuna distributions as domains, and Optuna trials as pyvizier."""

import functools
import itertools
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from vizier import pyvizier as vz

from optformer.serialization.branches import Branch, branched, infer_branches
from optformer.serialization.optuna_constraints import constraint_metric, constraint_values, safety_metric
from optformer.serialization.space import keep_scales
from optformer.serve.domains import MOST_VALUES, Choices, Continuous, Domain, ModelValue, Steps, search_space, unequal

MOST_REPORTS: Final = 100
"""Largest number of reports per trial that the model gets."""
_KEPT: Final = 1000
"""Number of trials whose converted reports are cached."""

GOALS: Final = {
    StudyDirection.MAXIMIZE: vz.ObjectiveMetricGoal.MAXIMIZE,
    StudyDirection.MINIMIZE: vz.ObjectiveMetricGoal.MINIMIZE,
}


def domain(distribution: BaseDistribution) -> Domain | None:
    """The domain of a parameter; None for constants, more choices than the model supports, and unknown kinds.

    Raises:
      ValueError: a range that is not finite; the message does not name the parameter.
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
    """The domains by name, in order; parameters without a domain or without a name are left out.

    Raises:
      ValueError: a range that is not finite (names the parameter).
    """
    found: dict[str, Domain] = {}
    for name, distribution in distributions.items():
        try:
            each = domain(distribution)
        except ValueError as error:
            raise ValueError(f"parameter {name!r}: {error}") from error
        if each is not None and name:
            found[name] = each
    return found


class KnownSpace(NamedTuple):
    """Parameters that the model can choose, by name, sorted.

    Attributes:
      newest: domain of each parameter in the newest finished trial that has it; suggestions lie in these.
      united: domain that contains the values of all finished trials, since ranges may change; the model gets these.
      branches: parameters that only some trials have, and the parent's values that activate them.
    """

    newest: dict[str, BaseDistribution]
    united: dict[str, BaseDistribution]
    branches: dict[str, Branch]

    def of(self, names: Container[str]) -> "KnownSpace":
        """The space of these parameters; a parameter whose parent is left out becomes unconditional."""
        branches = {name: each for name, each in self.branches.items() if name in names and each.parent in names}
        newest, united = ({name: one for name, one in of.items() if name in names} for of in (self.newest, self.united))
        return KnownSpace(newest, united, branches)


def known_space(
    trials: Sequence[FrozenTrial], converted: Callable[[Mapping[str, BaseDistribution]], dict[str, Domain]] = domains
) -> KnownSpace:
    """The search space of the complete and pruned trials.

    Parameters whose kind, choices or scale have changed are left out; so are parameters that only some trials have, if
    no value of another parameter explains which.  Any rule that fits the trials is accepted: with a wrong one, a
    parameter is sampled independently once, and that trial refutes the rule.  A parameter that all trials have from
    some trial on was added during the study; in earlier trials, its value is missing.

    Args:
      trials: trials of the study, in any state.
      converted: converts distributions to the domains that the model gets.
    """
    finished = [each for each in trials if each.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    unions = dict(sorted(united(finished).items()))
    parameters = converted({name: union for name, (_, union) in unions.items()})
    newest = converted({name: latest for name, (latest, _) in unions.items() if name in parameters})
    branches = _branches({name: parameters[name] for name in newest}, trials, odds=0)
    ended = [each.distributions for each in trials if _ended(each)]

    def follows(name: str) -> bool:
        if name in branches:
            return follows(branches[name].parent)
        since = itertools.dropwhile(lambda parameters: name not in parameters, ended)
        return all(name in parameters for parameters in since)

    known = {name: unions[name] for name in newest if follows(name)}
    return KnownSpace(
        {name: latest for name, (latest, _) in known.items()},
        {name: union for name, (_, union) in known.items()},
        {name: branch for name, branch in branches.items() if name in known},
    )


def united(trials: Sequence[FrozenTrial]) -> dict[str, tuple[BaseDistribution, BaseDistribution]]:
    """Parameter -> its newest distribution, and one that contains all that it had; without parameters of two kinds."""
    known: dict[str, list[BaseDistribution]] = {}
    latest: dict[str, BaseDistribution] = {}
    for each in trials:
        latest |= each.distributions
        for name, distribution in each.distributions.items():
            if distribution not in known.setdefault(name, []):
                known[name].append(distribution)
    unions = {name: unite(each) for name, each in known.items()}
    return {name: (latest[name], union) for name, union in unions.items() if union is not None}


def _branches(parameters: Mapping[str, Domain], trials: Sequence[FrozenTrial], **options: float) -> dict[str, Branch]:
    begun = [each for each in trials if each.state != TrialState.WAITING]
    if all(name in each.distributions for each in begun if _ended(each) for name in parameters):
        return {}
    rows = []
    for each in begun:
        values = model_values(each.params, parameters)
        rows.append({name: values[name] for name in each.params if name in values})  # in the order of the program
    return infer_branches(search_space(parameters).parameters, rows, [_ended(each) for each in begun], **options)


def _ended(trial: FrozenTrial) -> bool:
    """Whether a trial has all of its parameters; other trials may have ended before they suggested one."""
    pruned = trial.state == TrialState.PRUNED and len(trial.intermediate_values) > 0
    return trial.state == TrialState.COMPLETE or pruned


def unite(distributions: Sequence[BaseDistribution]) -> BaseDistribution | None:
    """A distribution with the values of all; None if they are of different kinds.  A common step is kept."""
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
    """An Optuna study as arguments of `OptFormer.predict`, reports and plots, with all parameters that any trial has.

    Parameters that have changed their kind, choices or scale are left out.  Conditions are inferred.  Ids are Optuna's
    numbers.
    """
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL)
    return _problem_and_trials(study, states, domains)


def ended_study(
    study: Study, converted: Callable[[Mapping[str, BaseDistribution]], dict[str, Domain]] = domains
) -> vz.ProblemAndTrials:
    """An Optuna study as an earlier study for the model: as `problem_and_trials`, without running trials.

    Args:
      study: the study.
      converted: converts distributions to the domains that the model gets.

    Raises:
      ValueError: a range that is not finite (names study and parameter).
    """
    try:
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        statement, trials = _problem_and_trials(study, states, converted)
    except ValueError as error:
        raise ValueError(f"study {study.study_name!r}: {error}") from error
    return vz.ProblemAndTrials(problem=statement, trials=trials)


def _problem_and_trials(
    study: Study,
    states: tuple[TrialState, ...],
    to_domains: Callable[[Mapping[str, BaseDistribution]], dict[str, Domain]],
) -> tuple[vz.ProblemStatement, list[vz.Trial]]:
    frozen = [each for each in study.get_trials(deepcopy=False, states=states) if each.params]
    parameters = to_domains({name: union for name, (_, union) in united(frozen).items()})
    branches = _branches(parameters, frozen)
    objectives = objective_names(study.directions, study.metric_names)
    constraints = constraint_names(frozen)
    statement = problem(study.study_name, parameters, study.directions, study.metric_names, branches, constraints)
    converted, counted_from = [], first_step(frozen)
    for each in frozen:
        one = trial(each, each.params, parameters, objectives, counted_from)
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
    branches: Mapping[str, Branch],
    constraints: Sequence[str] = (),
) -> vz.ProblemStatement:
    """The study as a problem statement.

    Args:
      name: name of the study, which the model reads as its title.
      parameters: parameters of the study.
      directions: one per objective; one that was never set counts as minimize, as in Optuna.
      metric_names: as set by `study.set_metric_names`.
      branches: the parameters that depend on others.
      constraints: names of the constraints on outcomes; each holds if its value is not above 0.
    """
    metrics = [
        vz.MetricInformation(metric, goal=GOALS.get(direction, vz.ObjectiveMetricGoal.MINIMIZE))
        for metric, direction in zip(objective_names(directions, metric_names), directions, strict=True)
    ]
    metrics += map(safety_metric, constraints)
    statement = keep_scales(vz.ProblemStatement(metric_information=metrics))
    for config in branched(search_space(parameters).parameters, branches):
        statement.search_space.add(config)
    if not name.startswith("no-name-"):  # Optuna's placeholder for a study without a name
        statement.metadata.ns("optformer")["title"] = name
    return statement


def objective_names(directions: Sequence[StudyDirection], metric_names: Sequence[str] | None) -> list[str]:
    """The names set by the user; if there are none or two are equal, `objective`, numbered if there are several."""
    if metric_names and len(set(metric_names)) == len(metric_names):
        return list(metric_names)
    return ["objective"] if len(directions) == 1 else [f"objective_{i}" for i in range(len(directions))]


def _constraint_values(trial: FrozenTrial) -> dict[str, float]:
    try:
        return constraint_values(trial.system_attrs)
    except ValueError as error:
        raise ValueError(f"trial {trial.number}: {error}") from error


def constraint_names(trials: Iterable[FrozenTrial]) -> list[str]:
    """Names of the constraints that any finished trial has a value of, in the order of their first appearance.

    Raises:
      ValueError: a value is NaN or not a number (names the trial).
    """
    finished = [each for each in trials if each.state.is_finished()]
    return list(dict.fromkeys(name for each in finished for name in _constraint_values(each)))


def model_values(params: Mapping[str, Any], parameters: Mapping[str, Domain]) -> dict[str, ModelValue]:
    """The model's values for those of Optuna; values outside the space are left out."""
    values: dict[str, ModelValue] = {}
    for name, each in parameters.items():
        if name in params:
            try:
                values[name] = each.to_model(each.own(params[name]))
            except ValueError:  # from before the space changed
                continue
    return values


def first_step(trials: Iterable[FrozenTrial]) -> int:
    """The first step: 0 if any trial has reported it, else 1."""
    return 0 if any(0 in each.intermediate_values for each in trials) else 1


def _kept_reports(reports: Mapping[int, float]) -> list[tuple[int, float]]:
    """At most `MOST_REPORTS` finite reports in the order of their steps: the last one, and others at even distances.

    The others include the last but one, which shows a pruner whether it has already checked the trial.
    """
    finite = sorted((step, value) for step, value in reports.items() if math.isfinite(value))
    if len(finite) <= MOST_REPORTS:
        return finite
    gap = (len(finite) - 2) / (MOST_REPORTS - 2)
    return [*(finite[round(gap * place)] for place in range(MOST_REPORTS - 1)), finite[-1]]


@functools.lru_cache(_KEPT)
def _measurements(metric: str, counted_from: int, reports: tuple[tuple[int, float], ...]) -> tuple[vz.Measurement, ...]:
    """Reports as measurements.  Cached, because a study is converted for every suggestion, and this is slow."""
    return tuple(vz.Measurement({metric: value}, steps=step + 1 - counted_from) for step, value in reports)


def trial(
    frozen: FrozenTrial,
    params: Mapping[str, Any],
    parameters: Mapping[str, Domain],
    objectives: Sequence[str],
    counted_from: int = 1,
) -> vz.Trial:
    """An Optuna trial: running ones are pending, failed ones infeasible; pruned ones have no final value.

    Its reports of a single objective become measurements, whose steps count from 1.

    Args:
      frozen: the trial, with its state and values.
      params: parameter values (of a running trial they may be known before Optuna stores them).
      parameters: parameters of the study; values of others, or outside their domains, are left out.
      objectives: metric names, in order.
      counted_from: the first step of the study's trials (`first_step`).
    """
    metrics: dict[str, float] = {}
    ended: dict[str, Any] = {}
    if frozen.state == TrialState.COMPLETE:
        metrics = {name: each for name, each in zip(objectives, frozen.values, strict=True) if math.isfinite(each)}
        if len(metrics) < len(objectives):
            ended["infeasibility_reason"] = "the objective is not finite"
    elif frozen.state == TrialState.PRUNED:
        ended["stopping_reason"] = "pruned"
    elif frozen.state == TrialState.FAIL:
        ended["infeasibility_reason"] = "the trial failed"
    if frozen.state.is_finished():
        metrics |= {constraint_metric(name): value for name, value in _constraint_values(frozen).items()}
        ended["final_measurement"] = vz.Measurement(metrics=metrics)
    # Not by `complete`, which copies the measurement slowly: a study is converted for every suggestion.
    result = vz.Trial(parameters=model_values(params, parameters), id=frozen.number + 1, **ended)
    if len(objectives) == 1:
        reports = tuple(_kept_reports(frozen.intermediate_values))
        result.measurements.extend(_measurements(objectives[0], counted_from, reports))
    return result
