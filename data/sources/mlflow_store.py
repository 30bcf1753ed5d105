"""MLflow's tracking store: its SQLite file, or the folder `mlruns`.

A run is a trial.  The children of a parent run are a study, named "experiment/parent run"; the other runs of an
experiment are a study named as the experiment.  MLflow records parameters as text, and neither the space nor which
metric is the objective.
"""

import dataclasses
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.data.sources import sqlite
from optformer.data.sources.inferred_space import dictionary, flattened, parsed_trials
from optformer.data.sources.logged_study import LoggedStudy, LoggedTrial, Report, time_from_seconds, to_pyvizier
from optformer.data.sources.records import MALFORMED, Quarantined, SourceError, SourceOptions, UnusableError, error_text

PARENT, RUN_NAME = "mlflow.parentRunId", "mlflow.runName"
STATES: Final = {
    "FINISHED": "completed",
    "FAILED": "infeasible",
    "KILLED": "stopped",
    "RUNNING": "active",
    "SCHEDULED": "requested",
}
_STATUS_NUMBERS: Final = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}
META = "meta.yaml"
TRASH = ".trash"


@dataclasses.dataclass
class _Run:
    """A run as stored; metrics are (name, step, milliseconds since 1970, value)."""

    identifier: str
    name: str
    status: str
    start: float | None
    end: float | None
    parent: str = ""
    parameters: dict[str, str] = dataclasses.field(default_factory=dict)
    metrics: list[tuple[str, int, float, float]] = dataclasses.field(default_factory=list)
    fault: str = ""


@dataclasses.dataclass
class _Experiment:
    """An experiment without its runs; `key` is its id or its folder."""

    name: str
    key: Any


def recognizes(tables: dict[str, set[str]]) -> bool:
    """Whether an SQLite file with these tables is MLflow's."""
    return {"experiments", "runs", "params", "metrics"} <= set(tables) and "run_uuid" in tables["runs"]


def recognizes_folder(path: Path) -> bool:
    """Whether a folder is a file store, or an experiment of one."""
    return path.is_dir() and bool(_experiment_folders(path))


def read(
    path: Path,
    source: str,
    study: str | None = None,
    options: SourceOptions = SourceOptions(),  # noqa: B008, immutable
) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """Every study of the store, or the one named, with one experiment in memory at a time.  Deleted runs are left out.

    Raises:
      SourceError: no MLflow store, truncated or corrupt, or the options name no objective or no goal.
    """
    if path.is_dir():
        experiments = [_Experiment(_meta(f / META).get("name", f.name), f) for f in _experiment_folders(path)]
        if not experiments:
            raise SourceError(f"{path}: no tracking store of MLflow: no experiment folder with a {META}")
        folders = [metrics for experiment in experiments for metrics in experiment.key.glob("*/metrics")]
        objectives = _objectives(path, options, (name for folder in folders for name, _ in _named_files(folder)))
        for experiment in experiments:
            yield from _studies(experiment, _folder_runs(experiment.key), path, source, study, objectives)
        return
    with sqlite.opened(path) as connection:
        tables = sqlite.columns(connection)
        if not recognizes(tables):
            raise SourceError(f"{path}: an SQLite file, but no MLflow store; its tables are {sorted(tables)}")
        stored = connection.execute("SELECT DISTINCT key FROM metrics")
        objectives = _objectives(path, options, (str(key) for (key,) in stored))
        rows = list(connection.execute("SELECT experiment_id, name FROM experiments ORDER BY experiment_id"))
        for key, name in rows:
            with sqlite.snapshot(connection):
                runs = _database_runs(connection, tables, key)
            yield from _studies(_Experiment(str(name), key), runs, path, source, study, objectives)


def _objectives(path: Path, options: SourceOptions, names: Iterable[str]) -> dict[str, str]:
    """The objectives that the user named; `names` are those of all metrics in the store, for the message."""
    reported: set[str] = set() if options.metrics else set(names)
    if not options.metrics and not reported:
        raise SourceError(f"{path}: no run reports a metric, so there is no objective")
    return options.objectives(path, reported=reported)


def count(path: Path) -> int:
    """Number of experiments; one with nested runs gives several studies."""
    if path.is_dir():
        return len(_experiment_folders(path))
    with sqlite.opened(path) as connection:
        return int(connection.execute("SELECT count(*) FROM experiments").fetchone()[0])


