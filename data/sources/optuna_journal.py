"""Optuna's journal file (`JournalFileBackend`): one operation per line, replayed as by Optuna.

Studies and trials are numbered by counting the lines that create them, and the lines of all studies are mixed.  So the
whole journal is replayed before the first study is yielded.  A damaged line that may have created a study or trial
cannot be skipped, because later lines could not be assigned.
"""

import contextlib
import dataclasses
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.data.sources.optuna_mapping import FINISHED, OptunaStudy, OptunaTrial, constraint_attributes, to_records
from optformer.data.sources.optuna_rdb import algorithm_of
from optformer.data.sources.optuna_space import Distribution, choice_key, parse_distribution
from optformer.data.sources.records import MALFORMED, Quarantined, SourceError, UnusableError, error_text
from optformer.data.sources.study_json import StudyRecord, to_studies
from optformer.data.sources.study_lines import is_gzip

CREATE_STUDY, DELETE_STUDY, STUDY_USER_ATTRIBUTE, STUDY_SYSTEM_ATTRIBUTE = range(4)
CREATE_TRIAL, TRIAL_PARAM, TRIAL_STATE, INTERMEDIATE_VALUE, TRIAL_USER_ATTRIBUTE, TRIAL_SYSTEM_ATTRIBUTE = range(4, 10)
DISCARD_TRIALS: Final = 10
DIRECTIONS: Final = ("NOT_SET", "MINIMIZE", "MAXIMIZE")
STATES: Final = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")


def recognizes(record: dict[str, Any]) -> bool:
    """Whether a line of a JSON-lines file is an operation of such a journal."""
    return {"op_code", "worker_id"} <= set(record)


def read(path: Path, source: str, study: str | None = None) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """Every study of the journal, or the one named; first the lines that could not be read.

    Memory holds all studies that are yielded, since the journal mixes their lines.

    Raises:
      SourceError: not one line is an operation.
    """
    return to_studies(read_records(path, source, study))


def read_records(path: Path, source: str, study: str | None = None) -> Iterator[StudyRecord | Quarantined]:
    """As `read`, with the trials in the study format.

    Raises:
      SourceError: not one line is an operation.
    """
    journal = _replayed(path, source)
    yield from journal.damage
    while journal.studies:
        stored = journal.studies.pop(next(iter(journal.studies)))
        if study is None or study == stored.name:
            yield from to_records(stored.frozen(source, path.name))


def count(path: Path) -> int:
    """Number of studies in the journal, which takes a replay.

    Raises:
      SourceError: not one line is an operation.
    """
    return len(_replayed(path, str(path)).studies)


def _replayed(path: Path, source: str) -> "_Journal":
    journal = _Journal()
    good = number = 0
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                operation, damage = _operation(line)
                if operation is not None:
                    good += 1
                    try:
                        journal.apply(operation)
                    except MALFORMED as error:
                        damage = f"unreadable line: the operation cannot be applied, {error_text(error)}"
                if damage:
                    journal.damage.append(Quarantined(source, f"line {number}", None, None, damage))
                    if operation is None and line.endswith(b"\n") and not journal.charge(line):
                        reason = (
                            "journal not read to its end: after the damaged line, lines cannot be assigned to trials"
                        )
                        rest = sum(1 for _ in file)
                        if rest:
                            what = f"{reason} ({rest} lines)"
                            journal.damage.append(Quarantined(source, f"line {number + 1}", None, None, what))
                        break
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"file ends early: the compressed data stop after line {number} ({error})"
        journal.damage.append(Quarantined(source, f"line {number + 1}", None, None, reason))
    if not good:
        raise SourceError(f"{path}: not one of its {number} lines is an operation of an Optuna journal")
    return journal


def _operation(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The operation of a line, and what is wrong with the line, if anything."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or not isinstance(record.get("op_code"), int):
            return None, "unreadable line: no operation of an Optuna journal"
        return record, ""
    except (ValueError, RecursionError) as error:
        # A writer was killed while it wrote a line, which has no effect; the next writer continued in the same line.
        start = line.rfind(b'{"op_code"')
        if start > 0:
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line[start:])
                return record, f"unreadable line: {start} bytes of an operation that was never finished"
        torn = "" if line.endswith(b"\n") else "incomplete, the file ends within it; "
        return None, f"unreadable line: {torn}{error}"


