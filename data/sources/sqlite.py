"""Opens another program's SQLite file without modifying it or locking it for long."""

import contextlib
import sqlite3
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from optformer.data.sources.records import SourceError

HEADER: Final = b"SQLite format 3\x00"
LOCK_SECONDS = 30.0
"""Seconds to wait for a writer that holds an exclusive lock."""


def is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection.  SQLite's errors inside the block become `SourceError`s that name the file.

    Raises:
      SourceError: the file is truncated, corrupt, or cannot be opened for reading.
    """
    _check_length(path)
    connection = None
    try:
        connection = _connect(path)
        # Names and attributes are user text; a study with an invalid byte is still usable.
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        yield connection
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: SQLite quotes damaged text in its message
        raise SourceError(f"{path}: SQLite cannot read it ({error}); the file may be truncated or corrupt") from error
    finally:
        if connection is not None:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    # Mode `ro` never writes, but a write-ahead log needs a shared-memory file next to the database, which cannot be
    # created in a folder without write permission.  `immutable` then reads only the file itself, which is correct only
    # if no log is pending.
    address = "file:" + urllib.parse.quote(str(path.absolute()))
    connection = None
    try:
        connection = sqlite3.connect(address + "?mode=ro", uri=True, timeout=LOCK_SECONDS, isolation_level=None)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection
    except sqlite3.OperationalError as error:
        if connection is not None:
            connection.close()
        pending = [Path(f"{path}{suffix}") for suffix in ("-wal", "-journal")]
        if "locked" in str(error):
            raise SourceError(
                f"{path}: locked by another process for {LOCK_SECONDS:g} s; try again when it is idle"
            ) from error
        if any(log.exists() and log.stat().st_size for log in pending):
            raise SourceError(
                f"{path}: holds an unfinished transaction ({error}); copy the database together with its -wal or "
                "-journal file to a folder you can write to, and import the copy"
            ) from error
        return sqlite3.connect(address + "?immutable=1", uri=True, isolation_level=None)


def _check_length(path: Path) -> None:
    """Refuses a file shorter than its header says; SQLite would notice only when it reads the missing pages."""
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100:
        raise SourceError(f"{path}: truncated, it ends inside the SQLite header")
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    pages = int.from_bytes(header[28:32], "big")
    # The page count is valid only where "version-valid-for" equals the change counter (file format, section 1.3.7).
    if header[24:28] == header[92:96] and path.stat().st_size < pages * page_size:
        raise SourceError(
            f"{path}: truncated, {path.stat().st_size:,} of {pages * page_size:,} bytes exist; copy it again"
        )


def columns(connection: sqlite3.Connection) -> dict[str, set[str]]:
    """Table name -> column names."""
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        table: {row[1] for row in connection.execute('PRAGMA table_info("' + table.replace('"', '""') + '")')}
        for table in tables
    }


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One consistent state for the queries in the block.  Keep it short, since it may delay a program that writes."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