def _studies(
    experiment: _Experiment,
    runs: list[_Run],
    path: Path,
    source: str,
    wanted: str | None,
    objectives: Mapping[str, str],
) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    if not runs:
        return  # MLflow's own experiment "Default" is usually empty
    runs = sorted(runs, key=lambda run: (run.start if run.start is not None else math.inf, run.identifier))
    known = {run.identifier: run for run in runs}
    parents = {run.parent for run in runs if run.parent in known}
    children: dict[str, list[_Run]] = {"": []}
    for run in runs:
        if run.parent in known:
            children.setdefault(run.parent, []).append(run)
        elif run.identifier not in parents:
            children[""].append(run)
    names: dict[str, str] = {"": experiment.name}
    for parent in children:
        if parent:
            name = f"{experiment.name}/{known[parent].name or parent}"
            names[parent] = f"{name} ({parent})" if name in names.values() else name
    for parent, own in children.items():
        name = names[parent]
        if not own or wanted not in (None, name):
            continue
        own = [run for run in own if run.identifier not in parents]  # itself a study, one level below
        metadata = {"experiment": experiment.name} | ({"parent_run": parent} if parent else {})
        if parent:
            metadata |= {f"parent {key}": text for key, text in known[parent].parameters.items()}
        if own:
            trials = _trials(own)
            yield from to_pyvizier(
                LoggedStudy(
                    source, path.name, "mlflow", name, objectives, trials, facts={"title": name}, metadata=metadata
                )
            )