@dataclasses.dataclass
class _Trial:
    number: int
    state: str = "RUNNING"
    start: str | None = None
    complete: str | None = None
    params: dict[str, tuple[float | None, Distribution]] = dataclasses.field(default_factory=dict)
    values: list[float | None] = dataclasses.field(default_factory=list)
    intermediate: dict[int, float | None] = dataclasses.field(default_factory=dict)
    user: dict[str, Any] = dataclasses.field(default_factory=dict)
    system: dict[str, Any] = dataclasses.field(default_factory=dict)
    fault: UnusableError | None = None

    def frozen(self) -> OptunaTrial:
        fixed, fail_reason = self.system.get("fixed_params"), self.system.get("fail_reason")
        return OptunaTrial(
            number=self.number,
            state=self.state,
            params=[(name, value, distribution) for name, (value, distribution) in self.params.items()],
            values=self.values,
            intermediate=[(step, [value]) for step, value in sorted(self.intermediate.items())],
            start=self.start,
            complete=self.complete,
            user_attributes=_texts(self.user),
            fixed=fixed if isinstance(fixed, dict) else None,
            fail_reason=fail_reason if isinstance(fail_reason, str) else None,
            constraints=constraint_attributes(self.system),
            fault=self.fault,
        )


@dataclasses.dataclass
class _Study:
    name: str
    directions: list[str]
    trials: list[_Trial] = dataclasses.field(default_factory=list)
    user: dict[str, Any] = dataclasses.field(default_factory=dict)
    system: dict[str, Any] = dataclasses.field(default_factory=dict)
    first: dict[str, Distribution] = dataclasses.field(default_factory=dict)
    parsed: dict[str, Distribution] = dataclasses.field(default_factory=dict)

    def distribution(self, text: str) -> Distribution:
        if text not in self.parsed:
            self.parsed[text] = parse_distribution(text)
        return self.parsed[text]

    def frozen(self, source: str, file_name: str) -> OptunaStudy:
        names = self.system.get("study:metric_names")
        return OptunaStudy(
            source=source,
            file_name=file_name,
            name=self.name,
            directions=self.directions,
            trials=[trial.frozen() for trial in self.trials],
            metric_names=names if isinstance(names, list) else None,
            algorithm=algorithm_of({key for trial in self.trials for key in trial.system}),
            user_attributes=_texts(self.user),
        )


