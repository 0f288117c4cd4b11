"""How instances become a body: multipart or single, as stored or uncompressed, streamed with flat memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from failover.archive.dicomweb.accept import DICOM, NotAcceptable, Wish, choose_instance
from failover.archive.dicomweb.asking import ROOM
from failover.archive.index import Held
from failover.dicom.part10 import write_head
from failover.http.multipart import MultipartWriter

_PIECE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Planned:
    """One instance and the transfer syntax in which it goes."""

    held: Held
    transfer_syntax: str

    @property
    def as_stored(self) -> bool:
        return self.transfer_syntax == self.held.transfer_syntax_uid


def plan(instances: Sequence[Held], wishes: Sequence[Wish]) -> tuple[bool, list[Planned]]:
    """Return whether the answer is multipart, and each instance with its syntax. Raises NotAcceptable.

    The best wish that all instances can fulfil wins.
    """
    for wish in wishes:
        if not wish.multipart and len(instances) != 1:
            continue
        syntaxes = [choose_instance(wish, held.transfer_syntax_uid) for held in instances]
        planned = [
            Planned(held, syntax)
            for held, syntax in zip(instances, syntaxes, strict=True)
            if syntax is not None
        ]
        if len(planned) == len(instances):
            return wish.multipart, planned
    raise NotAcceptable("no transfer syntax that is accepted can be made of what is stored")


def boundary() -> str:
    # Long, so that no pixel data holds it by chance (DESIGN 6.7).
    return f"failover-{secrets.token_hex(24)}"


async def send_single(request: web.Request, response: web.StreamResponse, planned: Planned) -> None:
    """Send one Part 10 file as the whole body."""
    response.content_type = DICOM
    response.headers["Content-Type"] = f"{DICOM}; transfer-syntax={planned.transfer_syntax}"
    if planned.as_stored:
        response.content_length = planned.held.size_bytes
    await _content(request, response, planned, b"")
    await response.write_eof()


async def send_multipart(
    request: web.Request, response: web.StreamResponse, plans: Sequence[Planned], urls: Sequence[str]
) -> None:
    """Send Part 10 files, a part each, with their URLs as Content-Location."""
    writer = MultipartWriter(boundary())
    response.headers["Content-Type"] = writer.content_type(DICOM)
    heads = [
        {"Content-Type": f"{DICOM}; transfer-syntax={one.transfer_syntax}", "Content-Location": url}
        for one, url in zip(plans, urls, strict=True)
    ]
    if all(one.as_stored for one in plans):
        sizes = zip(heads, (one.held.size_bytes for one in plans), strict=True)
        response.content_length = writer.length(sizes)
    for head, one in zip(heads, plans, strict=True):
        await _content(request, response, one, writer.part_head(head))
        if request.method == "HEAD":
            break
    else:
        await response.write(writer.end())
    await response.write_eof()


async def _content(
    request: web.Request, response: web.StreamResponse, planned: Planned, before: bytes
) -> None:
    """Write `before` and one instance. The head of the answer goes out once the first instance is there."""
    held = planned.held
    is_head = request.method == "HEAD"
    if planned.as_stored:
        with held.path.open("rb") as file:
            if not response.prepared:
                await response.prepare(request)
            if is_head:
                return
            if before:
                await response.write(before)
            while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
                await response.write(piece)
        return
    head = write_head(held.sop_class_uid, held.key.sop_instance_uid, planned.transfer_syntax)
    async with request.app[ROOM].transcoders.data_set(held.path, planned.transfer_syntax) as pieces:
        if not response.prepared:
            await response.prepare(request)
        if is_head:
            return
        await response.write(before + head)
        async for made in pieces:
            await response.write(made)
