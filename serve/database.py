"""Locks a database for one server, because two servers would assign the same trial numbers."""

from pathlib import Path
from typing import IO, Final

from optformer.files import only_process

_SQLITE: Final = "sqlite:///"


class DatabaseLock:
    """Locks a SQLite database for this process, by a lock on a file beside it.

    The lock ends with the process, even if it is killed.  Databases that are not files are not locked.
    """

    def __init__(self, database_url: str):
        """Raises OSError if another server uses the database, or its folder does not exist."""
        self._file: IO[str] | None = None
        path = sqlite_file(database_url)
        if path is None:
            return
        if not path.parent.is_dir():
            raise OSError(f"folder {path.parent} of the database does not exist")
        try:
            self._file = only_process(path.with_name(path.name + ".lock"), f"database {path} is used by another server")
        except BlockingIOError as error:
            raise OSError(f"{error}: stop that server, or give this one another --database-url") from None

    def release(self) -> None:
        """Releases the lock.  A second call does nothing."""
        if self._file is not None:
            self._file.close()


def sqlite_file(database_url: str) -> Path | None:
    """The file of a SQLite URL; None for other databases and for those in memory."""
    if not database_url.startswith(_SQLITE):
        return None
    name = database_url.removeprefix(_SQLITE).partition("?")[0]
    return None if name in ("", ":memory:") else Path(name).absolute()
