"""Atomic writes of files and folders, and file locks.

Content is written under a temporary name in the same folder and renamed when it is complete, so that readers see either
the old or the new content, even if the writer is killed.  File, folder and name are synced to the disk before a
function returns, so that this also holds after a power failure.  Permissions follow the umask, as for any new file.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file with `content` (text as UTF-8).  Returns when it is on the disk; raises OSError."""
    with new_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file to write into.  It replaces `path` when the block ends, and is deleted if the block raises.

    Raises:
      OSError: the file cannot be written; the error names `path`.
    """
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename == str(temporary):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        # Do not leave a partial file behind, in particular on a full disk.
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder to write into.  It replaces `path` when the block ends, and is deleted if the block raises.

    An existing folder is moved aside first, because a rename replaces only empty folders; for a moment, `path` does not
    exist.  If the new folder cannot be renamed, the old one is moved back.
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
    """Returns when the names in the folder are on the disk, if the system supports this."""
    # Some systems and network drives cannot open or sync a folder.
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def only_process(path: Path, message: str) -> IO[str]:
    """Creates and locks a file, until the result is closed or the process ends (even by kill -9).

    Raises:
      BlockingIOError: another process holds the lock; the message is `message` and the id of that process.
      OSError: the file cannot be created.
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
    """Locks an open file until it is closed.  Raises BlockingIOError with `message` if another process holds it."""
    import fcntl  # not on Windows, where the rest of this module works

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(message) from None


def _beside(path: Path) -> Path:
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
