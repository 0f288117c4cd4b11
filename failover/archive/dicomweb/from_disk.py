"""How bytes of a file reach a caller: without passing through us where the system can do that, else in
pieces, so that memory stays flat however large the file and however slow the caller.

What the system has in memory is sent or read here and now; what the disk must bring, in a thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from failover.archive.extents import Extent
from failover.errors import UnreadableDataSet

_PIECE_BYTES: Final = 256 * 1024
# Less than this is copied: three small packets would cost more than one.
_LEAST_HANDED_OVER: Final = 32 * 1024
# What is handed over at once: the system sends it in one turn of our loop, and all of it is looked at before.
_STRETCH_BYTES: Final = 2**20
# How far apart it is looked whether the system has a stretch in memory: it comes and goes by runs of pages.
_LOOK_EVERY_BYTES: Final = 128 * 1024


class Streamed(web.StreamResponse):
    """An answer whose head goes out with the first bytes of its body, not as a packet of its own."""

    _send_headers_immediately = False


async def write_file(
    request: web.Request, response: web.StreamResponse, file: str, extent: Extent, before: bytes = b""
) -> None:
    """Write `before` and bytes of a file; the head of the answer goes out once the file is open.

    Raises FileNotFoundError, UnreadableDataSet: the file is shorter than it was.
    """
    offset, left = extent
    descriptor = _open(file, extent)
    try:
        if not response.prepared:
            await response.prepare(request)
        if request.method == "HEAD":
            return
        if left < _LEAST_HANDED_OVER:
            await response.write(before + await _read(descriptor, offset, left))
            return
        out = _Out(request, response)
        await response.write(before)  # also where it is empty: the head of the answer goes with it
        while left > 0:
            sent = out.hand_over(descriptor, offset, min(left, _STRETCH_BYTES))
            if sent:
                await asyncio.sleep(0)  # a quick caller must not keep our loop to itself
            else:
                piece = await _read(descriptor, offset, min(left, _PIECE_BYTES))
                await response.write(piece)
                sent = len(piece)
            offset, left = offset + sent, left - sent
    finally:
        os.close(descriptor)


async def file_pieces(
    file: str, extent: Extent, piece_bytes: int = _PIECE_BYTES
) -> AsyncIterator[bytes | bytearray]:
    """Yield bytes of a file, at most `piece_bytes` at a time. Raises as `write_file`."""
    offset, left = extent
    descriptor = _open(file, extent)
    try:
        while left > 0:
            piece = await _read(descriptor, offset, min(left, piece_bytes))
            yield piece
            offset, left = offset + len(piece), left - len(piece)
    finally:
        os.close(descriptor)


class _Out:
    """The caller's socket, for bytes that do not pass through the transport."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        transport, self._transport = request.transport, None
        # Bytes that are not sent as they lie in the file: cut into chunks, compressed, encrypted.
        changed = response.content_length is None or response.chunked or response.compression
        if transport is None or changed or transport.get_extra_info("sslcontext") is not None:
            return
        self._transport = transport
        # What is written goes out at once where the socket has room, not at the end of the loop's turn.
        transport.set_write_buffer_limits(high=0)

    def hand_over(self, descriptor: int, offset: int, length: int) -> int:
        """Let the system send bytes of a file; return how many it took: none while something waits before
        them, where the socket is full, and where the disk would have to bring them."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size():
            return 0
        if transport.is_closing():
            raise ConnectionResetError("the caller went away")
        if not _is_in_memory(descriptor, offset, length):
            return 0
        try:
            sent = os.sendfile(transport.get_extra_info("socket").fileno(), descriptor, offset, length)
        except BlockingIOError:
            return 0
        if not sent:
            raise UnreadableDataSet("its file is shorter than it was")
        return sent


def _is_in_memory(descriptor: int, offset: int, length: int) -> bool:
    one = bytearray(1)
    last = offset + length - 1
    try:
        return all(
            os.preadv(descriptor, [one], at, os.RWF_NOWAIT)
            for at in (*range(offset, last, _LOOK_EVERY_BYTES), last)
        )
    except OSError:
        return False  # not in memory, or a file system that cannot tell


def _open(file: str, extent: Extent) -> int:
    descriptor = os.open(file, os.O_RDONLY)
    if os.fstat(descriptor).st_size < sum(extent):
        os.close(descriptor)
        raise UnreadableDataSet("its file is shorter than it was")
    return descriptor


async def _read(descriptor: int, offset: int, length: int) -> bytes | bytearray:
    """Read here what the system has in memory, in a thread what the disk must bring."""
    piece = bytearray(length)
    try:
        if os.preadv(descriptor, [piece], offset, os.RWF_NOWAIT) == length:
            return piece
    except OSError:
        pass  # not in memory, or a file system that cannot tell
    read = await asyncio.to_thread(os.pread, descriptor, length, offset)
    if not read:
        raise UnreadableDataSet("its file is shorter than it was")
    return read
