"""Locations of stores, as users write them: paths, or the URLs that Optuna, MLflow and Vizier accept.

local_path("sqlite:///tuning.db")           # tuning.db
local_path("file:///home/ann/mlruns")       # /home/ann/mlruns
"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from optformer.data.sources.records import SourceError

_ADDRESS = re.compile(r"([a-z][a-z0-9]+)(?:\+[a-z0-9]+)?:/", re.I)
_SERVERS: Final = ("postgresql", "postgres", "mysql", "mariadb", "oracle", "mssql", "redis")
_COPY: Final = (
    'copy the study into a file: optuna.copy_study(from_study_name=..., from_storage="{scheme}://...", '
    'to_storage="sqlite:///copy.db"), then give copy.db'
)


def local_path(location: str | os.PathLike[str]) -> Path:
    """The file or folder of a location: `sqlite:///name` (with or without a driver), `file:///name`, or a path.

    Raises:
      SourceError: the URL of a server or of a database in memory; the message says how to export it to a file.
    """
    text = os.fspath(location)
    address = _ADDRESS.match(text)
    if not address or Path(text).exists():
        return Path(text)
    scheme, rest = address[1].lower(), text[address.end() - 1 :]
    # Messages do not quote the URL, because it may contain a password.
    if scheme == "sqlite":
        name = unquote(rest.removeprefix("///").partition("?")[0])
        if not rest.startswith("///") or name in ("", ":memory:"):
            raise SourceError("the URL names no file: give sqlite:///NAME, or sqlite:////NAME for an absolute path")
        return Path(name.removeprefix("file:"))
    if scheme == "file":
        return Path(unquote("/" + rest.removeprefix("//").lstrip("/")))
    if scheme in _SERVERS:
        raise SourceError(f"{scheme}://...: databases on servers cannot be read; {_COPY.format(scheme=scheme)}")
    raise SourceError(f"{scheme}://...: only files and folders can be read; copy it to this machine, and give its path")
