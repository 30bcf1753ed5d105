"""YAHPO Gym's surrogates as problems to tune, including conditional parameters; needs only onnxruntime.

A scenario is one algorithm on many data sets (instances); its surrogate is a neural network that was trained on many
evaluations (Pfisterer et al. 2022, "YAHPO Gym - an efficient multi-objective multi-fidelity benchmark for
hyperparameter optimization").  A scenario's folder, as the project yahpo_data publishes it, holds `config_space.json`,
`encoding.json` and `model.onnx`; `names.json` lists the network's inputs and outputs in their order: `cont_names`,
`cat_names`, `y_names`, `y_minimize`, `fidelity_params`, `instance_names` (null: the scenario has one data set).

The graph takes int32 [N, categorical] codes of `encoding.json` and float32 [N, numeric] raw values; an inactive
categorical parameter is "#na#", an inactive numeric one 0.  Scaling and its inverse are inside the graph.

Some surrogates are partly wrong.  If the folder of the scenarios has a file `quality.json`, it says what `tasks` omits:

    {"rbv2_svm": {"weak_targets": ["timepredict"],            # metrics that are wrong on every data set
                  "flat_instances": ["1056", "4154"],          # data sets on which nothing depends on the parameters
                  "zero_by_construction": {"auc": ["11"]}}}    # data sets on which this metric is always 0
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.extras import from_extra
from optformer.serialization.space import keep_scales

FILES: Final = ("names.json", "config_space.json", "encoding.json", "model.onnx")
QUALITY_FILE: Final = "quality.json"
INACTIVE: Final = "#na#"

HELD_OUT_SCENARIOS: Final = ("lcbench",)
"""Scenarios that are never trained or tuned on; nor are the data sets of `held_out`, in all scenarios."""

_HELD_OUT_SHARE: Final = 0.25

STEPS: Final = 1000
"""Number of steps of a complete trial with intermediate reports."""

_REPETITIONS: Final = "repl"
"""A fidelity that is not the budget of one training; the other one is: `trainsize`, a share, or `epoch`."""

_ONLY_INSTANCE: Final = "CIFAR10"
"""YAHPO's name of the data set of `nb301`, which has no parameter for it."""

_OPENML_DATA_SETS: Final = {
    "nb301": {_ONLY_INSTANCE: "40927"},
    "fair_ranger": {"14965": "1461"},
    "fair_super": {"14965": "1461"},
}
"""(scenario, instance) -> number of the data set, where the instance has another number: the `fair` scenarios use
OpenML's tasks.  Task 31 is on data set 31; the data sets of tasks 190424 and 317599 are in no other scenario."""

QUALITY: Final = ("acc", "bac", "auc", "brier", "logloss", "mmce", "val_accuracy", "val_cross_entropy")
"""Quality metrics of the tuned model; scenarios also have times and sizes.  F1 is not included, because YAHPO's
configuration says that it is minimized."""


