"""Measured tables: configurations of a system with their measured objectives, as problems to tune.

A folder holds tables in two formats (`.gz` or not); files whose names begin with `validation` are for comparisons:

| file | tables |
|---|---|
| `*.jsonl` | one per line, as below |
| `*.csv`, `*.tsv` | one, or one per study; the mapping file of `optformer.data.sources.csv_table` is next to it |

A line is an object of these fields; others are ignored:

    {"name": "kernel/convolution/A100",    unique in the folder
     "group": "kernel-convolution",        group of similar tables; default: the name
     "metric": "time", "goal": "minimize",
     "space": [{"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "log": true},
               {"name": "layers", "type": "int", "low": 1, "high": 8},
               {"name": "block", "type": "ordinal", "choices": [16, 32, 64]},
               {"name": "optimizer", "type": "categorical", "choices": ["adam", "sgd"]},
               {"name": "momentum", "type": "float", "low": 0, "high": 1, "when": {"optimizer": ["sgd"]}}],
     "rows": [[0.001, 2, 32, "adam", null], ...],   values in the order of the space
     "values": [3.9, null, ...]}              one per row; null if the configuration failed

`when` names an earlier parameter and the values of it under which this one is active; otherwise, its value is null or
ignored.  Repeats of a configuration should be averaged beforehand: only the first one is used.
"""

import copy
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.sources import Quarantined, csv_table, study_name
from optformer.data.sources.records import GOALS, MALFORMED, error_text
from optformer.data.sources.study_lines import StudyWriter, json_lines

HELD_OUT_FILES: Final = "validation"
"""Prefix of the names of files that are never trained or tuned on."""

_LINES: Final = (".jsonl",)
_COLUMNS: Final = (".csv", ".tsv")
_DIGITS: Final = 9
"""Significant digits of a distance; equal distances may differ beyond them because of rounding."""

_INACTIVE: Final = -1.0
"""Position of an inactive parameter."""

Configuration = Mapping[str, float | int | str]


class Column(NamedTuple):
    """A parameter of a search space without its children, and the values of its parent, if any, that make it active."""

    config: vz.ParameterConfig
    parent: str | None
    under: list[float | int | str]

    def is_active(self, parents: Configuration) -> bool:
        """Whether the parameter is active, given the values of the active parameters before it."""
        if self.parent is None:
            return True
        if self.parent not in parents:
            return False
        value = parents[self.parent]
        return any(value == each or str(value) == each for each in self.under)


def columns_of(space: vz.SearchSpace) -> list[Column]:
    """The parameters of a space, without duplicates, parents before children.

    Raises:
      ValueError: two different parameters have the same name.
    """
    found: dict[str, Column] = {}

    def visit(parameters: Sequence[vz.ParameterConfig], parent: str | None, value: float | int | str | None) -> None:
        for parameter in parameters:
            config = parameter.clone_without_children
            known = found.setdefault(parameter.name, Column(config, parent, []))
            if (known.config, known.parent) != (config, parent):
                raise ValueError(f"two parameters have the name {parameter.name!r}")
            if value is not None and value not in known.under:
                known.under.append(value)
            for each, below in sorted(parameter.subspaces(), key=lambda subspace: subspace[0]):
                visit(below.parameters, parameter.name, each)

    visit(space.parameters, None, None)
    return list(found.values())


