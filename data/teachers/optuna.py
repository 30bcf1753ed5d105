"""Optuna's samplers as Vizier designers, including conditional spaces.

The search space is used define-by-run (a child is suggested only if its parent has the right value), as Optuna's users
write it and its samplers expect.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from vizier import algorithms as vza
from vizier import pyvizier as vz

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "cma_es": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
}


def distributions(space: vz.SearchSpace, parameters: Mapping[str, object]) -> dict[str, BaseDistribution]:
    """The Optuna distributions of the parameters that are active under these values."""
    found: dict[str, BaseDistribution] = {}
    for config in space.parameters:
        if config.name not in parameters:
            continue
        found[config.name] = distribution(config)
        for value, subspace in config.subspaces():
            if value == parameters[config.name]:
                found |= distributions(subspace, parameters)
    return found


def distribution(config: vz.ParameterConfig) -> optuna.distributions.BaseDistribution:
    """The Optuna distribution of one parameter.  Discrete values become categories: Optuna has no ordinal type."""
    log = config.scale_type == vz.ScaleType.LOG
    match config.type:
        case vz.ParameterType.DOUBLE:
            low, high = config.bounds
            return optuna.distributions.FloatDistribution(low, high, log=log)
        case vz.ParameterType.INTEGER:
            low, high = config.bounds
            return optuna.distributions.IntDistribution(int(low), int(high), log=log)
        case vz.ParameterType.DISCRETE | vz.ParameterType.CATEGORICAL:
            return optuna.distributions.CategoricalDistribution(list(config.feasible_values))
    raise ValueError(f"Parameter {config.name!r} has type {config.type}, which Optuna cannot express.")


def _suggest_value(trial: optuna.trial.Trial, config: vz.ParameterConfig) -> Any:
    match distribution(config):
        case optuna.distributions.FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(config.name, low, high, log=log)
        case optuna.distributions.IntDistribution(low=low, high=high, log=log):
            return trial.suggest_int(config.name, low, high, log=log)
        case optuna.distributions.CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(config.name, choices)


def suggest_parameters(trial: optuna.trial.Trial, space: vz.SearchSpace) -> dict[str, float | int | str]:
    """Suggests every parameter of the space from an Optuna trial; children only if they are active."""
    parameters: dict[str, float | int | str] = {}
    for config in space.parameters:
        value = _suggest_value(trial, config)
        parameters[config.name] = value
        for parent_value, subspace in config.subspaces():
            if parent_value == value:
                parameters |= suggest_parameters(trial, subspace)
    return parameters


class OptunaDesigner(vza.Designer):
    """An Optuna sampler behind Vizier's `Designer`.

    Args:
      problem: a single-objective study.
      sampler: one of `SAMPLERS`, or an Optuna sampler.
      seed: seed of a sampler given by name.
    """

    def __init__(self, problem: vz.ProblemStatement, sampler: str | optuna.samplers.BaseSampler, seed: int = 0):
        self._problem = problem
        objective = problem.metric_information.of_type(vz.MetricType.OBJECTIVE).item()
        self._metric = objective.name
        self._study = optuna.create_study(
            sampler=SAMPLERS[sampler](seed) if isinstance(sampler, str) else sampler,
            direction="maximize" if objective.goal == vz.ObjectiveMetricGoal.MAXIMIZE else "minimize",
        )

    @property
    def study(self) -> optuna.Study:
        """The Optuna study behind the designer."""
        return self._study

    def suggest(self, count: int | None = None) -> Sequence[vz.TrialSuggestion]:
        suggestions = []
        for _ in range(1 if count is None else count):
            trial = self._study.ask()
            suggestion = vz.TrialSuggestion(suggest_parameters(trial, self._problem.search_space))
            suggestion.metadata.ns("optuna")["number"] = str(trial.number)
            suggestions.append(suggestion)
        return suggestions

    def update(self, completed: vza.CompletedTrials, all_active: vza.ActiveTrials) -> None:
        """Reports the results of the sampler's own trials, and adds the trials that others suggested."""
        for trial in completed.trials:
            value = None
            if not trial.infeasible and trial.final_measurement is not None:
                value = trial.final_measurement.metrics[self._metric].value
            state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
            number = trial.metadata.ns("optuna").get("number")
            if number is not None:
                self._study.tell(int(number), value, state=state)
                continue
            parameters = trial.parameters.as_dict()
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=parameters,
                    distributions=distributions(self._problem.search_space, parameters),
                    value=value,
                    state=state,
                )
            )
