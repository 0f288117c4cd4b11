"""Bodies kept in memory, then on disk, both bounded."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from failover.errors import SpoolFull
from failover.spool import MEMORY_PER_BODY_BYTES, KeptBody, Spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    one = Spool(tmp_path / "spool", memory_bytes=8 * 2**20, disk_bytes=32 * 2**20)
    yield one
    one.close()


async def read_all(body: KeptBody) -> bytes:
    found = b""
    while len(found) < body.length_bytes:
        found += await body.read(len(found), 100_000)
    return found


async def test_small_body_stays_in_memory(spool: Spool) -> None:
    body = spool.open()
    body.append(b"abc")
    body.append(b"def")
    assert [body.read_now(0, 2), body.read_now(2, 99), body.read_now(3, 99), body.read_now(6, 9)] == [
        b"ab", b"cdef", b"def", b""
    ]  # fmt: skip
    assert (spool.memory_used_bytes, spool.disk_used_bytes) == (6, 0)
    body.close()
    body.close()
    assert spool.memory_used_bytes == 0


async def test_large_body_goes_to_disk_and_is_read_twice(spool: Spool, tmp_path: Path) -> None:
    body = spool.open()
    content = os.urandom(MEMORY_PER_BODY_BYTES * 3)
    for place in range(0, len(content), 65536):
        body.append(content[place : place + 65536])
    assert (spool.memory_used_bytes, spool.disk_used_bytes) == (0, len(content))
    assert await read_all(body) == content
    assert await read_all(body) == content
    assert list((tmp_path / "spool").iterdir()) == []  # a killed process leaves nothing
    body.close()
    assert spool.disk_used_bytes == 0


async def test_full_spool_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path, memory_bytes=10, disk_bytes=20)
    body = spool.open()
    body.append(b"x" * 10)
    body.append(b"y" * 10)
    with pytest.raises(SpoolFull):
        body.append(b"z")
    assert await read_all(body) == b"x" * 10 + b"y" * 10
    other = spool.open()
    other.append(b"a" * 10)  # memory is free again
    with pytest.raises(SpoolFull):
        other.append(b"b")
    other.close()
    body.close()
    assert (spool.memory_used_bytes, spool.disk_used_bytes) == (0, 0)
    spool.close()


async def test_no_folder_is_a_full_spool(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    spool = Spool(tmp_path / "file" / "below", memory_bytes=0)
    with pytest.raises(SpoolFull):
        spool.open().append(b"x")
    assert (spool.memory_used_bytes, spool.disk_used_bytes) == (0, 0)


async def test_many_tiny_pieces_cost_what_is_counted(tmp_path: Path) -> None:
    """Pieces of a byte, and of none, as a peer may cut them: gathered, in memory and on their way out."""
    spool = Spool(tmp_path)
    body = spool.open()
    whole = bytearray()
    tracemalloc.start()
    try:
        for number in range(100_000):
            piece = bytes((number % 251,)) * (number % 2)
            body.append(piece)
            whole += piece
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 4 * len(whole)
    large = bytearray(MEMORY_PER_BODY_BYTES)
    body.append(large)  # from here on it is on the disk
    whole += large
    for number in range(1000):
        piece = bytes((number % 251,))
        body.append(piece)
        whole += piece
    assert len(large) == MEMORY_PER_BODY_BYTES
    assert await read_all(body) == bytes(whole)
    body.close()
    spool.close()