class Table:
    """The measured configurations of a system, and their objectives.

    Attributes:
      name: name, unique in its folder.
      group: name of a group of similar tables.
      problem: search space, metric and goal.
      rows: N configurations, values of active parameters by name.
      values: float64 [N], NaN where the configuration failed.
      places: float64 [N, D], the rows as points, see `placed`.
      columns: the D parameters, parents before children.
      categorical: bool [D].
    """

    def __init__(
        self,
        name: str,
        group: str,
        problem: vz.ProblemStatement,
        rows: Sequence[Configuration],
        values: Sequence[float] | np.ndarray,
    ):
        """
        Raises:
          ValueError: a row lacks an active parameter or has a value outside its range, the numbers of rows and values
            differ, or all rows failed; the message names the parameter.
        """
        self.name, self.group, self.problem = name, group, problem
        self.columns = columns_of(problem.search_space)
        self.rows, self.values = [self._active(row) for row in rows], np.asarray(values, dtype=float)
        if len(self.rows) != len(self.values):
            raise ValueError(f"there are {len(self.rows)} rows, but {len(self.values)} values")
        if not np.isfinite(self.values).any():
            raise ValueError("no row has a value")
        self.categorical = np.array([each.config.type == vz.ParameterType.CATEGORICAL for each in self.columns])
        self.places = self.placed(self.rows)

    @property
    def metric(self) -> vz.MetricInformation:
        return self.problem.metric_information.item()

    def _active(self, configuration: Configuration) -> Configuration:
        """The values of active parameters."""
        active: dict[str, float | int | str] = {}
        for column in self.columns:
            name = column.config.name
            if name in configuration and column.is_active(active):
                active[name] = configuration[name]
        return active

    def placed(self, configurations: Sequence[Configuration]) -> Float[np.ndarray, "N D"]:
        """Configurations as points.

        The coordinate of a number is its position in the range, on its scale, in [0, 1]; of a discrete value, its
        position in the order of values, in [0, 1]; of a category, its index; of an inactive parameter, -1.

        Raises:
          ValueError: a value is missing or outside its range; the message names row and parameter.
        """
        points = np.full((len(configurations), len(self.columns)), _INACTIVE)
        active = [self._active(configuration) for configuration in configurations]
        for number, column in enumerate(self.columns):
            name, place = column.config.name, _place_of(column.config)
            for row, configuration in enumerate(active):
                if not column.is_active(configuration):
                    continue
                value = configuration.get(name)
                try:
                    points[row, number] = place(value)
                except (KeyError, TypeError, ValueError):
                    what = "no value" if value is None else f"{value!r} is not in its range"
                    raise ValueError(f"row {row + 1}, parameter {name!r}: {what}") from None
        return points

    def distances(self, configuration: Configuration) -> Float[np.ndarray, " N"]:
        """Gower's distance of a configuration to each row: the sum over parameters of the distance of positions for
        numbers, 1 for different categories, and 1 for a parameter that is active in only one of the two."""
        gaps = np.abs(self.places - self.placed([configuration]))
        gaps[:, self.categorical] = gaps[:, self.categorical] > 0
        distances: np.ndarray = np.minimum(gaps, 1.0).sum(axis=1)
        return distances

    def nearest(self, configuration: Configuration) -> int:
        """Index of the nearest row; of ties, the first."""
        return int(np.round(self.distances(configuration), _DIGITS).argmin())


