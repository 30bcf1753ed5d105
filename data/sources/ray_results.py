"""Result folders of Ray Tune: one folder per experiment, with one folder per trial.

    experiment_state-*.json    trials with their configuration, status and last result, and the metric of the run
    <trial>/params.json        the configuration
    <trial>/result.json        one report per line
    <trial>/error.txt          the traceback of a trial that failed

For a trial without a folder, or whose reports are lost, the experiment's state has its status and last result.
Pickles are never opened.  Ray does not store the search space, nor whether the metric is minimized.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.data.sources.inferred_space import flattened
from optformer.data.sources.logged_study import (
    LoggedStudy,
    LoggedTrial,
    Report,
    numbers_of,
    time_from_seconds,
    to_pyvizier,
)
from optformer.data.sources.records import GOALS, Quarantined, SourceError, SourceOptions, UnusableError

PARAMETERS, RESULTS, ERROR, STATE = "params.json", "result.json", "error.txt", "experiment_state-*.json"
SYSTEM: Final = (
    "timestamp",
    "training_iteration",
    "time_this_iter_s",
    "time_total_s",
    "time_since_restore",
    "iterations_since_restore",
    "timesteps_since_restore",
    "timesteps_total",
    "episodes_total",
    "warmup_time",
    "pid",
)
"""Fields that Tune adds to every report."""


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
      SourceError: no experiment in the folder, or neither the experiment's state nor the options name the objective
        and its goal.
    """
    experiments = _experiments(path)
    if not experiments:
        raise SourceError(f"{path}: no experiment of Ray Tune: no trial folder with a {PARAMETERS}")
    for folder in experiments:
        if study is None or study == folder.name:
            yield from _experiment(folder, source, options)


def count(path: Path) -> int:
    """Number of experiments in the folder."""
    return len(_experiments(path))


def _experiments(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    if _is_experiment(path):
        return [path]
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and _is_experiment(folder))


def _is_experiment(folder: Path) -> bool:
    return any(folder.glob(STATE)) or any(folder.glob(f"*/{PARAMETERS}"))


def _experiment(folder: Path, source: str, options: SourceOptions) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    runner, stored = _state(folder)
    trials: list[LoggedTrial] = []
    damaged: list[Quarantined] = []
    folders = {parameters.parent.name for parameters in folder.glob(f"*/{PARAMETERS}")}
    known = [name for name in stored if name in folders or isinstance(stored[name].get("config"), dict)]
    for name, number in _numbered([*sorted(folders), *sorted(set(known) - folders)]):
        trial, torn = _trial(folder / name if name in folders else None, number, stored.get(name, {}))
        trials.append(trial)
        damaged += [Quarantined(source, folder.name, None, None, reason) for reason in torn]
    metric, mode = runner.get("_metric"), GOALS.get(str(runner.get("_mode")), "")
    recorded = [metric] if isinstance(metric, str) and metric else []
    reported = {name for trial in trials for report in trial.reports for name in report.metrics}
    objectives = options.objectives(folder, recorded, [mode] if mode else [], reported)
    yield from damaged
    yield from to_pyvizier(LoggedStudy(source, folder.name, "ray", folder.name, objectives, trials))


