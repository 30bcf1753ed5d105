"""Keras Tuner's projects: one folder per project, with `oracle.json` and one folder per trial.

    oracle.json                the search space with its conditions, and the trials in the order of their start
    trial_<id>/trial.json      values, metrics by step, the score and its step, the status

The name of the objective is not recorded.  It is recognized by the score, which is the best value of that metric.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.data.sources.inferred_space import Declared
from optformer.data.sources.logged_study import LoggedStudy, LoggedTrial, Report, to_pyvizier
from optformer.data.sources.records import (
    GOALS,
    MALFORMED,
    Quarantined,
    SourceError,
    SourceOptions,
    UnusableError,
    error_text,
    quarantined_study,
)
from optformer.serialization.branches import Branch
from optformer.serialization.tokens import NUM_LEVELS

ORACLE, TRIAL = "oracle.json", "trial.json"
STATES: Final = {"COMPLETED": "completed", "RUNNING": "active", "INVALID": "infeasible", "FAILED": "infeasible"}
_NOTHING_DRAWN: Final = ("IDLE", "STOPPED")
"""States of trials without values: the oracle was waiting or had stopped."""
_OWN = "tuner/"
"""Prefix of values that Keras Tuner itself adds, such as the number of epochs of a Hyperband trial."""


def recognizes(path: Path) -> bool:
    """Whether a path is an `oracle.json`, a project or a folder of projects."""
    return bool(_projects(path))


def read(
    path: Path,
    source: str,
    study: str | None = None,
    options: SourceOptions = SourceOptions(),  # noqa: B008, immutable
) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """One study for each project, named as its folder.

    Raises:
      SourceError: no project, or several metrics may have been the objective and the options name none.
    """
    projects = _projects(path)
    if not projects:
        raise SourceError(f"{path}: no project of Keras Tuner: no {ORACLE} with a search space")
    for folder in projects:
        if study is None or study == folder.name:
            yield from _project(folder, source, options)


def count(path: Path) -> int:
    """Number of projects."""
    return len(_projects(path))


def _projects(path: Path) -> list[Path]:
    """The folders of projects, resolved, so that they have names even if the path is `.`."""
    if not path.is_dir():
        return [path.absolute().parent] if path.name == ORACLE and _is_oracle(path) else []
    folders = [path.absolute(), *sorted(folder for folder in path.absolute().iterdir() if folder.is_dir())]
    found = [folder for folder in folders if _is_oracle(folder / ORACLE)]
    return found[:1] if found[:1] == folders[:1] else found


def _is_oracle(path: Path) -> bool:
    try:
        record = json.loads(path.read_text())
        return isinstance(record["hyperparameters"]["space"], list)
    except (OSError, RecursionError, *MALFORMED):
        return False


def _project(folder: Path, source: str, options: SourceOptions) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    oracle = json.loads((folder / ORACLE).read_text())
    records: dict[str, dict[str, Any] | str] = {}
    for file in sorted(folder.glob(f"trial_*/{TRIAL}")):
        identifier = file.parent.name.removeprefix("trial_")
        try:
            record = json.loads(file.read_text())
            if not isinstance(record["hyperparameters"]["values"], dict):
                raise ValueError("no values")
            records[identifier] = record
        except (OSError, RecursionError, *MALFORMED) as error:
            reason = error_text(error) if isinstance(error, MALFORMED) else str(error)
            records[identifier] = f"trial cannot be represented: {TRIAL} cannot be read ({reason})"
    begun = [str(identifier) for identifier in oracle.get("start_order") or ()]
    if not records:
        reason = f"no trials: there is no folder trial_* with a {TRIAL} beside {ORACLE}"
        yield from quarantined_study(source, folder.name, range(len(begun)), reason)
        return
    for identifier in begun:
        records.setdefault(identifier, f"trial cannot be represented: it was started, but has no {TRIAL}")
    order = sorted(records, key=lambda identifier: begun.index(identifier) if identifier in begun else len(begun))

    whole = [record for record in records.values() if isinstance(record, dict)]
    spaces = [oracle["hyperparameters"]["space"], *(record["hyperparameters"].get("space") or () for record in whole)]
    declared, branches = _space(_distinct(spaces))
    names = options.metrics or _scored(whole)
    goals = _goals(whole, names)
    reported = {name for record in whole for name in _metrics(record)}
    objectives = options.objectives(folder, names, goals, reported)
    trials = [
        _trial(number, identifier, records[identifier], list(objectives))
        for number, identifier in _numbered(order)
        if not _is_empty(records[identifier])
    ]
    study = LoggedStudy(
        source,
        folder.name,
        "keras_tuner",
        folder.name,
        objectives,
        trials,
        declared,
        {"title": folder.name},
        branches=branches,
    )
    yield from to_pyvizier(study)


def _numbered(identifiers: Sequence[str]) -> list[tuple[int, str]]:
    """Trials with their numbers: their ids, or their positions if ids are hashes."""
    if all(identifier.isdecimal() for identifier in identifiers):
        numbers = [int(identifier) for identifier in identifiers]
        if len(set(numbers)) == len(numbers):
            return list(zip(numbers, identifiers, strict=True))
    return list(enumerate(identifiers))


def _is_empty(record: dict[str, Any] | str) -> bool:
    return isinstance(record, dict) and record.get("status") in _NOTHING_DRAWN


# --- The space --------------------------------------------------------------------------------------------------------


def _distinct(spaces: Iterable[Iterable[Any]]) -> list[dict[str, Any]]:
    """Every declared hyperparameter, without duplicates: `class_name` and `config`."""
    found = {json.dumps(entry, sort_keys=True): entry for space in spaces for entry in space}
    return [entry for entry in found.values() if isinstance(entry, dict)]


def _space(entries: Sequence[dict[str, Any]]) -> tuple[dict[str, Declared], dict[str, Branch]]:
    """The declared parameters and their conditions.  Parameters that cannot be expressed are inferred; those with
    inexpressible conditions stay at the root."""
    declared: dict[str, Declared] = {}
    places: dict[str, list[list[tuple[str, list[Any]]]]] = {}
    for entry in entries:
        try:
            config = entry["config"]
            name = config["name"]
            declaration = _declaration(str(entry["class_name"]), config)
            conditions = [(c["config"]["name"], list(c["config"]["values"])) for c in config.get("conditions") or ()]
        except MALFORMED:
            continue
        places.setdefault(name, []).append(conditions)
        if declaration is not None:
            declared[name] = _united(declared[name], declaration) if name in declared else declaration
    branches = {}
    for name, found in places.items():
        above = [conditions[:-1] for conditions in found if conditions]
        parents = {conditions[-1][0] for conditions in found if conditions}
        if len(above) < len(found) or len(parents) != 1:
            continue  # at the root, or below several parents
        (parent,) = parents
        if parent in declared and all(conditions in places[parent] for conditions in above):
            values = [_value(declared[parent], value) for conditions in found for value in conditions[-1][1]]
            if None not in values:
                branches[name] = Branch(parent, tuple(dict.fromkeys(value for value in values if value is not None)))
    return declared, branches


def _declaration(kind: str, config: Mapping[str, Any]) -> Declared | None:
    if kind == "Boolean":
        return Declared("boolean", values=(False, True))
    if kind == "Choice":
        values = list(config["values"])
        if config.get("ordered") and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            return Declared("discrete", values=tuple(values), log=False)
        return Declared("categorical", values=tuple(values))
    if kind not in ("Int", "Float"):
        return None  # Fixed: a constant
    low, high = config["min_value"], config["max_value"]
    step, log = config.get("step"), config.get("sampling") == "log"
    if kind == "Int" and (step is None or (step == 1 and not log)):
        return Declared("integer", (low, high), log)
    grid = _grid(low, high, step, log) if step else []
    if len(grid) > 1:
        return Declared("discrete", values=tuple(map(int, grid)) if kind == "Int" else tuple(grid), log=log)
    return Declared("integer" if kind == "Int" else "double", (low, high), log)


def _grid(low: float, high: float, step: float, multiplied: bool) -> list[float]:
    """The values of a range with a step, which is a factor on a logarithmic scale; [] if there are too many."""
    if step <= 0 or (multiplied and (step <= 1 or low <= 0)):
        return []
    steps = math.log(high / low) / math.log(step) if multiplied else (high - low) / step
    if not 0 <= steps < NUM_LEVELS:
        return []
    places = range(math.floor(steps + 1e-8) + 1)
    return [low * step**k if multiplied else low + k * step for k in places]


def _united(one: Declared, other: Declared) -> Declared:
    """Merges two declarations of one name."""
    if one.kind != other.kind:
        return Declared()
    if one.bounds and other.bounds:
        bounds = min(one.bounds[0], other.bounds[0]), max(one.bounds[1], other.bounds[1])
        return Declared(one.kind, bounds, one.log)
    return Declared(one.kind, None, one.log, tuple(dict.fromkeys([*(one.values or ()), *(other.values or ())])))


def _value(parent: Declared, value: Any) -> float | int | str | None:
    """A value of a parent, of the type of its configuration; None if it has no such value, or cannot have children."""
    if parent.kind == "integer" and parent.bounds:
        return value if isinstance(value, int) and parent.bounds[0] <= value <= parent.bounds[1] else None
    if value not in (parent.values or ()):
        return None
    return value if parent.kind == "discrete" else str(value)


# --- Trials -----------------------------------------------------------------------------------------------------------


def _metrics(record: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Metric -> step -> value; the mean if a trial was executed several times."""
    found: dict[str, dict[int, float]] = {}
    stored = (record.get("metrics") or {}).get("metrics") or {}
    for name, history in stored.items():
        for observation in history.get("observations") or ():
            values = [float(value) for value in observation["value"]]
            if values:
                found.setdefault(name, {})[int(observation.get("step") or 0)] = sum(values) / len(values)
    return found