def _place_of(config: vz.ParameterConfig) -> Callable[[Any], float]:
    if config.type == vz.ParameterType.CATEGORICAL:
        index = {category: place for place, category in enumerate(config.feasible_values)}
        return lambda value: index[str(value)]
    if config.type == vz.ParameterType.DISCRETE:
        values = [float(value) for value in config.feasible_values]
        order = {value: place / max(len(values) - 1, 1) for place, value in enumerate(values)}
        return lambda value: order[float(value)]
    low, high = config.bounds
    scaled = math.log if config.scale_type == vz.ScaleType.LOG else float
    origin, width = scaled(low), scaled(high) - scaled(low)

    def place(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(value)
        return (scaled(value) - origin) / width if width else 0.0

    return place


class TableExperimenter(experimenters.Experimenter):
    """A table as a problem: a trial gets the objective of the nearest measured configuration (`Table.nearest`).

    If that configuration failed, the trial is infeasible.

    Args:
      table: a table with at least one row.
      rows_alone: whether trials that no optimizer chooses (`optformer.data.generation.orders`) must be rows of the
        table, instead of any configurations.
    """

    def __init__(self, table: Table, rows_alone: bool = True):
        self.table, self.rows_alone = table, rows_alone

    def problem_statement(self) -> vz.ProblemStatement:
        return copy.deepcopy(self.table.problem)

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial."""
        for trial in suggestions:
            value = self.table.values[self.table.nearest(trial.parameters.as_dict())]
            if np.isfinite(value):
                trial.complete(vz.Measurement(metrics={self.table.metric.name: float(value)}))
            else:
                trial.complete(vz.Measurement(), infeasibility_reason="the nearest measured configuration failed")


# --- Files ---


def files(folder: str | Path) -> list[Path]:
    """The sorted files of a folder that hold tables.

    Raises:
      ValueError: the folder does not exist or has no tables.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name the one that holds measured tables")
    found = sorted(path for path in folder.iterdir() if path.name.removesuffix(".gz").endswith((*_LINES, *_COLUMNS)))
    if not found:
        raise ValueError(f"{folder}: no measured tables in it (*.jsonl, or *.csv with a mapping file; .gz or not)")
    return found


def held_out(path: Path) -> bool:
    """Whether the tables of a file are held out for comparisons."""
    return path.name.startswith(HELD_OUT_FILES)


@functools.lru_cache(maxsize=16)
def load_tables(path: Path) -> dict[str, Table]:
    """The tables of a file by name, read once per process.

    Raises:
      ValueError: a table is invalid; the message names file, line, table and parameter.
    """
    read = _lines if path.name.removesuffix(".gz").endswith(_LINES) else _columns
    tables: dict[str, Table] = {}
    for table in read(path):
        if table.name in tables:
            raise ValueError(f"{path}: two tables have the name {table.name!r}")
        tables[table.name] = table
    return tables


def _lines(path: Path) -> Iterator[Table]:
    for line in json_lines(path, str(path)):
        if isinstance(line, Quarantined):
            raise ValueError(f"{path}, {line.study}: {line.reason}")
        number, record = line
        where = f"{path}, line {number}"
        try:
            name = str(record["name"])
        except KeyError:
            raise ValueError(f"{where}: the table has no name") from None
        try:
            yield _table(name, record)
        except MALFORMED as error:
            raise ValueError(f"{where}, table {name!r}: {error_text(error)}") from error


def _table(name: str, record: Mapping[str, Any]) -> Table:
    goal = GOALS.get(str(record["goal"]).lower())
    if goal is None:
        raise ValueError(f"the goal must be minimize or maximize, not {record['goal']!r}")
    problem = vz.ProblemStatement()
    problem.metric_information.append(vz.MetricInformation(str(record["metric"]), goal=vz.ObjectiveMetricGoal[goal]))
    within: dict[str, list[vz.SearchSpace]] = {}
    for parameter in record["space"]:
        try:
            _add_parameter(problem.search_space, parameter, within)
        except MALFORMED as error:
            raise ValueError(f"parameter {parameter.get('name')!r}: {error_text(error)}") from error
    names = list(within)
    types = [parameter["type"] for parameter in record["space"]]
    rows = []
    for number, row in enumerate(record["rows"], 1):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} values, but the space has {len(names)} parameters")
        for parameter, kind, value in zip(names, types, row, strict=True):
            if value is not None and not _is_value(kind, value):
                raise ValueError(f"row {number}, parameter {parameter!r}: {value!r} is not a {_VALUES[kind]}")
        rows.append({name: value for name, value in zip(names, row, strict=True) if value is not None})
    problem.metadata.ns("optformer")["title"] = name
    values = [math.nan if value is None else float(value) for value in record["values"]]
    return Table(name, str(record.get("group", name)), problem, rows, values)