def scenarios(folder: str | Path) -> list[str]:
    """Sorted names of the scenarios in a folder.

    Raises:
      ValueError: the folder does not exist or has no scenario.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name the one that holds YAHPO's scenarios")
    found = sorted(path.parent.name for path in folder.glob("*/model.onnx"))
    if not found:
        raise ValueError(f"{folder}: no YAHPO scenario in it (a scenario is a folder with {', '.join(FILES)})")
    return found


def held_out(scenario: str, instance: str) -> bool:
    """Whether an instance is held out for comparisons: about a quarter of the data sets, the same in every scenario.

    Training on a data set in one scenario would give information about it in others, so a hash of OpenML's number of
    the data set decides.
    """
    data_set = _OPENML_DATA_SETS.get(scenario, {}).get(str(instance), str(instance))
    first = hashlib.sha256(data_set.encode()).digest()[0]
    return scenario in HELD_OUT_SCENARIOS or first < 256 * _HELD_OUT_SHARE


_is_held_out = held_out  # for functions with an argument of the same name


class Scenario:
    """One scenario's surrogate.

    Attributes:
      name: name of the scenario.
      instances: names of its data sets.
      metrics: metric -> whether it is minimized.
      least_share: smallest share of the training budget (epochs or data) that the surrogate covers.

    Raises:
      ValueError: a file is missing or invalid.
      ModuleNotFoundError: onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.name = folder.name
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{folder}: no YAHPO scenario: {', '.join(missing)} missing")
        with from_extra("baselines", user="a surrogate of YAHPO"):
            import onnxruntime

        names, space, self._codes = (_read_json(folder / name) for name in FILES[:3])
        try:
            self._numeric, self._categorical = list(names["cont_names"]), list(names["cat_names"])
            self._outputs = list(names["y_names"])
            self.metrics = dict(zip(self._outputs, names["y_minimize"], strict=True))
            self._instance: str | None = names["instance_names"]
            self._parameters = {parameter["name"]: parameter for parameter in space["hyperparameters"]}
            self._full = {name: _highest(self._parameters[name]) for name in names["fidelity_params"]}
            self._budget = next(name for name in names["fidelity_params"] if name != _REPETITIONS)
            self._whole = self._parameters[self._budget]["type"] == "uniform_int"
            self.least_share = self._parameters[self._budget]["lower"] / self._full[self._budget]
            self._conditions = {condition["child"]: _clauses(condition) for condition in space["conditions"]}
            self.instances = (
                [_ONLY_INSTANCE] if self._instance is None else list(self._parameters[self._instance]["choices"])
            )
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise ValueError(f"{folder}: names.json or config_space.json is not as expected: {error!r}") from error
        self._tuned = [name for name in self._parameters if name != self._instance and name not in self._full]
        self._parents_first = self._in_order()
        self._quality = _read_quality(folder)
        options = onnxruntime.SessionOptions()
        # One thread: with a few hundred points per call, threads cost more than they save.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ValueError(f"{folder / 'model.onnx'}: cannot be loaded: {error}") from error

    def _in_order(self) -> list[str]:
        """Names of the tuned parameters, parents before children.

        Raises:
          ValueError: a condition without a categorical parent among them, or a cycle of conditions.
        """
        ordered: list[str] = []
        while len(ordered) < len(self._tuned):
            known = {name for name in ordered if self._parameters[name]["type"] == "categorical"}
            left = [name for name in self._tuned if name not in ordered]
            ready = [name for name in left if self._conditions.get(name, {}).keys() <= known]
            if not ready:
                raise ValueError(
                    f"scenario {self.name}, parameter {left[0]}: its conditions have no categorical parent"
                )
            ordered += ready
        return ordered

    def search_space(self) -> vz.SearchSpace:
        """All parameters except the instance and the fidelities; children under the values that activate them.

        Raises:
          ValueError: an unknown type of parameter, or conditions that do not form a tree.
        """
        space = vz.SearchSpace()
        placed: set[str] = set()
        for name in self._tuned:
            if name not in self._conditions:
                self._add(space.root, name, {}, placed)
        for name in self._tuned:
            if name not in placed:
                raise ValueError(f"scenario {self.name}, parameter {name}: its conditions do not form a tree")
        return space

    def _add(
        self, selector: vz.SearchSpaceSelector, name: str, above: Mapping[str, frozenset[str]], placed: set[str]
    ) -> None:
        """Adds a parameter and its descendants; `above` has the values of its ancestors in this branch."""
        parameter = self._parameters[name]
        placed.add(name)
        kind = parameter["type"]
        if kind == "categorical":
            added = selector.add_categorical_param(name, [str(choice) for choice in parameter["choices"]])
        elif kind in ("uniform_float", "uniform_int"):
            add = selector.add_float_param if kind == "uniform_float" else selector.add_int_param
            scale = vz.ScaleType.LOG if parameter["log"] else vz.ScaleType.LINEAR
            added = add(name, parameter["lower"], parameter["upper"], scale_type=scale)
        else:
            raise ValueError(f"scenario {self.name}, parameter {name}: type {kind!r} is not known")
        for child in self._tuned:
            clauses = self._conditions.get(child, {})
            # A child with several parents is added under the deepest one.
            if name not in clauses or not clauses.keys() <= above.keys() | {name}:
                continue
            others = [above[parent] & values for parent, values in clauses.items() if parent != name]
            if all(others):
                if any(above[parent] - values for parent, values in clauses.items() if parent != name):
                    raise ValueError(f"scenario {self.name}, parameter {child}: its conditions do not form a tree")
                # In the order of the space.
                values = [str(each) for each in parameter["choices"] if str(each) in clauses[name]]
                self._add(added.select_values(values), child, {**above, name: clauses[name]}, placed)

    def tuned_metrics(self, instance: str) -> list[str]:
        """The metrics of `QUALITY` (or the first metric, if there are none), except those unusable by `quality.json`.

        An empty list if the data set is flat.
        """
        if instance in self._quality.get("flat_instances", ()):
            return []
        zero = self._quality.get("zero_by_construction", {})
        unusable = {*self._quality.get("weak_targets", ()), *(metric for metric in zero if instance in zero[metric])}
        wanted = [metric for metric in QUALITY if metric in self.metrics] or self._outputs[:1]
        return [metric for metric in wanted if metric not in unusable]

    def evaluate(self, configurations: Sequence[Mapping[str, object]], instance: str, share: float = 1.0) -> np.ndarray:
        """Predicted metrics, float64 [N, metrics], with columns in the order of `metrics`.

        Args:
          configurations: N dictionaries from parameter to value; values of inactive parameters are ignored.
          instance: one of `instances`.
          share: share of the budget, from `least_share` to 1; rounded to whole epochs, at least one.

        Raises:
          ValueError: an unknown instance or category, a share outside the range, an active parameter without a value.
        """
        if instance not in self.instances:
            raise ValueError(f"scenario {self.name} has no instance {instance!r}; it has {', '.join(self.instances)}")
        if not self.least_share <= share <= 1.0:
            raise ValueError(f"scenario {self.name}: share {share} of the budget is not in [{self.least_share}, 1]")
        count = len(configurations)
        given = {name: [each.get(name) for each in configurations] for name in self._tuned}
        active: dict[str, np.ndarray] = {}
        for name in self._parents_first:
            on = np.ones(count, bool)
            for parent, wanted in self._conditions.get(name, {}).items():
                on &= active[parent] & np.array([str(value) in wanted for value in given[parent]], bool)
            missing = on & np.array([value is None for value in given[name]], bool)
            if missing.any():
                raise ValueError(
                    f"scenario {self.name}, parameter {name}: configuration {int(missing.argmax())} has no value for it"
                )
            active[name] = on
        used = share * float(self._full[self._budget])
        fixed = {**self._full, self._budget: round(used) if self._whole else used}
        if self._instance is not None:
            fixed[self._instance] = instance
        codes = np.empty((count, len(self._categorical)), np.int32)
        values = np.zeros((count, len(self._numeric)), np.float32)
        for column, name in enumerate(self._categorical):
            if name in fixed:
                codes[:, column] = self._code(name, fixed[name])
            else:
                named = zip(given[name], active[name].tolist(), strict=True)
                codes[:, column] = [self._code(name, value if there else INACTIVE) for value, there in named]
        for column, name in enumerate(self._numeric):
            values[:, column] = fixed[name] if name in fixed else np.where(active[name], np.array(given[name]), 0.0)
        categories, numbers = self._session.get_inputs()
        return np.asarray(self._session.run(None, {categories.name: codes, numbers.name: values})[0], dtype=float)

    def _code(self, name: str, value: object) -> int:
        try:
            return int(self._codes[name][str(value)])
        except KeyError:
            raise ValueError(f"scenario {self.name}, parameter {name}: {str(value)!r} has no code") from None


