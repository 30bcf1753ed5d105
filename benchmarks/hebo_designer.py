"""HEBO as a Vizier designer, for comparisons.

    pip install HEBO
    PYTHONPATH=benchmarks optformer evaluate optimization --optimizers optformer,tpe,hebo=hebo_designer:make ...

HEBO with its defaults (Cowen-Rivers et al. 2022): a Gaussian process with warped inputs and outputs, and a random
choice from the best compromises of three acquisition functions.  HEBO has no conditional parameters, so it searches all
of them, and the inactive ones of its suggestions are left out.  Trials that others have suggested, such as shared first
ones, are added, with the middle of the range for their inactive parameters.  Its messages on standard output are left
out.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from ask_tell_designer import AskTellDesigner
from hebo.design_space.design_space import DesignSpace
from hebo.optimizers.hebo import HEBO
from vizier import algorithms as vza
from vizier import pyvizier as vz


def _definition(config: vz.ParameterConfig) -> dict[str, Any]:
    log = config.scale_type == vz.ScaleType.LOG
    match config.type:
        case vz.ParameterType.DOUBLE:
            low, high = config.bounds
            return {"name": config.name, "type": "pow" if log else "num", "lb": low, "ub": high}
        case vz.ParameterType.INTEGER:
            low, high = config.bounds
            return {"name": config.name, "type": "pow_int" if log and low >= 1 else "int", "lb": low, "ub": high}
        case vz.ParameterType.DISCRETE:
            return {"name": config.name, "type": "int", "lb": 0, "ub": len(config.feasible_values) - 1}
    return {"name": config.name, "type": "cat", "categories": list(config.feasible_values)}


def _value(config: vz.ParameterConfig, value: Any) -> float | int | str:
    """The parameter's value of HEBO's value; a discrete parameter is searched as the index of its value."""
    match config.type:
        case vz.ParameterType.DOUBLE:
            return float(np.clip(float(value), *config.bounds))
        case vz.ParameterType.INTEGER:
            return int(np.clip(int(value), *config.bounds))
        case vz.ParameterType.DISCRETE:
            return float(config.feasible_values[int(value)])
    return str(value)


class HeboDesigner(AskTellDesigner):
    """HEBO behind Vizier's `Designer`.

    Args:
      problem: a single-objective study.
      seed: seed of the search.
    """

    def __init__(self, problem: vz.ProblemStatement, seed: int):
        super().__init__(problem)
        self._space = DesignSpace().parse([_definition(config) for config in self.configs.values()])
        np.random.seed(seed)  # noqa: NPY002, HEBO draws from numpy's global generator
        torch.manual_seed(seed)
        self._hebo = HEBO(self._space, scramble_seed=seed)

    def ask(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        with contextlib.redirect_stdout(io.StringIO()):
            row = self._hebo.suggest()
        found = {name: _value(config, row[name].iloc[0]) for name, config in self.configs.items()}
        return row, self._active(self.roots, found)

    def _active(self, configs: Sequence[vz.ParameterConfig], found: dict[str, Any]) -> dict[str, Any]:
        active: dict[str, Any] = {}
        for config in configs:
            active[config.name] = found[config.name]
            for value, subspace in config.subspaces():
                if value == found[config.name]:
                    active |= self._active(list(subspace.parameters), found)
        return active

    def given(self, values: dict[str, Any]) -> pd.DataFrame:
        row = {}
        for name, config in self.configs.items():
            parameter = self._space.paras[name]
            if name not in values:
                middle = (parameter.opt_lb + parameter.opt_ub) / 2
                row[name] = parameter.inverse_transform(np.array([middle]))[0]
            elif config.type == vz.ParameterType.DISCRETE:
                row[name] = int(np.argmin(np.abs(np.array(config.feasible_values) - float(values[name]))))
            else:
                row[name] = values[name]
        return pd.DataFrame([row], columns=self._space.para_names)

    def tell(self, record: pd.DataFrame, cost: float | None) -> None:
        if cost is not None:  # HEBO drops values that are not finite, too
            self._hebo.observe(record, np.array([[cost]]))


def make(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    """The factory for `--optimizers`."""
    return HeboDesigner(problem, seed)
