"""Result folders of Syne Tune: `metadata.json`, `results.csv.zip` and one folder per trial with its `config.json`.

`tuner.dill`, a pickle, is never opened.  The search space is in the metadata since Syne Tune 0.4; missing parts are
inferred.
"""

import csv
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.data.sources.inferred_space import Declared, parsed_trials
from optformer.data.sources.logged_study import LoggedStudy, LoggedTrial, Report, time_from_seconds, to_pyvizier
from optformer.data.sources.records import GOALS, Quarantined, SourceError, SourceOptions, UnusableError

METADATA, RESULTS = "metadata.json", "results.csv.zip"
STATES: Final = {
    "Completed": "completed",
    "InProgress": "active",
    "Paused": "active",
    "Stopping": "completed",
    "Stopped": "completed",
    "Failed": "infeasible",
}
"""A stopped trial keeps the value of its last report, as in Syne Tune's own tables."""
_CONFIG: Final = "config_"
_OWN: Final = ("trial_id", "st_")


def recognizes(path: Path) -> bool:
    """Whether a folder is an experiment or contains experiments."""
    return bool(_experiments(path))


def read(
    path: Path,
    source: str,
    study: str | None = None,
    options: SourceOptions = SourceOptions(),  # noqa: B008, immutable
) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """One study for each experiment, named as its folder.

    Raises:
      SourceError: no experiment in the folder, or no objective is recorded and none is given.
    """
    experiments = _experiments(path)
    if not experiments:
        raise SourceError(f"{path}: no experiment of Syne Tune: no {METADATA} with a {RESULTS} beside it")
    for folder in experiments:
        if study is None or study == folder.name:
            yield from _experiment(folder, source, options)


def count(path: Path) -> int:
    """Number of experiments in the folder."""
    return len(_experiments(path))


