"""The project's own study store: JSON lines, one study per line in the format of `study_json`.

Files with a name that ends in `.gz` are compressed.  Files are read line by line, so a corpus may be larger than
memory.

The first study of a file is marked, and the last one has the number of studies, so a file that was truncated between
two lines is noticed.  In concatenated files, each part is checked.
"""

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from vizier import pyvizier as vz

from optformer.data.sources.records import (
    MALFORMED,
    Quarantined,
    SourceError,
    error_text,
    quarantined_study,
    study_name,
    usable_trials,
)
from optformer.data.sources.study_json import FORMAT, problem_from_json, study_to_json, trial_from_json
from optformer.files import new_file

CUT_OFF: Final = "file ends early"
"""Category of the record for a truncated file."""

_COUNTED: Final = "counted"
_STUDIES: Final = "studies"
"""Fields that mark the first study of a file and the last one."""


class StudyWriter:
    """Writes studies to a file that appears only when it is complete.

    Records of another format are written unchanged.

    with StudyWriter(path) as writer:
        writer.write(study)
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.count = 0
        self._last, self._counts = b"", False

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | gzip.GzipFile = self._stack.enter_context(new_file(self.path))
        if self.path.suffix == ".gz":
            # No name and no time in the gzip header, so that equal studies give equal files.
            zipped = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, compresslevel=6, mtime=0)
            self._file = self._stack.enter_context(zipped)
        return self

    def write(self, study: vz.ProblemAndTrials) -> None:
        self.write_record(study_to_json(study))

    def write_record(self, record: Mapping[str, object]) -> None:
        self._counts = record.get("format") == FORMAT
        marked = {**record, _COUNTED: True} if self._counts and not self.count else record
        line = json.dumps(marked, separators=(",", ":"), allow_nan=False).encode()
        self._write_last()
        self._last = line
        self.count += 1

    def _write_last(self) -> None:
        """Writes the previous record, which is delayed until it is known whether it is the last one."""
        if self._last:
            self._file.write(self._last + b"\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self._counts:
                self._last = self._last[:-1] + f',"{_STUDIES}":{self.count}}}'.encode()
            self._write_last()


def write_studies(path: str | os.PathLike[str], studies: Iterable[vz.ProblemAndTrials]) -> int:
    """Writes the studies, atomically, and returns how many there were."""
    with StudyWriter(path) as writer:
        for study in studies:
            writer.write(study)
    return writer.count


def json_lines(path: Path, source: str) -> Iterator[tuple[int, dict[str, Any]] | Quarantined]:
    """The objects of a JSON-lines file with their line numbers; other lines are quarantined.

    Raises:
      SourceError: not one line could be read.
    """
    good = number = 0
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError("not a JSON object")
                except (ValueError, RecursionError) as error:
                    yield Quarantined(source, f"line {number}", None, None, f"unreadable line: {error}")
                    continue
                good += 1
                yield number, record
    except (EOFError, OSError, zlib.error) as error:
        if not isinstance(error, EOFError | gzip.BadGzipFile | zlib.error):
            raise
        if good:
            reason = f"{CUT_OFF}: the compressed data stop after line {number} ({error})"
            yield Quarantined(source, f"line {number + 1}", None, None, reason)
    if not good:
        raise SourceError(f"{path}: not one of its {number} lines is a JSON object; is this a study store?")


def count_lines(path: Path) -> int:
    """Number of non-blank lines; lines after damage in compressed data do not count."""
    count = 0
    with (
        contextlib.suppress(EOFError, gzip.BadGzipFile, zlib.error),
        gzip.open(path) if is_gzip(path) else path.open("rb") as file,
    ):
        for line in file:
            count += bool(line.strip())
    return count


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def read(path: Path, source: str, study: str | None = None) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """Every study of the file, or the one with this name; an unusable trial is quarantined alone.

    Raises:
      SourceError: not one line could be read.
    """
    count = _Count()
    for line in json_lines(path, source):
        if isinstance(line, Quarantined):
            count.reported |= line.category == CUT_OFF
            yield line
            continue
        number, record = line
        name = f"line {number}"
        if reason := count.add(record):
            yield Quarantined(source, name, None, None, reason)
        try:
            problem = problem_from_json(record)
            name = study_name(problem) or name
            records = list(record["trials"])
        except MALFORMED as error:
            reason = f"study cannot be represented: {error_text(error)}"
            yield from quarantined_study(source, name, trial_numbers(record), reason)
            continue
        if study is not None and study != name:
            continue
        if not records:
            yield vz.ProblemAndTrials(problem=problem, trials=[])
            continue
        numbered = ((trial_number(stored, position), stored) for position, stored in enumerate(records))
        trials = yield from usable_trials(source, name, numbered, trial_from_json)
        if trials:
            yield vz.ProblemAndTrials(problem=problem, trials=trials)
    if reason := count.end():
        yield Quarantined(source, "the end", None, None, reason)


class _Count:
    """Checks that a file has all studies with which it was written.

    Attributes:
      reported: whether a truncation has been reported.
    """

    def __init__(self) -> None:
        self.reported = False
        self._open = False
        self._seen = 0

    def add(self, record: Mapping[str, object]) -> str | None:
        """The error of the part of the file that ends with this study or ended before it; None without one."""
        reason = self.end() if record.get(_COUNTED) is True else None
        self._open |= record.get(_COUNTED) is True
        self._seen += 1
        written = record.get(_STUDIES)
        if isinstance(written, int):
            if written != self._seen:
                reason = f"studies are missing: {written} were written up to here, but only {self._seen} can be read"
            self._open, self._seen = False, 0
        return reason

    def end(self) -> str | None:
        """The error at the end of a file, or of a part of it; None if there is none."""
        missing = self._open and not self.reported
        self._open, self._seen = False, 0
        return f"{CUT_OFF}: its last study lacks the number of studies" if missing else None


def trial_number(record: object, position: int, key: str = "id") -> int:
    """The number of a trial that could not be parsed: its own if it has one, else its position."""
    number = record.get(key) if isinstance(record, dict) else None
    return number if isinstance(number, int) else position


def trial_numbers(record: dict[str, Any], key: str = "id") -> list[int]:
    """The numbers of the trials of a study that could not be parsed."""
    trials = record.get("trials")
    return [trial_number(t, position, key) for position, t in enumerate(trials)] if isinstance(trials, list) else []