def _add_parameter(space: vz.SearchSpace, record: Mapping[str, Any], within: dict[str, list[vz.SearchSpace]]) -> None:
    """Adds a parameter.  `within` maps names of earlier parameters to the subspaces that contain them; extends it."""
    name, when = record["name"], record.get("when")
    if name in within:
        raise ValueError("the space has two parameters of this name")
    within[name] = [space]
    if when is not None:
        ((parent, values),) = when.items()
        if parent not in within or parent == name:
            raise ValueError(f"it depends on {parent!r}, which is not an earlier parameter")
        within[name] = [each.get(parent).subspace(value) for each in within[parent] for value in values]
    for each in within[name]:
        each.add(_parameter(record))


_VALUES: Final = {"float": "number", "int": "whole number", "ordinal": "number", "categorical": "text"}


def _is_value(kind: str, value: object) -> bool:
    """Whether a value of a row is of its parameter's type."""
    if kind == "categorical":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return kind != "int" or float(value).is_integer()


def _parameter(record: Mapping[str, Any]) -> vz.ParameterConfig:
    name, kind = record["name"], record["type"]
    if kind in ("float", "int"):
        number = float if kind == "float" else int
        scale = vz.ScaleType.LOG if record.get("log") else vz.ScaleType.LINEAR
        bounds = (number(record["low"]), number(record["high"]))
        if record.get("log") and bounds[0] <= 0:
            raise ValueError(f"a log scale needs a positive range, not {list(bounds)}")
        return vz.ParameterConfig.factory(name, bounds=bounds, scale_type=scale)
    if kind not in ("ordinal", "categorical"):
        raise ValueError(f"type {kind!r} is not known; known are float, int, ordinal, categorical")
    choices = list(record["choices"])
    if kind == "categorical" and not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"the choices of a categorical parameter must be strings, not {choices}")
    return vz.ParameterConfig.factory(
        name, feasible_values=choices if kind == "categorical" else sorted(map(float, choices))
    )


def _columns(path: Path) -> Iterator[Table]:
    for study in csv_table.read(path, str(path)):
        if isinstance(study, Quarantined):
            trial = "" if study.trial is None else f", row {study.trial}"
            parameter = "" if study.parameter is None else f", parameter {study.parameter!r}"
            raise ValueError(f"{path}, table {study.study!r}{trial}{parameter}: {study.reason}")
        name = study_name(study)
        measured = [trial for trial in study.trials if trial.is_completed and trial.stopping_reason is None]
        try:
            metric = study.problem.metric_information.item().name
            values = [
                math.nan if trial.infeasible else trial.final_measurement_or_die.metrics[metric].value
                for trial in measured
            ]
            yield Table(name, path.name, study.problem, [trial.parameters.as_dict() for trial in measured], values)
        except ValueError as error:
            raise ValueError(f"{path}, table {name!r}: {error}") from error


def write_tables(path: str | os.PathLike[str], written: Iterable[Table]) -> None:
    """Writes tables as the lines of a file atomically; compresses it if the name ends in `.gz`."""
    with StudyWriter(path) as writer:
        for table in written:
            writer.write_record(_to_json(table))


def _to_json(table: Table) -> dict[str, Any]:
    return {
        "name": table.name,
        "group": table.group,
        "metric": table.metric.name,
        "goal": table.metric.goal.name.lower(),
        "space": [_column_to_json(column) for column in table.columns],
        "rows": [[row.get(column.config.name) for column in table.columns] for row in table.rows],
        "values": [value if math.isfinite(value) else None for value in table.values.tolist()],
    }


def _column_to_json(column: Column) -> dict[str, Any]:
    config = column.config
    record: dict[str, Any] = {"name": config.name}
    if config.type in (vz.ParameterType.CATEGORICAL, vz.ParameterType.DISCRETE):
        kind = "categorical" if config.type == vz.ParameterType.CATEGORICAL else "ordinal"
        record |= {"type": kind, "choices": list(config.feasible_values)}
    else:
        low, high = config.bounds
        record |= {"type": "int" if config.type == vz.ParameterType.INTEGER else "float", "low": low, "high": high}
        if config.scale_type == vz.ScaleType.LOG:
            record["log"] = True
    if column.parent is not None:
        record["when"] = {column.parent: column.under}
    return record
