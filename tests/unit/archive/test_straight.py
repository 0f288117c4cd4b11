"""A file written past the cache is the same file, wherever its blocks end and whatever the disk can do."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from failover.archive import straight
from failover.archive.straight import LEAST_BYTES, write_new

SIZES = [0, 1, LEAST_BYTES - 1, LEAST_BYTES, LEAST_BYTES + 1, LEAST_BYTES + 4095, 524_288 + 1400, 1_200_000]


def _pieces(size: int) -> list[bytes | bytearray | memoryview]:
    content = os.urandom(size)
    return [content[:300], bytearray(content[300:70_000]), memoryview(content)[70_000:]]


@pytest.mark.parametrize("size", SIZES)
def test_the_file_holds_what_it_was_made_of(tmp_path: Path, size: int) -> None:
    for number in range(2):  # the second finds the memory of the first
        pieces = _pieces(size)
        write_new(tmp_path / str(number), pieces)
        assert (tmp_path / str(number)).read_bytes() == b"".join(pieces)
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "0", [b"another"])


@pytest.mark.parametrize("size", [3000, LEAST_BYTES + 1])
def test_it_may_be_made_of_more_pieces_than_the_system_takes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(straight, "LEAST_BYTES", 2**30)
    content = os.urandom(size)
    write_new(tmp_path / "one", [content[at : at + 1] for at in range(size)])
    assert (tmp_path / "one").read_bytes() == content


@pytest.mark.parametrize("fails", ["fcntl.fcntl", "os.pwrite"])
def test_a_disk_that_does_not_take_it_so_gets_it_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def refused(*arguments: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(f"failover.archive.straight.{fails}", refused)
    pieces = _pieces(LEAST_BYTES + 100)
    write_new(tmp_path / "one", pieces)
    monkeypatch.undo()
    assert (tmp_path / "one").read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("most", [4096, 5000, LEAST_BYTES])
def test_what_was_written_in_part_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:most], at))
    pieces = _pieces(LEAST_BYTES + 9000)
    if most % 4096:
        monkeypatch.setattr(straight, "LEAST_BYTES", 2**30)
        monkeypatch.setattr(os, "writev", lambda file, _: write(file, b"".join(pieces)[:most], 0))
    write_new(tmp_path / "one", pieces)
    assert (tmp_path / "one").read_bytes() == b"".join(pieces)


def test_a_large_file_goes_past_the_cache_and_a_small_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[int] = []
    change = fcntl.fcntl

    def seen(file: int, what: int, how: int) -> object:
        ways.append(how)
        return change(file, what, how)

    monkeypatch.setattr(fcntl, "fcntl", seen)
    write_new(tmp_path / "small", _pieces(LEAST_BYTES - 1))
    assert ways == []
    write_new(tmp_path / "large", _pieces(LEAST_BYTES))
    assert ways == [os.O_DIRECT, 0]
