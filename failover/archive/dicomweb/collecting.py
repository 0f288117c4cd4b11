"""The body of a STOW with metadata and bulk data (PS3.18 10.5.1), collected: all of it must be there first.

What is made of it is `composed`'s. It is held in memory, so it is bounded, for one request and for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urljoin

from aiohttp import web

from failover.archive.dicomweb import composed
from failover.archive.dicomweb.asking import RETRY_AFTER_S, Room
from failover.errors import LimitExceeded, MalformedMultipart, UnreadableDataSet
from failover.http.media_types import parse_media_type
from failover.http.multipart import MultipartParser, PartBegan, PartBytes, PartEnded

METADATA: Final = "application/dicom+json"
_MOST_BYTES: Final = 32 * 2**20  # of one request: 413, and it can be sent as application/dicom
_MOST_BY_ALL_BYTES: Final = 48 * 2**20  # of all requests at the same time: 503
_MOST_METADATA_BYTES: Final = 8 * 2**20


class Holding:
    """What one request holds of metadata and bulk data."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._bytes = 0

    def add(self, more_bytes: int) -> None:
        """Raises HTTPRequestEntityTooLarge; HTTPServiceUnavailable when others hold too much."""
        self._bytes += more_bytes
        self._room.described.held_bytes += more_bytes
        if self._bytes > _MOST_BYTES:
            raise web.HTTPRequestEntityTooLarge(
                _MOST_BYTES, self._bytes, text="objects of this size are taken as application/dicom"
            )
        if self._room.described.held_bytes > _MOST_BY_ALL_BYTES:
            raise web.HTTPServiceUnavailable(
                text="too much metadata at the same time", headers={"Retry-After": str(RETRY_AFTER_S)}
            )

    def release(self) -> None:
        self._room.described.held_bytes -= self._bytes
        self._bytes = 0


async def collected(
    body: AsyncIterator[bytes], parser: MultipartParser, base: str, held: Holding
) -> tuple[list[dict[str, Any]], dict[str, composed.Bulk]]:
    """Return the objects described and the bulk data by absolute URI. Raises HTTPException."""
    described: list[dict[str, Any]] = []
    bulk: dict[str, composed.Bulk] = {}
    content, headers = bytearray(), dict[str, str]()
    try:
        async for piece in body:
            held.add(len(piece))
            for event in parser.receive_data(piece):
                if isinstance(event, PartBegan):
                    content, headers = bytearray(), dict(event.headers)
                elif isinstance(event, PartBytes):
                    content += event.content
                elif isinstance(event, PartEnded):
                    media = parse_media_type(headers.get("content-type", "application/octet-stream"))
                    if media.essence != METADATA:
                        uri = urljoin(base, headers.get("content-location", ""))
                        bulk[uri] = composed.Bulk(media, bytes(content))
                        continue
                    if len(content) > _MOST_METADATA_BYTES:
                        raise web.HTTPRequestEntityTooLarge(_MOST_METADATA_BYTES, len(content))
                    described += await asyncio.to_thread(composed.read_metadata, bytes(content))
        parser.receive_end()
    except (MalformedMultipart, LimitExceeded, UnreadableDataSet, ValueError) as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    return described, bulk
