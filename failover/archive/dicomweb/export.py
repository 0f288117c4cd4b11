"""A study or series as a zip archive with a DICOMDIR (PS3.18 8.7.3, PS3.10), made while it is sent.

Nothing is gathered on disk, and in memory only what the directory says of each file. Objects go out in
Explicit VR Little Endian, which every reader of a medium knows (PS3.11 D), where they can be decoded; with
`transfer-syntax=*` as they are stored.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final

from aiohttp import web

from failover.archive.codecs import Undecodable
from failover.archive.dicomdir import Directory
from failover.archive.dicomweb.accept import Wish, choose_instance
from failover.archive.dicomweb.asking import ROOM
from failover.archive.dicomweb.from_disk import file_pieces
from failover.archive.held import Held
from failover.archive.pixels import NoPixels, NoSuchFrame
from failover.dicom.part10 import write_head
from failover.errors import UnreadableDataSet

ZIP: Final = "application/zip"
# Above it a member may have more than 4 GiB once it is decoded: then its sizes have 64 bits.
_LARGE_BYTES: Final = 16 * 2**20
_WHEN: Final = (1980, 1, 1, 0, 0, 0)  # the first date that a zip archive knows
_README: Final = (
    "DICOM files; DICOMDIR is their directory. Open the folder, or this archive, in a DICOM viewer.\r\n"
)


async def send_zip(
    request: web.Request,
    response: web.StreamResponse,
    found: list[Held],
    metadata: AsyncGenerator[bytes],
    wished_syntax: str | None,
) -> web.StreamResponse:
    """Send `found` as one zip archive; `metadata` yields the DICOM JSON of each of them in the same order."""
    response.headers["Content-Type"] = ZIP
    response.headers["Content-Disposition"] = 'attachment; filename="DICOM.zip"'
    response.headers["Cache-Control"] = "no-store"
    # The first is made before the head is sent, so that what cannot be read gets a proper status.
    first = await anext(metadata)
    await response.prepare(request)
    if request.method == "HEAD":
        await metadata.aclose()
        return response
    out, directory, names = _Out(), Directory(), _Names()
    archive = zipfile.ZipFile(out, "w", zipfile.ZIP_STORED)  # type: ignore[call-overload]
    for number, held in enumerate(found):
        attributes = json.loads(first if number == 0 else await anext(metadata))
        file_id = names.next(held)
        async with _Instance(request, held, wished_syntax) as instance:
            large = held.size_bytes > _LARGE_BYTES
            with archive.open(_member("/".join(file_id)), "w", force_zip64=large) as member:
                async for piece in instance.pieces():
                    member.write(piece)
                    await response.write(out.take())
        key = held.key
        directory.add(attributes, file_id, held.sop_class_uid, key.sop_instance_uid, instance.transfer_syntax)
    await metadata.aclose()
    own_uid = f"2.25.{secrets.randbits(120)}"  # PS3.5 B.2
    archive.writestr(_member("DICOMDIR"), await asyncio.to_thread(directory.content, own_uid))
    archive.writestr(_member("README.TXT"), _README)
    archive.close()
    await response.write(out.take())
    await response.write_eof()
    return response


class _Out:
    """What the zip archive writes, until it is taken: it cannot seek, so sizes stand behind each member."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        return

    def take(self) -> bytes:
        content, self._pieces = b"".join(self._pieces), []
        return content


class _Names:
    """File IDs (PS3.10 8.2, 8.5): components of at most eight capital letters, digits and underscores."""

    def __init__(self) -> None:
        self._series: dict[str, int] = {}
        self._objects = 0

    def next(self, held: Held) -> tuple[str, str, str]:
        series = self._series.setdefault(held.key.series_instance_uid, len(self._series) + 1)
        self._objects += 1
        return "DICOM", f"SE{series:06d}", f"IM{self._objects:06d}"


class _Instance:
    """One object, open to be sent: transcoded where that is wanted and can be done, else as it is stored."""

    def __init__(self, request: web.Request, held: Held, wished_syntax: str | None) -> None:
        self._room = request.app[ROOM]
        self._held = held
        self._wished = wished_syntax
        self._transcoded: AbstractAsyncContextManager[AsyncIterator[bytes]] | None = None
        self._made: AsyncIterator[bytes] | None = None
        self.transfer_syntax = held.transfer_syntax_uid

    async def __aenter__(self) -> _Instance:
        wish = Wish(False, ZIP, self._wished)
        chosen = choose_instance(wish, self._held.transfer_syntax_uid)
        if chosen is not None and chosen != self._held.transfer_syntax_uid:
            transcoded = self._room.transcoders.data_set(self._held.path, chosen)
            try:
                self._made = await transcoded.__aenter__()
            except (Undecodable, NoPixels, NoSuchFrame, UnreadableDataSet):
                return self  # as it is stored then: better than no study
            self._transcoded, self.transfer_syntax = transcoded, chosen
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._transcoded is not None:
            await self._transcoded.__aexit__(*exception)  # type: ignore[arg-type]

    async def pieces(self) -> AsyncIterator[bytes | bytearray]:
        if self._made is None:
            async for stored in file_pieces(self._held.file, (0, self._held.size_bytes)):
                yield stored
            return
        key = self._held.key
        yield write_head(self._held.sop_class_uid, key.sop_instance_uid, self.transfer_syntax)
        async for piece in self._made:
            yield piece


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, _WHEN)