class _Journal:
    """The state after the operations so far.

    Attributes:
      studies: number in the journal -> study, without deleted ones.
      damage: lines that could not be used.
    """

    def __init__(self) -> None:
        self.studies: dict[int, _Study] = {}
        self.damage: list[Quarantined] = []
        self._created_studies = 0
        self._trials: list[tuple[_Study, _Trial]] = []  # by their number in the journal, over all studies

    def apply(self, operation: dict[str, Any]) -> None:
        """Raises one of `MALFORMED` if a field is missing or of the wrong type."""
        code = operation["op_code"]
        if code == CREATE_STUDY:
            name = str(operation["study_name"])
            if all(
                study.name != name for study in self.studies.values()
            ):  # two workers may have created the same study
                directions = [DIRECTIONS[direction] for direction in operation["directions"]]
                self.studies[self._created_studies] = _Study(name, directions)
                self._created_studies += 1
        elif code == DELETE_STUDY:
            self.studies.pop(operation["study_id"], None)
        elif code in (STUDY_USER_ATTRIBUTE, STUDY_SYSTEM_ATTRIBUTE):
            study = self.studies.get(operation["study_id"])
            if study is not None and code == STUDY_USER_ATTRIBUTE:
                study.user.update(operation["user_attr"])
            elif study is not None:
                study.system.update(operation["system_attr"])
        elif code == CREATE_TRIAL:
            study = self.studies.get(operation["study_id"])
            if study is not None:
                trial = _Trial(number=len(study.trials))
                study.trials.append(trial)
                self._trials.append((study, trial))
                self._guarded(_create, study, trial, operation)
        elif CREATE_TRIAL < code < DISCARD_TRIALS:
            study, trial = self._trials[operation["trial_id"]]
            if trial.state not in FINISHED:
                self._guarded(_update, study, trial, operation)
        elif code != DISCARD_TRIALS:
            raise ValueError(f"unknown op_code {code}")

    def _guarded(self, change: Any, study: _Study, trial: _Trial, operation: dict[str, Any]) -> None:
        """Applies a change to a trial; an invalid field makes only that trial unusable."""
        try:
            change(study, trial, operation)
        except UnusableError as error:
            trial.fault = trial.fault or UnusableError(error.reason, operation.get("param_name") or error.parameter)
        except MALFORMED as error:
            trial.fault = trial.fault or UnusableError(f"damaged record: {error_text(error)}")

    def charge(self, line: bytes) -> bool:
        """Marks the trial that a damaged line changed; False if the line may have created a study or a trial."""
        code, trial = re.match(rb'\{"op_code":\s*(\d+),', line), re.search(rb'"trial_id":\s*(\d+),', line)
        if not code or int(code[1]) in (CREATE_STUDY, DELETE_STUDY, CREATE_TRIAL):
            return False
        if trial and int(trial[1]) < len(self._trials):
            self._trials[int(trial[1])][1].fault = UnusableError("damaged record: a line of this trial is unreadable")
        return True


def _create(study: _Study, trial: _Trial, operation: dict[str, Any]) -> None:
    trial.state = STATES[operation.get("state", 0)]
    trial.start, trial.complete = operation.get("datetime_start"), operation.get("datetime_complete")
    trial.user, trial.system = dict(operation.get("user_attrs", {})), dict(operation.get("system_attrs", {}))
    reported = operation.get("intermediate_values") or {}
    trial.intermediate = {int(step): _number(value) for step, value in reported.items()}
    values = operation.get("values")
    if values is None and operation.get("value") is not None:
        values = [operation["value"]]
    trial.values = [_number(value) for value in values or ()]
    for name, internal in (operation.get("params") or {}).items():
        _suggest(study, trial, name, internal, operation["distributions"][name])


def _update(study: _Study, trial: _Trial, operation: dict[str, Any]) -> None:
    code = operation["op_code"]
    if code == TRIAL_PARAM:
        name, internal = operation["param_name"], operation["param_value_internal"]
        _suggest(study, trial, name, internal, operation["distribution"])
    elif code == INTERMEDIATE_VALUE:
        trial.intermediate[int(operation["step"])] = _number(operation["intermediate_value"])
    elif code == TRIAL_USER_ATTRIBUTE:
        trial.user.update(operation["user_attr"])
    elif code == TRIAL_SYSTEM_ATTRIBUTE:
        trial.system.update(operation["system_attr"])
    else:
        state = STATES[operation["state"]]
        if state == trial.state == "RUNNING":
            return  # another worker had already taken the trial
        if state == "RUNNING":
            trial.start = operation.get("datetime_start")
        elif state in FINISHED:
            trial.complete = operation.get("datetime_complete")
        trial.state = state
        if operation.get("values") is not None:
            trial.values = [_number(value) for value in operation["values"]]


def _suggest(study: _Study, trial: _Trial, name: str, internal: float | None, text: str) -> None:
    try:
        distribution = study.distribution(text)
    except UnusableError as error:
        raise UnusableError(error.reason, name) from error
    # Optuna writes a suggestion to the journal before it checks that its kind agrees with earlier ones.
    if _kind(study.first.setdefault(name, distribution)) == _kind(distribution):
        trial.params[name] = (internal, distribution)


def _kind(distribution: Distribution) -> tuple[Any, ...]:
    return distribution.kind, distribution.log, *map(choice_key, distribution.choices)


def _number(value: Any) -> float | None:
    if value is None or math.isnan(number := float(value)):
        return None
    return number


def _texts(attributes: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, json.dumps(value)) for key, value in attributes.items()]