def _unfolded(parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters, with dictionaries (which MLflow stores as text) replaced by their entries: `model/layers`."""
    unfolded: dict[str, str] = {}
    for name, text in parameters.items():
        values = dictionary(text) if text.startswith("{") else None
        unfolded |= {name: text} if values is None else {f"{name}/{k}": str(v) for k, v in flattened(values).items()}
    return unfolded


def _trials(runs: list[_Run]) -> list[LoggedTrial]:
    parsed = parsed_trials([_unfolded(run.parameters) for run in runs])
    return [_trial(number, run, values) for number, (run, values) in enumerate(zip(runs, parsed, strict=True), 1)]


def _trial(number: int, run: _Run, parameters: dict[str, Any]) -> LoggedTrial:
    reason = "failed" if run.status == "FAILED" else "killed" if run.status == "KILLED" else ""
    state = STATES.get(run.status, "")
    fault = run.fault or ("" if state else f"unknown trial state: {run.status!r}")
    start = run.start or 0.0
    by_step: dict[int, tuple[dict[str, float], float]] = {}
    last: dict[str, tuple[int, float, float]] = {}
    negative: dict[str, str] = {}
    for name, step, time, value in run.metrics:
        if name not in last or (step, time) >= last[name][:2]:
            last[name] = step, time, value
        if step < 0:  # pyvizier has no negative steps
            negative[f"{name} at step {step}"] = repr(value)
            continue
        metrics, seconds = by_step.get(step, ({}, 0.0))
        metrics[name] = value
        by_step[step] = metrics, max(seconds, (time - start) / 1000 if start else 0.0)
    seconds = (run.end - run.start) / 1000 if run.end is not None and run.start is not None else 0.0
    return LoggedTrial(
        number,
        parameters,
        state,
        [Report(step, *by_step[step]) for step in sorted(by_step)],
        final={name: value for name, (_, _, value) in last.items()},
        seconds=seconds,
        created=_time(run.start),
        completed=_time(run.end),
        reason=reason,
        metadata={"run_id": run.identifier} | ({"run_name": run.name} if run.name else {}) | negative,
        fault=UnusableError(fault) if fault else None,
    )


def _time(milliseconds: float | None) -> Any:
    return None if milliseconds is None else time_from_seconds(milliseconds / 1000)


# --- The database -----------------------------------------------------------------------------------------------------


def _database_runs(connection: sqlite3.Connection, tables: dict[str, set[str]], experiment: Any) -> list[_Run]:
    name = "name" if "name" in tables["runs"] else "NULL"
    runs: dict[str, _Run] = {}
    query = (
        f"SELECT run_uuid, {name}, status, start_time, end_time FROM runs "
        "WHERE experiment_id = ? AND lifecycle_stage IS NOT 'deleted' ORDER BY rowid"
    )
    for key, run_name, status, start, end in connection.execute(query, (experiment,)):
        runs[key] = _Run(key, str(run_name or ""), str(status), _number(start), _number(end))

    def rows(table: str, selected: str) -> Iterator[tuple[_Run, Any]]:
        joined = (
            f"SELECT run_uuid, {selected} FROM {table} WHERE run_uuid IN "
            "(SELECT run_uuid FROM runs WHERE experiment_id = ?) ORDER BY rowid"
        )
        for key, *row in connection.execute(joined, (experiment,)):
            if key in runs:
                yield runs[key], row

    for run, (parameter, text) in sorted(rows("params", "key, value"), key=lambda row: str(row[1][0])):
        run.parameters[str(parameter)] = str(text)  # in order of names, as in the folder
    is_nan = "is_nan" if "is_nan" in tables["metrics"] else "0"
    for run, (metric, stored, time, step, nan) in rows("metrics", f"key, value, timestamp, step, {is_nan}"):
        value = math.nan if nan else _number(stored)
        whole = _number(step)
        if value is None or whole is None:
            run.fault = run.fault or f"metric is not a number: {metric!r} is {stored!r}"
        else:
            run.metrics.append((str(metric), int(whole), _number(time) or 0.0, value))
    if "tags" in tables:
        for run, (tag, text) in rows("tags", "key, value"):
            if tag == PARENT:
                run.parent = str(text)
            elif tag == RUN_NAME and not run.name:
                run.name = str(text)
    return list(runs.values())


# --- The folder -------------------------------------------------------------------------------------------------------


def _experiment_folders(path: Path) -> list[Path]:
    if "experiment_id" in _meta(path / META) and "run_id" not in _meta(path / META):
        return [path]
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name != TRASH)
    created = {folder: meta for folder in folders if "artifact_location" in (meta := _meta(folder / META))}
    return sorted(created, key=lambda folder: _number(created[folder].get("creation_time")) or 0.0)


def _folder_runs(folder: Path) -> list[_Run]:
    runs = []
    for meta in sorted(folder.glob(f"*/{META}")):
        facts = _meta(meta)
        if facts.get("lifecycle_stage") == "deleted" or "artifact_location" in facts:
            continue
        status = facts.get("status", "")
        run = _Run(
            facts.get("run_id") or facts.get("run_uuid") or meta.parent.name,
            facts.get("run_name") or facts.get("name") or _text(meta.parent / "tags" / RUN_NAME),
            _STATUS_NUMBERS.get(status, status),
            _number(facts.get("start_time")),
            _number(facts.get("end_time")),
            _text(meta.parent / "tags" / PARENT),
        )
        try:
            run.parameters = {name: _text(file) for name, file in _named_files(meta.parent / "params")}
            for name, file in _named_files(meta.parent / "metrics"):
                run.metrics += [_metric(name, line) for line in _text(file).splitlines() if line.strip()]
        except MALFORMED as error:
            run.fault = error_text(error)
        if not facts:
            run.fault = f"damaged record: {META} cannot be read"
        runs.append(run)
    return runs


def _named_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of a folder with their names; slashes in names are subfolders."""
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                yield file.relative_to(folder).as_posix(), file


def _metric(name: str, line: str) -> tuple[str, int, float, float]:
    """One line of a metric: time, value, and since MLflow 1.0 the step."""
    time, value, *step = line.split()
    number = _number(value)
    if number is None:
        raise ValueError(f"metric is not a number: {name!r} is {value!r}")
    return name, int(step[0]) if step else 0, float(time), number


def _meta(path: Path) -> dict[str, str]:
    """The scalars of a YAML file without nesting, which is what MLflow writes; nulls are left out."""
    facts = {}
    try:
        for line in path.read_text(errors="replace").splitlines():
            key, colon, text = line.partition(":")
            text = text.strip()
            if colon and key == key.strip() and text not in ("", "null", "~"):
                quote = text[0] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else ""
                facts[key] = text[1:-1].replace(quote * 2, quote) if quote == "'" else text.strip(quote)
    except OSError:
        return {}
    return facts


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\n")
    except OSError:
        return ""


def _number(stored: Any) -> float | None:
    try:
        return None if stored is None or isinstance(stored, bool | bytes) else float(stored)
    except (TypeError, ValueError):
        return None