def _state(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """From the latest valid state: facts about the run, and trials by the name of their folder."""
    for path in sorted(folder.glob(STATE), reverse=True):
        try:
            record = json.loads(path.read_text())
            runner = record.get("runner_data") or {}
            trials = {}
            for stored in record.get("trial_data") or record.get("checkpoints") or ():
                trial: dict[str, Any] = {}
                for text in stored if isinstance(stored, list) else [stored]:  # the trial, and its measurements
                    trial |= json.loads(text) if isinstance(text, str) else text
                name = trial.get("relative_logdir") or trial.get("logdir") or trial.get("trial_id")
                trials[Path(str(name)).name] = trial
            return runner, trials
        except (OSError, ValueError, AttributeError, TypeError, LookupError, RecursionError):
            continue  # incomplete because the run was killed; an earlier one may be valid
    return {}, {}


def _numbered(names: list[str]) -> list[tuple[str, int]]:
    """Trials with their numbers: Tune's, from the folder's name between id and tag, or the given order."""
    found = [re.search(r"_[0-9a-f]{5,8}(?:_\d{5,})?_(\d+)(?:_|$)", name) for name in names]
    numbers = [int(match[1]) for match in found if match]
    if len(set(numbers)) == len(names):
        return sorted(zip(names, numbers, strict=True), key=lambda named: named[1])
    return [(name, number) for number, name in enumerate(names, 1)]


def _trial(folder: Path | None, number: int, stored: dict[str, Any]) -> tuple[LoggedTrial, list[str]]:
    """The trial of a folder, or of the stored state if it has no folder; and a reason for each damaged report."""
    reports, torn, last = _reports(folder, number) if folder else ([], [], {})
    kept = stored.get("last_result")
    kept = kept if isinstance(kept, dict) else {}
    latest = _report(kept, len(reports) + 1)
    if latest and (not reports or latest.step > reports[-1].step):
        reports, last = [*reports, latest], _timed(kept)
    status = stored.get("status")
    timed = {"timestamp", "time_total_s"} <= set(last)
    begun = time_from_seconds(last["timestamp"] - last["time_total_s"]) if timed else None
    ended = time_from_seconds(last.get("timestamp"))
    seconds = reports[-1].seconds if reports else 0.0
    reason = _error(folder / ERROR) if folder else ""
    metadata = {"trial_id": str(last["trial_id"])} if "trial_id" in last else {}
    if reason:
        state = "infeasible"
    elif status in ("RUNNING", "PENDING", "PAUSED") and last.get("done") is not True:
        state = "active" if folder or reports or status != "PENDING" else "requested"
    elif status == "ERROR":
        state, reason = "infeasible", "failed"
    elif reports or (status == "TERMINATED" and not folder):
        state = "completed"
    else:
        state = "active" if folder else "requested"
    parameters: dict[str, Any] = {}
    fault = None
    try:
        config = json.loads((folder / PARAMETERS).read_text()) if folder else stored.get("config")
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
        parameters = flattened(config)
    except (OSError, ValueError, RecursionError) as error:
        fault = UnusableError(f"trial cannot be represented: {PARAMETERS} cannot be read ({error})")
    return LoggedTrial(
        number,
        parameters,
        state,
        reports,
        seconds=seconds,
        created=begun,
        completed=None if state in ("active", "requested") else ended,
        reason=reason,
        metadata=metadata,
        fault=fault,
    ), torn


def _report(record: dict[str, Any], position: int) -> Report | None:
    """The metrics of a result; None if it has none."""
    metrics = numbers_of(flattened({k: v for k, v in record.items() if k != "config"}), SYSTEM)
    step = record.get("training_iteration")
    step = step if isinstance(step, int) and step >= 0 else position
    return Report(step, metrics, float(_timed(record).get("time_total_s", 0.0))) if metrics else None


def _timed(record: dict[str, Any]) -> dict[str, Any]:
    """A result without invalid times."""
    return {k: v for k, v in record.items() if k not in ("timestamp", "time_total_s") or _is_number(v)}


def _reports(folder: Path, number: int) -> tuple[list[Report], list[str], dict[str, Any]]:
    reports: list[Report] = []
    torn = []
    last: dict[str, Any] = {}
    path = folder / RESULTS
    if not path.exists():
        return [], [], {}
    with path.open("rb") as file:
        for position, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("not a JSON object")
            except (ValueError, RecursionError) as error:
                torn.append(f"unreadable line: report {position} of trial {number}: {error}")
                continue
            last = _timed(record)
            if report := _report(record, position):
                reports.append(report)
    return reports, torn, last


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _error(path: Path) -> str:
    """The last line of the last traceback; empty if there is none."""
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f"failed: {lines[-1]}" if lines else "failed"
