"""WADO-RS (PS3.18 10.4): instances, metadata, frames, bulk data; pictures are `rendered`'s.

Which media type and transfer syntax is `accept`'s to decide, how bytes flow `sending`'s.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from hashlib import blake2b
from typing import Final

from aiohttp import web

from failover.archive.dicomweb import accept, export, sending
from failover.archive.dicomweb.asking import ROOM, Room, accepted, base_url, is_unchanged, uid, warning
from failover.archive.dicomweb.from_disk import Streamed
from failover.archive.extents import Extent, frame_count, native_frames
from failover.archive.held import Held
from failover.archive.matches import escape
from failover.archive.metadata import URL_MARK
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from failover.http.media_types import best
from failover.http.multipart import MultipartWriter

_FRAMES: Final = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")
_PATH: Final = re.compile(r"[0-9A-F]{8}(/[0-9]{1,6}/[0-9A-F]{8})*")
_URL_MARK: Final = URL_MARK.encode()
# Metadata looked up, and kept, at once: bounds what one request holds in memory.
_AT_ONCE: Final = 64
MOST_FRAMES: Final = 10_000  # of one answer
TOO_MANY: Final = f"there are more than {MOST_FRAMES} frames: name those wanted"


def held_instances(request: web.Request) -> list[Held]:
    """Return the instances that the path names. Raises HTTPNotFound: none of them is here."""
    index = request.app[ROOM].index
    study, series, instance = uid(request, "study"), uid(request, "series"), uid(request, "instance")
    assert study is not None, "each retrieve path has a study"
    if instance is not None:
        one = index.instance(instance, study=study, series=series)
        found = [one] if one is not None else []
    else:
        found = index.instances(study=study, series=series)
    if not found:
        raise web.HTTPNotFound(text="not held by this archive", headers={"Warning": _warning(request)})
    return found


def _warning(request: web.Request, *more: str) -> str:
    return warning(request.app[ROOM].index.window, *more)


def _is_short(request: web.Request) -> bool:
    """Whether the primary was seen with more instances of this study than are here (DESIGN 4.2)."""
    study = uid(request, "study")
    return uid(request, "instance") is None and study in request.app[ROOM].index.window.short


def began(request: web.Request, *more: str) -> tuple[int, dict[str, str]]:
    """Return status and Warning of an answer about all that the path names; `more`: what it lacks besides."""
    if _is_short(request):
        more = ("The primary holds more instances of this study", *more)
    return (206, {"Warning": _warning(request, *more)}) if more else (200, {})


async def instances(request: web.Request) -> web.StreamResponse:
    """A study, a series or one instance, as Part 10 files."""
    found = held_instances(request)
    if (wish := accept.zip_wish(accepted(request))) is not None:
        return await _zip(request, found, wish.transfer_syntax)
    multipart, plans = sending.plan(found, accept.instance_wishes(accepted(request)))
    status, headers = began(request)
    response = Streamed(status=status, headers={**headers, "Vary": "Accept"})
    if multipart:
        base = base_url(request)
        await sending.send_multipart(request, response, plans, [url_of(base, one.held) for one in plans])
        return response
    etag = instance_etag(plans[0])
    if is_unchanged(request, etag):
        return web.Response(status=304, headers={"ETag": f'"{etag}"'})
    response.headers["ETag"] = f'"{etag}"'
    return await sending.send_single(request, response, plans[0], etag)


def instance_etag(planned: sending.Planned) -> str:
    return f"{planned.held.digest.hex()[:32]}-{planned.transfer_syntax}"


async def download(request: web.Request) -> web.StreamResponse:
    """A study as a zip archive, for a link in a page: no header is needed."""
    return await _zip(request, held_instances(request), EXPLICIT_LITTLE)


async def _zip(request: web.Request, found: list[Held], syntax: str | None) -> web.StreamResponse:
    status, headers = began(request)
    response = web.StreamResponse(status=status, headers={**headers, "Vary": "Accept"})
    return await export.send_zip(request, response, found, _metadata(request.app[ROOM], found), syntax)


async def metadata(request: web.Request) -> web.StreamResponse:
    """All attributes as DICOM JSON; large values stand behind a BulkDataURI."""
    found = held_instances(request)
    media_type = accept.json_type(accepted(request))
    status, headers = began(request)
    base = base_url(request)
    etag = etag_of(found, f"metadata {media_type} {base}")
    headers |= {"ETag": f'W/"{etag}"', "Vary": "Accept", "Cache-Control": "no-cache"}
    if status == 200 and is_unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    # The first is made before the head is sent, so that what cannot be read gets a proper status.
    texts = _metadata(request.app[ROOM], found)
    first = await anext(texts)
    response = web.StreamResponse(status=status, headers={**headers, "Content-Type": media_type})
    await response.prepare(request)
    if request.method != "HEAD":
        await response.write(b"[" + _with_url(first, url_of(base, found[0])))
        for held in found[1:]:
            await response.write(b"," + _with_url(await anext(texts), url_of(base, held)))
        await response.write(b"]")
    await texts.aclose()
    await response.write_eof()
    return response


async def _metadata(room: Room, found: list[Held]) -> AsyncGenerator[bytes]:
    """Yield the finished metadata of each; what was not kept is made, and kept."""
    for at in range(0, len(found), _AT_ONCE):
        some = found[at : at + _AT_ONCE]
        known = room.kept.get([held.digest for held in some])
        made: dict[bytes, bytes] = {}
        try:
            for held in some:
                text = known.get(held.digest)
                if text is None:
                    text = made[held.digest] = await room.decoders.metadata(held.path)
                yield text
        finally:
            if made:
                room.kept.keep(made)


def _with_url(text: bytes, url: str) -> bytes:
    return text.replace(_URL_MARK, escape(url).encode())


def etag_of(found: list[Held], how: str) -> str:
    whole = blake2b(how.encode(), digest_size=16)
    for held in found:
        whole.update(held.digest)
    return whole.hexdigest()


async def frames(request: web.Request) -> web.StreamResponse:
    """Frames of one instance, in the order in which they are asked for; without a list, all of them."""
    held = held_instances(request)[0]
    chosen = accept.choose_frame(accept.frame_wishes(accepted(request)), held.transfer_syntax_uid)
    if chosen is None:
        raise accept.NotAcceptable("frames are offered as application/octet-stream, or as they are stored")
    wish, part_type, decoded = chosen
    numbers = await frame_numbers(request, held)
    if not wish.multipart and len(numbers) != 1:
        raise accept.NotAcceptable("several frames are sent as multipart/related alone")
    etag = etag_of([held], f"frames {numbers} {part_type} {wish.multipart}")
    # The bytes of one frame alone are the same each time; a boundary is not.
    quoted = f'W/"{etag}"' if wish.multipart else f'"{etag}"'
    headers = {"Vary": "Accept", "ETag": quoted, "Cache-Control": "private, max-age=60"}
    if is_unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    room = request.app[ROOM]
    writer = MultipartWriter(sending.boundary())
    whole_type = writer.content_type(part_type.partition(";")[0]) if wish.multipart else part_type
    response = Streamed(headers={**headers, "Content-Type": whole_type})
    url = url_of(base_url(request), held)
    heads = [{"Content-Type": part_type, "Content-Location": f"{url}/frames/{number}"} for number in numbers]
    extents = await _extents(room, held, numbers, decoded=decoded)
    if extents is not None:
        if not wish.multipart:
            return await sending.send_extent(request, response, held.file, extents[0], etag)
        await sending.send_frames(request, response, held.file, extents, heads, writer)
        return response
    decoders = room.decoders
    for number, head in zip(numbers, heads, strict=True):
        # The first is made before the head is sent, so that what cannot be decoded gets a proper status.
        async with decoders.frame(held.path, number, decoded=decoded) as pieces:
            if not response.prepared:
                await response.prepare(request)
            if request.method == "HEAD":
                async for _ in pieces:  # so that its decoder is free again
                    pass
                break
            if wish.multipart:
                await response.write(writer.part_head(head))
            async for piece in pieces:
                await response.write(piece)
    if wish.multipart and request.method != "HEAD":
        await response.write(writer.end())
    await response.write_eof()
    return response


async def _extents(room: Room, held: Held, numbers: list[int], *, decoded: bool) -> list[Extent] | None:
    """Return where in its file the frames lie as they are to be sent; None: a decoder must make them."""
    if held.pixel_length is not None:
        return native_frames(held, numbers)
    return None if decoded else await asyncio.to_thread(room.frame_tables.of, held, numbers)


async def frame_numbers(request: web.Request, held: Held) -> list[int]:
    text = request.match_info.get("frames")
    if text is None:
        return list(await all_frames(request, held))
    if not _FRAMES.fullmatch(text):
        raise web.HTTPBadRequest(text="frames must be numbers from 1, separated by commas")
    numbers = [int(number) for number in text.split(",")]
    if len(numbers) > MOST_FRAMES or min(numbers) < 1:
        raise web.HTTPBadRequest(text=f"frames must be 1 to {MOST_FRAMES} numbers from 1")
    return numbers


async def all_frames(request: web.Request, held: Held) -> range:
    """Raises HTTPBadRequest: the object says that it has more than anyone can mean."""
    count = frame_count(held) or await request.app[ROOM].decoders.number_of_frames(held.path)
    if count > MOST_FRAMES:
        raise web.HTTPBadRequest(text=TOO_MANY)
    return range(1, count + 1)


async def bulk_data(request: web.Request) -> web.Response:
    """One large value, by the path that metadata gave."""
    held = held_instances(request)[0]
    path = request.match_info["path"]
    if not _PATH.fullmatch(path):
        raise web.HTTPBadRequest(text="the path is none that metadata gives")
    wanted = accepted(request)
    alone = best(wanted, (accept.OCTETS,)) is not None and not any(
        one.media.essence == accept.MULTIPART for one in wanted
    )
    etag = etag_of([held], f"value {path} {alone}")
    headers = {"Vary": "Accept", "ETag": f'"{etag}"' if alone else f'W/"{etag}"'}
    if is_unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    value = await request.app[ROOM].decoders.value(held.path, path)
    if not alone:
        writer = MultipartWriter(sending.boundary())
        head = {"Content-Type": accept.OCTETS, "Content-Length": str(len(value))}
        headers["Content-Type"] = writer.content_type(accept.OCTETS)
        return web.Response(body=writer.part_head(head) + value + writer.end(), headers=headers)
    headers |= {"Content-Type": accept.OCTETS, "Accept-Ranges": "bytes"}
    part = sending.range_of(request, etag, len(value))
    if part is None:
        return web.Response(body=value, headers=headers)
    headers["Content-Range"] = part.content_range
    return web.Response(status=206, body=value[part.first : part.first + part.length], headers=headers)


def url_of(base: str, held: Held) -> str:
    key = held.key
    return (
        f"{base}/studies/{key.study_instance_uid}/series/{key.series_instance_uid}"
        f"/instances/{key.sop_instance_uid}"
    )
