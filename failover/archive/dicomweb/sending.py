"""How instances become a body: multipart or single, as stored or uncompressed, streamed with flat memory."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from failover.archive.dicomweb.accept import DICOM, NotAcceptable, Wish, choose_instance
from failover.archive.dicomweb.asking import ROOM
from failover.archive.dicomweb.from_disk import write_file
from failover.archive.dicomweb.ranges import NotSatisfiable, Part, asked_part
from failover.archive.extents import Extent
from failover.archive.held import Held
from failover.dicom.part10 import write_head
from failover.http.multipart import MultipartWriter


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


def range_of(request: web.Request, etag: str, whole: int) -> Part | None:
    """Return the part of a body of `whole` bytes that is asked for; None: all. Raises 416."""
    if request.method != "GET":
        return None
    try:
        return asked_part(request.headers.get("Range"), request.headers.get("If-Range"), etag, whole)
    except NotSatisfiable as error:
        raise web.HTTPRequestRangeNotSatisfiable(
            text=str(error), headers={"Content-Range": f"bytes */{whole}"}
        ) from None


async def send_extent(
    request: web.Request, response: web.StreamResponse, file: str, extent: Extent, etag: str
) -> web.StreamResponse:
    """Send bytes of a file as the whole body, or the range of them that is asked for."""
    offset, length = extent
    part = range_of(request, etag, length)
    response.headers["Accept-Ranges"] = "bytes"
    if part is not None:
        response.set_status(206)
        response.headers["Content-Range"] = part.content_range
        offset, length = offset + part.first, part.length
    response.content_length = length
    await write_file(request, response, file, (offset, length))
    await response.write_eof()
    return response


async def send_single(
    request: web.Request, response: web.StreamResponse, planned: Planned, etag: str
) -> web.StreamResponse:
    """Send one Part 10 file as the whole body."""
    response.headers["Content-Type"] = f"{DICOM}; transfer-syntax={planned.transfer_syntax}"
    if planned.as_stored:
        return await send_extent(request, response, planned.held.file, (0, planned.held.size_bytes), etag)
    await _made(request, response, planned, b"")
    await response.write_eof()
    return response


async def send_multipart(
    request: web.Request, response: web.StreamResponse, plans: Sequence[Planned], urls: Sequence[str]
) -> None:
    """Send Part 10 files, a part each, with their URLs as Content-Location."""
    writer = MultipartWriter(boundary())
    response.headers["Content-Type"] = writer.content_type(DICOM)
    heads = [_part_head(one, url) for one, url in zip(plans, urls, strict=True)]
    if all(one.as_stored for one in plans):
        sizes = zip(heads, (one.held.size_bytes for one in plans), strict=True)
        response.content_length = writer.length(sizes)
    for head, one in zip(heads, plans, strict=True):
        before = writer.part_head(head)
        if one.as_stored:
            await write_file(request, response, one.held.file, (0, one.held.size_bytes), before)
        else:
            await _made(request, response, one, before)
        if request.method == "HEAD":
            break
    else:
        await response.write(writer.end())
    await response.write_eof()


def _part_head(planned: Planned, url: str) -> dict[str, str]:
    head = {"Content-Type": f"{DICOM}; transfer-syntax={planned.transfer_syntax}", "Content-Location": url}
    if planned.as_stored:
        # Known before it is sent: whoever resumes an answer that broke needs the length of a part.
        head["Content-Length"] = str(planned.held.size_bytes)
    return head


async def send_frames(
    request: web.Request,
    response: web.StreamResponse,
    file: str,
    extents: Sequence[Extent],
    heads: Sequence[dict[str, str]],
    writer: MultipartWriter,
) -> None:
    """Send stretches of one file, a part each. The heads have no Content-Length yet."""
    whole = [head | {"Content-Length": str(length)} for head, (_, length) in zip(heads, extents, strict=True)]
    response.content_length = writer.length(
        (head, length) for head, (_, length) in zip(whole, extents, strict=True)
    )
    for head, extent in zip(whole, extents, strict=True):
        await write_file(request, response, file, extent, writer.part_head(head))
        if request.method == "HEAD":
            break
    else:
        await response.write(writer.end())
    await response.write_eof()


async def _made(request: web.Request, response: web.StreamResponse, planned: Planned, before: bytes) -> None:
    """Write `before` and one instance in another transfer syntax than it is stored in."""
    held = planned.held
    head = write_head(held.sop_class_uid, held.key.sop_instance_uid, planned.transfer_syntax)
    async with request.app[ROOM].transcoders.data_set(held.path, planned.transfer_syntax) as pieces:
        if not response.prepared:
            await response.prepare(request)
        if request.method == "HEAD":
            return
        await response.write(before + head)
        async for made in pieces:
            await response.write(made)
