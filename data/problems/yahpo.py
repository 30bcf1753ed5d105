"""YAHPO Gym's surrogates as problems to tune, conditional parameters included, with onnxruntime alone.

A scenario is one algorithm on many data sets (instances); its surrogate is a neural network that was trained on many
evaluations (Pfisterer et al. 2022, "YAHPO Gym - an efficient multi-objective multi-fidelity benchmark for
hyperparameter optimization").  A scenario's folder, as the project yahpo_data publishes it, holds `config_space.json`,
`encoding.json` and `model.onnx`; `names.json` lists the network's inputs and outputs in their order: `cont_names`,
`cat_names`, `y_names`, `y_minimize`, `fidelity_params`, `instance_names`.

The graph takes int32 [N, categorical] codes of `encoding.json` and float32 [N, numeric] raw values; an inactive
categorical parameter is "#na#", an inactive numeric one 0.  Scaling and its inverse are inside the graph.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

FILES: Final = ("names.json", "config_space.json", "encoding.json", "model.onnx")
INACTIVE: Final = "#na#"

HELD_OUT_SCENARIOS: Final = ("lcbench",)
"""Never trained or tuned on, as are the data sets that `held_out` names in all scenarios."""

_HELD_OUT_SHARE: Final = 0.25

QUALITY: Final = ("acc", "bac", "auc", "brier", "logloss", "mmce", "val_accuracy", "val_cross_entropy")
"""Metrics of the model that is tuned, beside which scenarios have times and sizes.  YAHPO's configuration says that F1
is minimised, so it is not among them."""


def scenarios(folder: str | Path) -> list[str]:
    """Names of the scenarios in a folder, sorted.

    Raises:
      ValueError: no such folder, or no scenario in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name the one that holds YAHPO's scenarios")
    found = sorted(path.parent.name for path in folder.glob("*/model.onnx"))
    if not found:
        raise ValueError(f"{folder}: no YAHPO scenario in it (a scenario is a folder with {', '.join(FILES)})")
    return found


def held_out(scenario: str, instance: str) -> bool:
    """Whether an instance is kept for comparisons: about a quarter of the data sets, the same ones in every scenario.

    A data set that one scenario trains on tells something about it in the others.
    """
    first = hashlib.sha256(str(instance).encode()).digest()[0]
    return scenario in HELD_OUT_SCENARIOS or first < 256 * _HELD_OUT_SHARE