def _scored(records: Sequence[dict[str, Any]]) -> list[str]:
    """The metric that equals the score of every trial; an empty list if that is ambiguous."""
    names: set[str] | None = None
    for record in records:
        score, step = record.get("score"), int(record.get("best_step") or 0)
        if isinstance(score, int | float) and math.isfinite(score):
            equal = {
                name for name, values in _metrics(record).items() if math.isclose(values.get(step, math.nan), score)
            }
            names = equal if names is None else names & equal
    return list(names) if names and len(names) == 1 else []


def _goals(records: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """The goals of metrics by their recorded directions; an empty list if one of them is not recorded."""
    known: dict[str, str] = {}
    for record in records:
        for name, history in ((record.get("metrics") or {}).get("metrics") or {}).items():
            if goal := GOALS.get(str(history.get("direction"))):
                known[name] = goal
    goals = [known.get(name, "") for name in names]
    return goals if all(goals) else []


def _trial(number: int, identifier: str, record: dict[str, Any] | str, objectives: Sequence[str]) -> LoggedTrial:
    if isinstance(record, str):
        return LoggedTrial(number, {}, "", fault=UnusableError(record))
    metadata = {"trial_id": identifier}
    try:
        values = record["hyperparameters"]["values"]
        own = {name: value for name, value in values.items() if name.startswith(_OWN)}
        metadata |= {name: str(value) for name, value in own.items()}
        metrics = _metrics(record)
        steps = sorted({step for history in metrics.values() for step in history})
        reports = [Report(s, {name: history[s] for name, history in metrics.items() if s in history}) for s in steps]
        state = STATES.get(str(record.get("status")))
        fault = None if state else UnusableError(f"unknown trial state: {record.get('status')!r}")
        final = None
        best = next((report for report in reports if report.step == record.get("best_step")), None)
        if best and all(name in best.metrics for name in objectives):
            final = best.metrics
    except MALFORMED as error:
        fault = UnusableError(f"trial cannot be represented: {error_text(error)}")
        return LoggedTrial(number, {}, "", fault=fault)
    return LoggedTrial(
        number,
        {name: value for name, value in values.items() if name not in own},
        state or "",
        [report for report in reports if report.step >= 0],
        final,
        reason=_reason(record.get("message")) if state == "infeasible" else "",
        metadata=metadata,
        fault=fault,
    )


def _reason(message: Any) -> str:
    """The last line of the traceback."""
    lines = [line.strip() for line in str(message or "").splitlines() if line.strip()]
    return f"failed: {lines[-1]}" if lines else "failed"
