"""SMAC as a Vizier designer, for comparisons.

    pip install smac
    PYTHONPATH=benchmarks optformer evaluate optimization --optimizers optformer,tpe,smac=smac_designer:make ...

SMAC 2's facade for hyperparameters with its defaults (Lindauer et al. 2022): a random forest, and log expected
improvement.  Its Sobol design may have a quarter of 50 trials.  Trials that others have suggested, such as shared first
ones, are added.  SMAC's suggestions depend on PYTHONHASHSEED, too: set it to repeat a run.
"""

import tempfile
from collections.abc import Iterator, Sequence
from typing import Final

from ConfigSpace import (
    Categorical,
    Configuration,
    ConfigurationSpace,
    Float,
    InCondition,
    Integer,
    OrdinalHyperparameter,
)
from smac import HyperparameterOptimizationFacade, Scenario
from smac.runhistory import StatusType, TrialInfo, TrialValue
from vizier import algorithms as vza
from vizier import pyvizier as vz

TRIALS: Final = 50
"""Number of trials from which SMAC derives the size of its initial design."""


def _hyperparameter(config: vz.ParameterConfig):
    log = config.scale_type == vz.ScaleType.LOG
    match config.type:
        case vz.ParameterType.DOUBLE:
            return Float(config.name, config.bounds, log=log)
        case vz.ParameterType.INTEGER:
            return Integer(config.name, config.bounds, log=log)
        case vz.ParameterType.DISCRETE:
            return OrdinalHyperparameter(config.name, list(config.feasible_values))
    return Categorical(config.name, list(config.feasible_values))


def _conditions(configs: Sequence[vz.ParameterConfig]) -> Iterator[tuple[str, str, list[object]]]:
    """Child, parent, and the parent's values that activate the child."""
    for config in configs:
        active: dict[str, list[object]] = {}
        for value, subspace in config.subspaces():
            for child in subspace.parameters:
                active.setdefault(child.name, []).append(value)
            yield from _conditions(list(subspace.parameters))
        for child, values in active.items():
            yield child, config.name, values


def _every(configs: Sequence[vz.ParameterConfig]) -> dict[str, vz.ParameterConfig]:
    found: dict[str, vz.ParameterConfig] = {}
    for config in configs:
        found.setdefault(config.name, config)
        for _, subspace in config.subspaces():
            found |= {name: each for name, each in _every(list(subspace.parameters)).items() if name not in found}
    return found


class SmacDesigner(vza.Designer):
    """SMAC behind Vizier's `Designer`.

    Args:
      problem: a single-objective study.
      seed: seed of the search.
    """

    def __init__(self, problem: vz.ProblemStatement, seed: int):
        self._objective = problem.metric_information.of_type(vz.MetricType.OBJECTIVE).item()
        self._seed = seed
        roots = list(problem.search_space.parameters)
        self._configs = _every(roots)
        self._space = ConfigurationSpace(seed=seed)
        self._space.add([_hyperparameter(config) for config in self._configs.values()])
        for child, parent, values in _conditions(roots):
            self._space.add(InCondition(self._space[child], self._space[parent], values))
        self._folder = tempfile.TemporaryDirectory()
        scenario = Scenario(
            self._space, n_trials=TRIALS, deterministic=True, seed=seed, output_directory=self._folder.name
        )
        self._smac = HyperparameterOptimizationFacade(
            scenario, target_function=lambda config, seed=0: 0.0, overwrite=True, logging_level=False
        )
        self._asked: dict[str, TrialInfo] = {}

    def suggest(self, count: int | None = None) -> Sequence[vz.TrialSuggestion]:
        suggestions = []
        for _ in range(1 if count is None else count):
            info = self._smac.ask()
            number = str(len(self._asked))
            self._asked[number] = info
            values = {name: self._plain(name, value) for name, value in dict(info.config).items()}
            suggestion = vz.TrialSuggestion(values)
            suggestion.metadata.ns("smac")["number"] = number
            suggestions.append(suggestion)
        return suggestions

    def _plain(self, name: str, value):
        match self._configs[name].type:
            case vz.ParameterType.DOUBLE | vz.ParameterType.DISCRETE:
                return float(value)
            case vz.ParameterType.INTEGER:
                return int(value)
        return str(value)

    def update(self, completed: vza.CompletedTrials, all_active: vza.ActiveTrials) -> None:
        for trial in completed.trials:
            number = trial.metadata.ns("smac").get("number")
            info = (
                TrialInfo(Configuration(self._space, values=dict(trial.parameters.as_dict())), seed=self._seed)
                if number is None
                else self._asked[number]
            )
            if trial.infeasible or trial.final_measurement is None:
                value = TrialValue(cost=float("inf"), status=StatusType.CRASHED)
            else:
                cost = trial.final_measurement.metrics[self._objective.name].value
                value = TrialValue(cost=-cost if self._objective.goal.is_maximize else cost)
            self._smac.tell(info, value, save=False)


def make(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    """The factory for `--optimizers`."""
    return SmacDesigner(problem, seed)
