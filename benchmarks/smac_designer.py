"""SMAC as a Vizier designer, for comparisons.

    pip install smac
    PYTHONPATH=benchmarks optformer evaluate optimization --optimizers optformer,tpe,smac=smac_designer:make ...

SMAC 2's facade for hyperparameters with its defaults (Lindauer et al. 2022): a random forest, and log expected
improvement.  Its Sobol design may have a quarter of 50 trials.  Trials that others have suggested, such as shared first
ones, are added.  SMAC's suggestions depend on PYTHONHASHSEED, too: set it to repeat a run.
"""

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ask_tell_designer import AskTellDesigner
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


class SmacDesigner(AskTellDesigner):
    """SMAC behind Vizier's `Designer`.

    Args:
      problem: a single-objective study.
      seed: seed of the search.
    """

    def __init__(self, problem: vz.ProblemStatement, seed: int):
        super().__init__(problem)
        self._seed = seed
        self._space = ConfigurationSpace(seed=seed)
        self._space.add([_hyperparameter(config) for config in self.configs.values()])
        for child, parent, values in _conditions(self.roots):
            self._space.add(InCondition(self._space[child], self._space[parent], values))
        self._folder = tempfile.TemporaryDirectory()
        scenario = Scenario(
            self._space, n_trials=TRIALS, deterministic=True, seed=seed, output_directory=self._folder.name
        )
        self._smac = HyperparameterOptimizationFacade(
            scenario, target_function=lambda config, seed=0: 0.0, overwrite=True, logging_level=False
        )

    def ask(self) -> tuple[TrialInfo, dict[str, Any]]:
        info = self._smac.ask()
        return info, {name: self._plain(name, value) for name, value in dict(info.config).items()}

    def _plain(self, name: str, value: Any) -> float | int | str:
        match self.configs[name].type:
            case vz.ParameterType.DOUBLE | vz.ParameterType.DISCRETE:
                return float(value)
            case vz.ParameterType.INTEGER:
                return int(value)
        return str(value)

    def given(self, values: dict[str, Any]) -> TrialInfo:
        return TrialInfo(Configuration(self._space, values=values), seed=self._seed)

    def tell(self, record: TrialInfo, cost: float | None) -> None:
        if cost is None:
            value = TrialValue(cost=float("inf"), status=StatusType.CRASHED)
        else:
            value = TrialValue(cost=cost)
        self._smac.tell(record, value, save=False)


def make(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    """The factory for `--optimizers`."""
    return SmacDesigner(problem, seed)