def _clauses(condition: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Parent -> required values, from ConfigSpace's conditions EQ, IN and AND.

    Raises:
      ValueError: the condition is of another kind.
    """
    match condition["type"]:
        case "EQ":
            return {condition["parent"]: frozenset([str(condition["value"])])}
        case "IN":
            return {condition["parent"]: frozenset(map(str, condition["values"]))}
        case "AND":
            found: dict[str, frozenset[str]] = {}
            for part in map(_clauses, condition["conditions"]):
                found |= {parent: values & found.get(parent, values) for parent, values in part.items()}
            return found
    raise ValueError(f"conditions {condition['type']!r} are not known")


def _highest(fidelity: Mapping[str, Any]) -> float | int | str:
    """The highest value of a fidelity: the upper bound of a range, or the largest of numeric categories."""
    return max(fidelity["choices"], key=float) if fidelity["type"] == "categorical" else fidelity["upper"]


def _read_quality(folder: Path) -> dict[str, Any]:
    """The entry of `quality.json` for a scenario; empty if there is no such file."""
    path = folder.parent / QUALITY_FILE
    if not path.is_file():
        return {}
    known = _read_json(path)
    found = known.get(folder.name, {}) if isinstance(known, dict) else None
    kinds = {"weak_targets": list, "flat_instances": list, "zero_by_construction": dict}
    if not isinstance(found, dict) or any(not isinstance(found.get(key, kind()), kind) for key, kind in kinds.items()):
        raise ValueError(f"{path}: not as expected for {folder.name}: {', '.join(kinds)}")
    return found


@functools.lru_cache(maxsize=16)
def load_scenario(folder: Path) -> Scenario:
    """Loads a scenario, once per process."""
    return Scenario(folder)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error


@dataclasses.dataclass(frozen=True)
class Task:
    """One metric of a scenario's surrogate on one data set, tuned at full fidelity.

    Attributes:
      folder: folder of the scenario.
      instance: name of the data set.
      metric: one of its `tuned_metrics`.
    """

    folder: Path
    instance: str
    metric: str


def tasks(folder: str | Path, *, held_out: bool) -> list[Task]:
    """All tasks of the scenarios in a folder, either those for training or the held-out ones.

    Each metric of a data set is one task.  Weak metrics, metrics that are zero by construction, and flat data sets are
    omitted, according to `quality.json`.

    Raises:
      ValueError: the folder has no scenario, or a file is missing or damaged.
    """
    found = []
    for name in scenarios(folder):
        path = Path(folder).resolve() / name
        scenario = load_scenario(path)
        for instance in map(str, scenario.instances):
            if _is_held_out(name, instance) == held_out:
                found += [Task(path, instance, metric) for metric in scenario.tuned_metrics(instance)]
    return found


class YahpoExperimenter(experimenters.Experimenter):
    """One metric of one instance of a scenario, tuned at full fidelity.

    Args:
      scenario: from `load_scenario`.
      instance: one of its data sets.
      metric: one of its metrics; by default the first.
      shares: shares of the budget at which trials report the metric: one measurement each, whose step is the share in
        thousandths.

    Raises:
      ValueError: no such instance or metric.
    """

    def __init__(self, scenario: Scenario, instance: str, metric: str | None = None, shares: Sequence[float] = ()):
        self.metric = next(iter(scenario.metrics)) if metric is None else metric
        if self.metric not in scenario.metrics:
            known = ", ".join(scenario.metrics)
            raise ValueError(f"scenario {scenario.name} has no metric {metric!r}; it has {known}")
        if instance not in scenario.instances:
            raise ValueError(f"scenario {scenario.name} has no instance {instance!r}")
        self.scenario = scenario
        self.instance = instance
        self.shares = tuple(shares)

    def problem_statement(self) -> vz.ProblemStatement:
        problem = keep_scales(vz.ProblemStatement(self.scenario.search_space()))
        minimize = self.scenario.metrics[self.metric]
        goal = vz.ObjectiveMetricGoal.MINIMIZE if minimize else vz.ObjectiveMetricGoal.MAXIMIZE
        problem.metric_information.append(vz.MetricInformation(self.metric, goal=goal))
        problem.metadata.ns("optformer")["title"] = f"{self.scenario.name} on {self.instance}"
        return problem

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial with the surrogate's prediction."""
        if not suggestions:
            return
        configurations = [trial.parameters.as_dict() for trial in suggestions]
        column = list(self.scenario.metrics).index(self.metric)
        for share in self.shares:
            early = self.scenario.evaluate(configurations, self.instance, share)[:, column]
            for trial, value in zip(suggestions, early.tolist(), strict=True):
                trial.measurements.append(vz.Measurement({self.metric: value}, steps=round(STEPS * share)))
        values = self.scenario.evaluate(configurations, self.instance)[:, column]
        for trial, value in zip(suggestions, values.tolist(), strict=True):
            if self.shares:
                trial.measurements.append(vz.Measurement({self.metric: value}, steps=STEPS))
            trial.complete(vz.Measurement(metrics={self.metric: value}))
