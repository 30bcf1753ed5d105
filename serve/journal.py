"""What was asked and told, on disk line by line, so that a program can be started again."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from optformer.files import lock, sync_folder

_FIRST: Final = b'{"study": {"parameters": {'
"""What every journal begins with: another file is not written into, nor shortened."""


class Journal:
    """JSON lines, each on disk before `append` returns; a line that a crash cut off is dropped.

    Attributes:
      records: that were there, in order.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, object]):
        """
        Args:
          fingerprint: what tells studies apart: parameters and metrics by name, as JSON values.

        Raises:
          ValueError: the file is no journal, or another study's.
          OSError: it cannot be written, or another process has it open.
        """
        self._path = path
        # Without a buffer, in which a line that could not be written would wait for the next one.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - kept open for the lock
        try:
            lock(self._file, f"{path}: another process has this journal open")
            self.records = self._read(fingerprint)
            sync_folder(path.parent)  # the name of a new one
        except BaseException:
            self._file.close()
            raise

    def _read(self, fingerprint: Mapping[str, object]) -> list[dict[str, Any]]:
        self._file.seek(0)
        lines, self._size = _lines(self._path, self._file.readall())
        kept = lines[0]["study"] if lines else {}
        if lines and kept != json.loads(json.dumps(fingerprint)):
            raise ValueError(f"{self._path}: is the journal of another study: {_difference(kept, fingerprint)}")
        self._file.truncate(self._size)
        if not lines:
            self.append({"study": fingerprint})
        return lines[1:]

    def append(self, *records: Mapping[str, object]) -> None:
        """Returns once the records are on disk.  Raises OSError, and then none of them is."""
        content = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        self._file.truncate(self._size)  # where a line that failed could not be taken back
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
        """Lets another process have it."""
        self._file.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All records of a journal, the study first; nothing is written, and nobody who writes there is kept from it.

    Raises:
      ValueError: the file is no journal.
      OSError: it cannot be read.
    """
    records, _ = _lines(path, path.read_bytes())
    if not records:
        raise ValueError(f"{path}: is an empty file, and no journal")
    return records


def _lines(path: Path, content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records of a journal, and how many bytes they have: a line that a crash cut off is none."""
    whole = content[: content.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: is no journal of this library: {error}") from error
    if not content.startswith(_FIRST[: len(content)]):
        raise ValueError(f"{path}: is no journal of this library")
    return lines, len(whole)


def _difference(kept: dict[str, Any], asked: Mapping[str, object]) -> str:
    """The first parameter or metric that differs."""
    for what in ("parameters", "metrics"):
        before, after = kept.get(what, {}), json.loads(json.dumps(asked[what]))
        for name in [*before, *after]:
            if before.get(name) != after.get(name):
                return (
                    f"{what[:-1]} {name!r} is {after.get(name, 'missing')} here and {before.get(name, 'missing')} there"
                )
    return "its order of parameters"