def _experiments(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    folders = [path, *sorted(path.iterdir())]
    found = [folder for folder in folders if (folder / METADATA).exists() and (folder / RESULTS).exists()]
    return found[:1] if found[:1] == [path] else found


def _experiment(folder: Path, source: str, options: SourceOptions) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    try:
        metadata = json.loads((folder / METADATA).read_text())
        if not isinstance(metadata, dict):
            raise ValueError("no JSON object")
        header, rows, torn = _rows(folder / RESULTS)
    except (OSError, ValueError, zlib.error, zipfile.BadZipFile, LookupError) as error:
        yield Quarantined(source, folder.name, None, None, f"damaged record: {error}")
        return
    if torn:
        yield Quarantined(source, folder.name, None, None, torn)
    names = metadata.get("metric_names")
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    goals = _goals(metadata.get("metric_mode"), len(names))
    reported = [name for name in header if not name.startswith((*_OWN, _CONFIG))]
    objectives = options.objectives(folder, names, goals, reported)
    created = metadata.get("st_tuner_creation_timestamp")
    declared, fixed = _space(metadata.get("config_space"))
    trials = _trials(rows, folder, declared, created)
    facts = {
        "title": folder.name,
        "description": str(metadata.get("entrypoint") or ""),
        "algorithm": str(metadata.get("scheduler_name") or ""),
    }
    kept = {f"fixed {name}": json.dumps(value) for name, value in fixed.items()}
    yield from to_pyvizier(
        LoggedStudy(source, folder.name, "syne_tune", folder.name, objectives, trials, declared, facts, kept)
    )


def _goals(mode: object, count: int) -> list[str]:
    modes = mode if isinstance(mode, list) else [mode] * count
    goals = [GOALS.get(str(one)) for one in modes]
    return [goal for goal in goals if goal] if len(goals) == count and all(goals) else []


def _rows(path: Path) -> tuple[list[str], list[dict[str, str]], str]:
    """The columns, the rows without their empty cells, and the error if the file is damaged."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0]).decode(errors="replace")
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    if "trial_id" not in header:
        raise ValueError(f"{path.name} has no column 'trial_id'")
    rows, torn = [], ""
    for cells in reader:
        if len(cells) == len(header):
            rows.append({name: cell for name, cell in zip(header, cells, strict=True) if cell})
        else:
            torn = f"unreadable line: line {reader.line_num} of {path.name} has {len(cells)} of {len(header)} cells"
    return header, rows, torn


def _space(stored: Any) -> tuple[dict[str, Declared], dict[str, Any]]:
    """Declared parameters and fixed values; other parameters are inferred."""
    try:
        space = json.loads(stored) if isinstance(stored, str) else stored
    except ValueError:
        return {}, {}
    declared, fixed = {}, {}
    for name, domain in space.items() if isinstance(space, dict) else ():
        if not isinstance(domain, dict):
            fixed[name] = domain
            continue
        limits = domain.get("domain_kwargs") or {}
        kind = domain.get("domain_cls")
        log = "Log" in str(domain.get("sampler_cls"))
        categories = limits.get("categories")
        if kind in ("Float", "Integer") and {"lower", "upper"} <= set(limits):
            declared[name] = Declared(
                "double" if kind == "Float" else "integer", (limits["lower"], limits["upper"]), log
            )
        elif isinstance(categories, list) and categories:
            numeric = all(isinstance(c, int | float) and not isinstance(c, bool) for c in categories)
            if not numeric:
                declared[name] = Declared("categorical", values=tuple(str(c) for c in categories))
    return declared, fixed


def _trials(
    rows: Sequence[dict[str, str]], folder: Path, declared: dict[str, Declared], created: Any
) -> list[LoggedTrial]:
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row.get("trial_id", ""), []).append(row)
    texts = [
        {name.removeprefix(_CONFIG): cell for name, cell in own[-1].items() if name.startswith(_CONFIG)}
        for own in groups.values()
    ]
    parsed = parsed_trials(texts)
    for values, raw in zip(parsed, texts, strict=True):
        for name, declaration in declared.items():
            if declaration.kind == "categorical" and name in raw:
                values[name] = raw[name]
    trials = [
        _trial(key, own, values, folder, created) for (key, own), values in zip(groups.items(), parsed, strict=True)
    ]
    trials += _silent(folder, set(groups), declared)
    return sorted(trials, key=lambda trial: trial.number)


def _trial(key: str, rows: list[dict[str, str]], values: dict[str, Any], folder: Path, created: Any) -> LoggedTrial:
    reports = []
    last: dict[str, float] = {}
    for position, row in enumerate(rows, 1):
        last = {name: number for name, cell in row.items() if (number := _number(cell)) is not None}
        metrics = {n: v for n, v in last.items() if not n.startswith((*_OWN, _CONFIG))}
        iteration = last.get("st_worker_iter", position - 1.0)
        step = int(iteration) + 1 if 0 <= iteration < 2**53 else position
        reports.append(Report(step, metrics, last.get("st_worker_time", 0.0)))
    failed = _failure(folder / key)
    state = "infeasible" if failed else _state(rows[-1], folder / key)
    fault = None if key.isdecimal() else UnusableError(f"trial cannot be represented: its id is {key!r}")
    seconds = last.get("st_tuner_time")
    ended = time_from_seconds(created + seconds) if isinstance(created, int | float) and seconds is not None else None
    return LoggedTrial(
        int(key) if key.isdecimal() else -1,
        values,
        state or "completed",
        reports,
        seconds=last.get("st_worker_time", 0.0),
        completed=ended if state != "active" else None,
        reason=failed,
        fault=fault if state else UnusableError(f"unknown trial state: {rows[-1].get('st_status')!r}"),
    )


def _state(row: dict[str, str], folder: Path) -> str | None:
    """The state of a trial: that of its last report, corrected by its folder, which is written when the trial ends."""
    state = STATES.get(row.get("st_status", "InProgress"))
    return "completed" if state == "active" and ((folder / "end").exists() or (folder / "stop").exists()) else state


def _silent(folder: Path, known: set[str], declared: dict[str, Declared]) -> list[LoggedTrial]:
    """Trials without reports, found by their folders: failed, stopped, or not yet started."""
    trials = []
    for path in folder.glob("*/config.json"):
        key = path.parent.name
        if key in known or not key.isdecimal():
            continue
        try:
            config = json.loads(path.read_text())
            fault = None if isinstance(config, dict) else UnusableError("trial cannot be represented: no JSON object")
        except (OSError, ValueError) as error:
            config, fault = {}, UnusableError(f"trial cannot be represented: config.json cannot be read ({error})")
        values = dict(config) if isinstance(config, dict) else {}
        for name, declaration in declared.items():
            if declaration.kind == "categorical" and name in values:
                values[name] = str(values[name])
        reason = _failure(path.parent)
        stopped = (path.parent / "stop").exists()
        state = "infeasible" if reason else "stopped" if stopped else "active"
        trials.append(LoggedTrial(int(key), values, state, reason=reason, fault=fault))
    return trials


def _failure(folder: Path) -> str:
    """The exception with which a trial ended, from its error output; empty if there is none."""
    try:
        lines = (folder / "std.err").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    if not any(line.startswith("Traceback (") for line in lines):
        return ""
    last = next(
        (line.strip() for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)), ""
    )
    return f"failed: {last}" if last else ""


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
