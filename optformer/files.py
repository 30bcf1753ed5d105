"""Files that are whole or not there, and files that one process has to itself.

What is written appears under a temporary name beside its place and is renamed when it is complete: a reader, and a
program that is killed, sees the old content or the new one.  After a loss of power, too: file, folder and name are on
the disk before a function returns.  Permissions are those of any new file, as umask says.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file by `content`, text as UTF-8.  Returns when it is on the disk; raises OSError."""
    with new_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into, which takes the place of `path` when the block ends, and is dropped where that fails."""
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        # On a full disk, a part of a file is the last thing to leave behind.
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `path` when the block ends, and is dropped where that fails.

    An existing folder makes room first, as a rename replaces only empty ones: for a moment there is none.  It comes
    back where the new one cannot take its place.
    """
    temporary, old = _beside(path), _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        try:
            if path.is_dir():
                os.replace(path, old)
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Returns when all files and folders below, and the folder itself, are on the disk; raises OSError."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Returns when the names in the folder are on the disk, where the system can tell."""
    # Some systems and network drives cannot open a folder, or not write it apart.
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def only_process(path: Path, message: str) -> IO[str]:
    """Locks a file that is made for it, until the result is closed or the process ends, also by kill -9.

    Raises:
      BlockingIOError: another one holds it; the message is `message` and the number of that process.
      OSError: the file cannot be made.
    """
    file = path.open("a+", encoding="utf-8", errors="replace")
    try:
        file.seek(0)
        owner = file.read(64).strip()
        lock(file, f"{message} (process {owner})" if owner else message)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def lock(file: IO[str] | IO[bytes], message: str) -> None:
    """Locks an open file until it is closed.  Raises BlockingIOError with `message` where another one holds it."""
    import fcntl  # not on Windows, where the rest of this module works

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(message) from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
