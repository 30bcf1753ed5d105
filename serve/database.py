"""Locks a database for one server, because two servers would assign the same trial numbers."""

from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import sqlalchemy as sql

from optformer.files import only_process


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
    """The file of a SQLite URL, without symbolic links; None for other databases and for those in memory.

    Raises sqlalchemy.exc.ArgumentError if it is not a URL.
    """
    url = sql.make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return None
    name = url.database or ""
    if "uri" in url.query:  # file:NAME
        name = unquote(urlsplit(name).path)
    return None if name in ("", ":memory:") else Path(name).resolve()
