"""Files that are whole or not there, whatever happens while they are written, and files of one process."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from optformer import files
from optformer.files import lock, new_file, new_folder, only_process, write_atomically


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def permissions(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def test_a_file_is_replaced_with_the_permissions_of_a_new_one(tmp_path, umask):
    path = tmp_path / "file.json"
    path.write_text("old")
    path.chmod(0o600)
    write_atomically(path, "straße\n")
    assert path.read_bytes() == "straße\n".encode()
    assert permissions(path) == "0o640"
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["file.json"]


@pytest.mark.parametrize("existing", ["old", None])
def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path, existing):
    path = tmp_path / "file"
    if existing:
        path.write_text(existing)

    def write_half():
        with new_file(path) as file:
            file.write(b"half")
            file.flush()
            raise KeyError("in between")

    with pytest.raises(KeyError, match="in between"):
        write_half()
    assert os.listdir(tmp_path) == (["file"] if existing else [])
    assert not existing or path.read_text() == existing


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "no" / "page", tmp_path / "file" / "page", tmp_path / "folder", tmp_path / ("n" * 300)):
        with pytest.raises(OSError) as caught:
            write_atomically(path, "text")
        assert caught.value.filename == str(path)
    with pytest.raises(IsADirectoryError, match=r"'[.]'"):
        write_atomically(Path(), "text")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_full_disk_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "old"


def test_what_is_renamed_is_on_the_disk(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda number: (done.append("fsync"), fsync(number)))
    monkeypatch.setattr(files.os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_atomically(tmp_path / "file", "new")
    assert done == ["fsync", "replace", "fsync"], "content, name, folder"


def test_a_new_folder_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda number: (done.append(os.fstat(number).st_ino), fsync(number)))
    monkeypatch.setattr(files.os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    with new_folder(tmp_path / "folder") as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text("text")
    path = tmp_path / "folder"
    written = {path.stat().st_ino, (path / "below").stat().st_ino, (path / "below" / "file").stat().st_ino}
    assert set(done[: done.index("replace")]) == written
    assert done[-1] == tmp_path.stat().st_ino


def test_killed_while_it_writes_a_program_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from optformer.files import new_file\n"
        "with new_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_folder_is_replaced_whole(tmp_path, umask):
    path = tmp_path / "folder"
    for content in ("first", "second"):
        with new_folder(path) as folder:
            (folder / content).write_text(content)
            assert not (path / content).exists()
        assert os.listdir(path) == [content]
        assert permissions(path) == "0o750"

    def write_half():
        with new_folder(path) as folder:
            (folder / "third").write_text("half")
            raise KeyError("in between")

    with pytest.raises(KeyError, match="in between"):
        write_half()
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(path) == ["second"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path, replace = tmp_path / "folder", os.replace
    path.mkdir()
    (path / "first").write_text("first")

    def interrupted(source, target):
        if target == path and source.joinpath("second").exists():
            raise KeyboardInterrupt
        replace(source, target)

    def write():
        with new_folder(path) as folder:
            (folder / "second").write_text("second")

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(path) == ["first"]


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    path = tmp_path / ".lock"
    code = (
        "import sys; from pathlib import Path; from optformer.files import only_process\n"
        "with only_process(Path(sys.argv[1]), 'taken'): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            holder.stdout.readline()
            with pytest.raises(BlockingIOError, match=rf"^it is in use \(process {holder.pid}\)$"):
                only_process(path, "it is in use")
        finally:
            holder.kill()
    with only_process(path, "it is in use"):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
            only_process(path, "it is in use")
    only_process(path, "it is in use").close()


def test_an_open_file_is_locked_until_it_is_closed(tmp_path):
    path = tmp_path / "journal"
    with path.open("a+b") as first, path.open("a+b") as second:
        lock(first, "taken")
        with pytest.raises(BlockingIOError, match=r"^taken$"):
            lock(second, "taken")
        first.close()
        lock(second, "taken")
