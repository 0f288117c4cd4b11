from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from failover.durable import SyncedFile, append_line, make_folder, move_into_place, storage_error, write_file
from failover.errors import DiskFull, StorageError


def test_a_file_is_replaced_whole_and_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_file(path, b"old")
    write_file(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["state.json"]


def test_no_room_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """A real limit of the kernel, in a process of its own: writing beyond it fails with EFBIG."""
    path = tmp_path / "state.json"
    write_file(path, b"old")
    script = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
from pathlib import Path
from failover.durable import write_file
from failover.errors import StorageError
try:
    write_file(Path({str(path)!r}), b"x" * 100000)
except StorageError as error:
    print("refused")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "refused"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.json"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EACCES, StorageError),
        (errno.EIO, StorageError),
    ],
)
def test_an_error_says_whether_there_was_room(code: int, kind: type[Exception]) -> None:
    error = storage_error(OSError(code, "reason"), Path("/secret/place/file"))
    assert type(error) is kind
    assert "/secret/place" not in str(error)


def test_lines_are_appended_whole(tmp_path: Path) -> None:
    path = tmp_path / "trail"
    for line in (b"one", b"two\n"):
        append_line(path, line)
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_line_that_has_room_for_a_part_alone_leaves_no_part(tmp_path: Path) -> None:
    """The kernel writes up to the limit and says so with a shorter count, as on a disk that fills up."""
    path = tmp_path / "trail"
    append_line(path, b"one")
    script = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
from pathlib import Path
from failover.durable import append_line
from failover.errors import StorageError
try:
    append_line(Path({str(path)!r}), b"x" * 5000)
except StorageError as error:
    print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))
append_line(Path({str(path)!r}), b"x" * 5000)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "refused"
    assert path.read_bytes() == b"one\n" + b"x" * 5000 + b"\n"


def test_a_folder_that_cannot_be_made_is_named_in_full(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=f"^{tmp_path}/file: cannot be made a folder of ours: "):
        make_folder(tmp_path / "file" / "state")


def test_folders_and_moves(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "temporary").write_bytes(b"content")
    move_into_place(tmp_path / "temporary", tmp_path / "a" / "b" / "file")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"
    with pytest.raises(StorageError):
        move_into_place(tmp_path / "missing", tmp_path / "a" / "file")


def test_a_file_that_is_kept_open_is_synced_by_the_same_descriptor_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh one is told nothing of an error that somebody has heard of before."""
    synced: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fdatasync", lambda number: synced.append((number, os.fstat(number).st_ino)))
    path = tmp_path / "log"
    file = SyncedFile(path)
    file.sync()
    assert synced == [], "it is not there yet"
    path.write_bytes(b"frames")
    inode = path.stat().st_ino
    file.sync()
    file.sync()
    assert len(set(synced)) == 1
    assert synced[0][1] == inode
    file.close()
