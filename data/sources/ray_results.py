"""Result folders of Ray Tune: one folder an experiment, in it one folder a trial.

    experiment_state-*.json    trials with their status, and the metric the run was given
    <trial>/params.json        the configuration
    <trial>/result.json        one report a line
    <trial>/error.txt          the traceback of a trial that failed

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
"""What Tune adds to every report."""


def recognizes(path: Path) -> bool:
    """Whether a folder is an experiment, or holds some."""
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
    """How many experiments the folder holds."""
    return len(_experiments(path))


def _experiments(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    if any(path.glob(STATE)) or any(path.glob(f"*/{PARAMETERS}")):
        return [path]
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and any(folder.glob(f"*/{PARAMETERS}")))


def _experiment(folder: Path, source: str, options: SourceOptions) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    runner, stored = _state(folder)
    trials: list[LoggedTrial] = []
    damaged: list[Quarantined] = []
    seen = set()
    folders = sorted(parameters.parent for parameters in folder.glob(f"*/{PARAMETERS}"))
    for number, trial_folder in _numbered(folders):
        state = stored.get(trial_folder.name, {})
        seen.add(trial_folder.name)
        trial, torn = _trial(trial_folder, number, state.get("status"))
        trials.append(trial)
        damaged += [Quarantined(source, folder.name, None, None, reason) for reason in torn]
    # Trials that were drawn but never began have no folder; the state has their configuration.
    begun = max((trial.number for trial in trials), default=0)
    for position, (name, state) in enumerate(sorted(stored.items()), 1):
        if name not in seen and isinstance(state.get("config"), dict):
            parameters = flattened(state["config"])
            failed = state.get("status") == "ERROR"
            reason = "failed" if failed else ""
            waiting = "infeasible" if failed else "requested"
            trials.append(LoggedTrial(begun + position, parameters, waiting, reason=reason))
    metric, mode = runner.get("_metric"), GOALS.get(str(runner.get("_mode")), "")
    recorded = [metric] if isinstance(metric, str) and metric else []
    reported = {name for trial in trials for report in trial.reports for name in report.metrics}
    objectives = options.objectives(folder, recorded, [mode] if mode else [], reported)
    yield from damaged
    yield from to_pyvizier(LoggedStudy(source, folder.name, "ray", folder.name, objectives, trials))


def _state(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What the latest state that can be parsed says of the run, and of the trials by the name of their folder."""
    for path in sorted(folder.glob(STATE), reverse=True):
        try:
            record = json.loads(path.read_text())
            runner = record.get("runner_data") or {}
            trials = {}
            for stored in record.get("trial_data") or record.get("checkpoints") or ():
                text = stored[0] if isinstance(stored, list) else stored
                trial = json.loads(text) if isinstance(text, str) else text
                name = trial.get("relative_logdir") or trial.get("logdir") or trial.get("trial_id")
                trials[Path(str(name)).name] = trial
            return runner, trials
        except (OSError, ValueError, AttributeError, TypeError, LookupError, RecursionError):
            continue  # half-written by a run that was killed; an earlier one may be whole
    return {}, {}


def _numbered(folders: list[Path]) -> list[tuple[int, Path]]:
    """Trials with Tune's number, which is in the folder's name between the id and the tag, or in order of names."""
    found = [re.search(r"_[0-9a-f]{5,8}(?:_\d{5,})?_(\d+)(?:_|$)", folder.name) for folder in folders]
    numbers = [int(match[1]) for match in found if match]
    if len(set(numbers)) == len(folders):
        return sorted(zip(numbers, folders, strict=True))
    return list(enumerate(folders, 1))


def _trial(folder: Path, number: int, status: Any) -> tuple[LoggedTrial, list[str]]:
    """The trial, and for every report that is torn a reason."""
    reports, torn, last = _reports(folder, number)
    begun = time_from_seconds(last.get("timestamp", 0) - last.get("time_total_s", 0)) if last else None
    ended = time_from_seconds(last.get("timestamp")) if last else None
    seconds = reports[-1].seconds if reports else 0.0
    reason = _error(folder / ERROR)
    metadata = {"trial_id": str(last["trial_id"])} if last and "trial_id" in last else {}
    if reason:
        state = "infeasible"
    elif status in ("RUNNING", "PENDING", "PAUSED") and not (last and last.get("done") is True):
        state = "active"
    elif status == "ERROR":
        state, reason = "infeasible", "failed"
    else:
        state = "completed" if reports else "active"
    parameters: dict[str, Any] = {}
    fault = None
    try:
        config = json.loads((folder / PARAMETERS).read_text())
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
        completed=None if state == "active" else ended,
        reason=reason,
        metadata=metadata,
        fault=fault,
    ), torn


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
            last = {k: v for k, v in record.items() if k not in ("timestamp", "time_total_s") or _is_number(v)}
            metrics = numbers_of(flattened({k: v for k, v in record.items() if k != "config"}), SYSTEM)
            step = record.get("training_iteration")
            step = step if isinstance(step, int) and step >= 0 else position
            if metrics:
                seconds = last.get("time_total_s", 0.0)
                reports.append(Report(step, metrics, float(seconds)))
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