class Scenario:
    """One scenario's surrogate.

    Attributes:
      name: of the scenario.
      instances: names of its data sets.
      metrics: metric -> whether it is minimised.

    Raises:
      ValueError: a file is missing or not what it should be.
      ModuleNotFoundError: onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.name = folder.name
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{folder}: no YAHPO scenario: {', '.join(missing)} missing")
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "YAHPO's surrogates need onnxruntime: pip install 'optformer[baselines]'"
            ) from None

        names, space, self._codes = (_read_json(folder / name) for name in FILES[:3])
        try:
            self._numeric, self._categorical = list(names["cont_names"]), list(names["cat_names"])
            self._outputs = list(names["y_names"])
            self.metrics = dict(zip(self._outputs, names["y_minimize"], strict=True))
            self._fidelities, self._instance = list(names["fidelity_params"]), names["instance_names"]
            self._parameters = {parameter["name"]: parameter for parameter in space["hyperparameters"]}
            self._conditions = {
                condition["child"]: (condition["parent"], condition.get("values") or [condition["value"]])
                for condition in space["conditions"]
            }
            self.instances = list(self._parameters[self._instance]["choices"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: names.json or config_space.json is not as expected: {error!r}") from error
        options = onnxruntime.SessionOptions()
        # A few hundred points a call: threads cost more than they bring.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ValueError(f"{folder / 'model.onnx'}: cannot be loaded: {error}") from error

    def search_space(self) -> vz.SearchSpace:
        """All parameters but the instance and the fidelities; children under the values that call for them."""
        space = vz.SearchSpace()
        for name in self._tuned():
            if name not in self._conditions:
                self._add(space.root, name)
        return space

    def _tuned(self) -> list[str]:
        return [name for name in self._parameters if name != self._instance and name not in self._fidelities]

    def _add(self, selector: vz.SearchSpaceSelector, name: str) -> None:
        parameter = self._parameters[name]
        kind = parameter["type"]
        if kind == "categorical":
            added = selector.add_categorical_param(name, [str(choice) for choice in parameter["choices"]])
        elif kind in ("uniform_float", "uniform_int"):
            add = selector.add_float_param if kind == "uniform_float" else selector.add_int_param
            scale = vz.ScaleType.LOG if parameter["log"] else vz.ScaleType.LINEAR
            added = add(name, parameter["lower"], parameter["upper"], scale_type=scale)
        else:
            raise ValueError(f"scenario {self.name}, parameter {name}: type {kind!r} is not known")
        for child in self._tuned():
            parent, values = self._conditions.get(child, ("", []))
            if parent == name:
                self._add(added.select_values([str(value) for value in values]), child)

    def evaluate(self, configurations: Sequence[Mapping[str, object]], instance: str) -> np.ndarray:
        """float64 [N, metrics] at full fidelity, columns as `metrics`.

        Args:
          configurations: parameter values by name; inactive ones are absent.
          instance: one of `instances`.

        Raises:
          ValueError: an unknown instance or category.
        """
        if instance not in self.instances:
            raise ValueError(f"scenario {self.name} has no instance {instance!r}; it has {', '.join(self.instances)}")
        fixed: dict[str, Any] = {self._instance: instance}
        fixed |= {name: self._parameters[name]["upper"] for name in self._fidelities}
        rows = [{**configuration, **fixed} for configuration in configurations]
        codes = np.array([[self._code(name, row) for name in self._categorical] for row in rows], np.int32)
        values = np.array([[row.get(name, 0.0) for name in self._numeric] for row in rows], np.float32)
        categories, numbers = self._session.get_inputs()
        return np.asarray(self._session.run(None, {categories.name: codes, numbers.name: values})[0], dtype=float)

    def _code(self, name: str, row: Mapping[str, object]) -> int:
        value = str(row.get(name, INACTIVE))
        try:
            return int(self._codes[name][value])
        except KeyError:
            raise ValueError(f"scenario {self.name}, parameter {name}: {value!r} has no code") from None


@functools.lru_cache(maxsize=16)
def load_scenario(folder: Path) -> Scenario:
    """A scenario, loaded once per process."""
    return Scenario(folder)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error


class YahpoExperimenter(experimenters.Experimenter):
    """One instance of a scenario, one metric of which is tuned at full fidelity.

    Args:
      scenario: from `load_scenario`.
      instance: one of its data sets.
      metric: one of its metrics; by default the first.

    Raises:
      ValueError: no such instance or metric.
    """

    def __init__(self, scenario: Scenario, instance: str, metric: str | None = None):
        self.metric = next(iter(scenario.metrics)) if metric is None else metric
        if self.metric not in scenario.metrics:
            known = ", ".join(scenario.metrics)
            raise ValueError(f"scenario {scenario.name} has no metric {metric!r}; it has {known}")
        if instance not in scenario.instances:
            raise ValueError(f"scenario {scenario.name} has no instance {instance!r}")
        self.scenario = scenario
        self.instance = instance

    def problem_statement(self) -> vz.ProblemStatement:
        problem = vz.ProblemStatement(self.scenario.search_space())
        minimize = self.scenario.metrics[self.metric]
        goal = vz.ObjectiveMetricGoal.MINIMIZE if minimize else vz.ObjectiveMetricGoal.MAXIMIZE
        problem.metric_information.append(vz.MetricInformation(self.metric, goal=goal))
        problem.metadata.ns("optformer")["title"] = f"{self.scenario.name} on {self.instance}"
        return problem

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial with the surrogate's prediction."""
        if not suggestions:
            return
        values = self.scenario.evaluate([trial.parameters.as_dict() for trial in suggestions], self.instance)
        column = list(self.scenario.metrics).index(self.metric)
        for trial, value in zip(suggestions, values[:, column], strict=True):
            trial.complete(vz.Measurement(metrics={self.metric: float(value)}))
