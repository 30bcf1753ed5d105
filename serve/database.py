"""One server per database: two would hand out the same trial numbers."""

import fcntl
import os
from pathlib import Path
from typing import Final

_SQLITE: Final = "sqlite:///"


class DatabaseLock:
    """Holds a SQLite database for this process, by a lock on a file beside it.

    The lock ends with the process, however that ends.  Databases that are no file are not locked.
    """

    def __init__(self, database_url: str):
        """Raises OSError where another server has the database, or its folder is not there."""
        self._file: int | None = None
        path = sqlite_file(database_url)
        if path is None:
            return
        if not path.parent.is_dir():
            raise OSError(f"folder {path.parent} of the database does not exist")
        lock = path.with_name(path.name + ".lock")
        self._file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._file, 64).decode(errors="replace").strip()
            self.release()
            process = f" (process {owner})" if owner else ""
            raise OSError(f"database {path} has another server{process}: stop that, or give this one its own") from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Lets others have it.  A second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def sqlite_file(database_url: str) -> Path | None:
    """The file of a SQLite URL; None for other databases and for those in memory."""
    if not database_url.startswith(_SQLITE):
        return None
    name = database_url.removeprefix(_SQLITE).partition("?")[0]
    return None if name in ("", ":memory:") else Path(name).absolute()
