"""Journal of `AskTell`: a JSON-lines file with all trials and results, from which a restarted program resumes."""

import contextlib
import json
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.files import lock, sync_folder
from optformer.serialization.space import StudySchema

_FIRST: Final = b'{"study": {"parameters": {'
"""First field of every journal; other files are never modified."""


def fingerprint(schema: StudySchema) -> dict[str, object]:
    """Parameters with their values and metrics with their goals, which must be the same as those in the journal."""
    nodes: dict[str, object] = {
        slot.path: [str(slot.scale), slot.values[0], slot.values[-1], slot.levels] for slot in schema.slots
    }
    nodes |= {fixed.path: [fixed.value] for fixed in schema.fixed}
    goals: dict[str, object] = {metric.name: metric.goal.name for metric in schema.metrics}
    goals |= {each.name: [each.goal.name, each.safety_threshold] for each in schema.safety_metrics}
    return {"parameters": nodes, "metrics": goals}


def trial_number(record: Mapping[str, Any]) -> int:
    """The trial that a record is about.

    Raises:
      LookupError: a record of another kind.
    """
    for kind in "ask", "report":
        if kind in record:
            return int(record[kind])
    return int(record["tell"])


def add_record(record: Mapping[str, Any], trial: vz.Trial) -> None:
    """Adds the report or result of a record to its trial.

        {"report": 1, "step": 3, "values": {"objective": 0.4}}
        {"tell": 1, "values": {"objective": 0.3}}     null: the trial failed
        {"tell": 1, "stopped": true}

    Raises:
      LookupError: a record of another kind.
    """
    if "report" in record:
        step = int(record["step"])
        earlier = [each for each in trial.measurements if each.steps < step]
        # A new list: another thread may be reading the old one.
        trial.measurements = [*earlier, vz.Measurement(metrics=record["values"], steps=step)]
    elif record.get("stopped"):
        trial.stopping_reason = "stopped"
        trial.complete(vz.Measurement())
    elif record["values"] is None:
        trial.complete(vz.Measurement(), infeasibility_reason="the trial failed")
    else:
        trial.complete(vz.Measurement(metrics=record["values"]))


class Journal:
    """JSON lines, each on disk before `append` returns.  A last line that a crash truncated is dropped.

    Attributes:
      records: the records that the file had when it was opened, in order.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, object]):
        """
        Args:
          path: the file, which is created if it does not exist.
          fingerprint: from `fingerprint`, to recognize the journal of another study.

        Raises:
          ValueError: the file is not a journal, or the journal of another study.
          OSError: the file cannot be written, or another process has it open.
        """
        self._path = path
        # Without a buffer: a line that could not be written would stay in it and be written with the next one.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - kept open for the lock
        weakref.finalize(self, self._file.close)  # if the program ends without `close`
        try:
            lock(self._file, f"{path}: another process has this journal open")
            self.records = self._read(fingerprint)
            sync_folder(path.parent)  # makes the name of a new file durable
        except BaseException:
            self._file.close()
            raise

    def _read(self, fingerprint: Mapping[str, object]) -> list[dict[str, Any]]:
        self._file.seek(0)
        lines, self._size = _lines(self._path, self._file.readall())
        kept = lines[0]["study"] if lines else {}
        if lines and kept != json.loads(json.dumps(fingerprint)):
            raise ValueError(
                f"{self._path}: is the journal of another study: {_difference(kept, fingerprint)}; use another file"
            )
        self._file.truncate(self._size)
        if not lines:
            self.append({"study": fingerprint})
        return lines[1:]

    def append(self, *records: Mapping[str, object]) -> None:
        """Returns once the records are on disk.  If it raises OSError, none of them is."""
        content = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        self._file.truncate(self._size)  # if an earlier failed line could not be removed
        try:
            written = 0
            while written < len(content):
                written += self._file.write(content[written:])
            os.fsync(self._file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size += len(content)

    def close(self) -> None:
        """Releases the journal for other processes."""
        self._file.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All records of a journal, the study first.  Only reads: another process may have the journal open.

    Raises:
      ValueError: the file is not a journal.
      OSError: it cannot be read.
    """
    records, _ = _lines(path, path.read_bytes())
    if not records:
        raise ValueError(f"{path}: is an empty file, not a journal")
    return records


def _lines(path: Path, content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records of a journal, and their size in bytes, without a last line that a crash truncated."""
    if not content.startswith(_FIRST[: len(content)]):
        raise ValueError(f"{path}: is not a journal of this library")
    whole, lines = content[: content.rfind(b"\n") + 1], []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: is damaged, not valid JSON: {error}") from error
    return lines, len(whole)


def _difference(kept: dict[str, Any], asked: Mapping[str, object]) -> str:
    """The first parameter or metric that differs."""
    for what in ("parameters", "metrics"):
        before, after = kept.get(what, {}), json.loads(json.dumps(asked[what]))
        for name in [*before, *after]:
            if before.get(name) != after.get(name):
                return (
                    f"{what[:-1]} {name!r} is {after.get(name, 'missing')} now and {before.get(name, 'missing')} in it"
                )
    return "the order of its parameters differs"
