"""For people (PS3.18 8.7.4, 10.4): pictures, one, several, or in motion; reports as HTML or text; PDF.

How a picture is asked for says `views`, how it is made `rendering`, how a report is written `reports`; whole
objects and frames are `retrieve`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

from aiohttp import web

from failover.archive.codecs import can_decode
from failover.archive.dicomweb import accept, retrieve, sending, views
from failover.archive.dicomweb.asking import ROOM, accepted, base_url, is_unchanged
from failover.archive.held import Held
from failover.archive.pixels import NoPixels
from failover.archive.rendering import View
from failover.archive.reports import HTML, PLAIN
from failover.dicom.syntaxes import DEFLATED
from failover.http.media_types import best
from failover.http.multipart import MultipartWriter

_ENCAPSULATED_PDF: Final = "1.2.840.10008.5.1.4.1.1.104.1"
_REPORTS: Final = "1.2.840.10008.5.1.4.1.1.88."
_DOCUMENT: Final = "00420011"
_THUMBNAIL: Final = (128, 128)
_CACHED: Final = {"Vary": "Accept", "Cache-Control": "private, max-age=60"}


async def rendered(request: web.Request) -> web.StreamResponse:
    """Pictures of what the path names (PS3.18 8.3.5): `viewport`, `window`, `quality`.

    As multipart/related each frame of it. Else one: of several instances the one in the middle that has
    pixels, of several frames the first; as GIF the frames of that instance in motion.
    """
    found, wanted = retrieve.held_instances(request), accepted(request)
    of_frames = "frames" in request.match_info
    if "instance" in request.match_info and not of_frames and (offers := document_types(found[0])):
        chosen = best(wanted, offers)
        if chosen is None:
            raise accept.NotAcceptable(f"this document is offered as {', '.join(offers)}")
        return await document(request, found[0], chosen)
    numbers = await retrieve.frame_numbers(request, found[0]) if of_frames else None
    multipart, media_type = accept.rendered_wish(wanted, several=numbers is not None and len(numbers) > 1)
    view = views.of_rendered(request.query, media_type)
    if multipart:
        return await _several(request, found, numbers, view)
    for held in _from_the_middle(found):
        with contextlib.suppress(NoPixels):
            if media_type == accept.GIF:
                return await in_motion(request, held, numbers, view)
            return await picture(request, held, numbers[0] if numbers else 1, view)
    raise web.HTTPNotFound(text="nothing here has a picture")


async def thumbnail(request: web.Request) -> web.Response:
    """A small picture that stands for a study, a series, an instance or a frame."""
    found = retrieve.held_instances(request)
    numbers = await retrieve.frame_numbers(request, found[0]) if "frames" in request.match_info else [1]
    if len(numbers) != 1:
        raise web.HTTPBadRequest(text="a thumbnail is of one frame")
    view = views.of_rendered(request.query, accept.picture_type(accepted(request)), _THUMBNAIL)
    for held in _from_the_middle(found):
        with contextlib.suppress(NoPixels):
            return await picture(request, held, numbers[0], view)
    raise web.HTTPNotFound(text="nothing here has a picture")


def has_picture(held: Held) -> bool:
    """Whether it may have one: a deflated object does not tell where its pixels are, and may have some."""
    return held.pixel_offset is not None or held.transfer_syntax_uid == DEFLATED


async def picture(request: web.Request, held: Held, number: int, view: View) -> web.Response:
    """One frame. Raises NoPixels, NoSuchFrame, NoSuchRegion, Undecodable."""
    make = partial(request.app[ROOM].decoders.picture, held.path, number, view)
    return await _unless_known(request, held, [number], view, make)


async def in_motion(request: web.Request, held: Held, numbers: list[int] | None, view: View) -> web.Response:
    """Frames of one instance as a GIF that plays; None: all of them. Raises as `picture`."""
    numbers = numbers or list(await retrieve.all_frames(request, held))
    if len(numbers) == 1:
        return await picture(request, held, numbers[0], view)
    make = partial(request.app[ROOM].decoders.animation, held.path, numbers, view)
    return await _unless_known(request, held, numbers, view, make)


async def _unless_known(
    request: web.Request, held: Held, numbers: list[int], view: View, make: Callable[[], Awaitable[bytes]]
) -> web.Response:
    """What `make` makes of these frames; 304 where the caller has it."""
    etag = retrieve.etag_of([held], f"picture {numbers} {view}")
    headers = {**_CACHED, "ETag": f'W/"{etag}"'}
    if is_unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=await make(), headers={**headers, "Content-Type": view.media_type})


def document_types(held: Held) -> tuple[str, ...]:
    """Return the media types of a PDF or report, the usual one first (PS3.18 table 8.7.4-1); else ()."""
    if held.sop_class_uid == _ENCAPSULATED_PDF:
        return (accept.PDF,)
    return (HTML, PLAIN) if held.sop_class_uid.startswith(_REPORTS) else ()


async def document(request: web.Request, held: Held, media_type: str) -> web.Response:
    """One of `document_types`. Raises NoPixels: there is nothing in it."""
    headers = {"Vary": "Accept", "Content-Type": media_type, "Content-Disposition": "inline"}
    decoders = request.app[ROOM].decoders
    if media_type != accept.PDF:
        headers["Content-Type"] += "; charset=utf-8"
        return web.Response(body=await decoders.report(held.path, media_type), headers=headers)
    value = await decoders.value(held.path, _DOCUMENT)
    # PS3.5 6.2: a value of odd length is padded with a zero byte; some pad more, and no PDF ends with one.
    return web.Response(body=value.rstrip(b"\0"), headers=headers)


async def _several(
    request: web.Request, found: list[Held], numbers: list[int] | None, view: View
) -> web.StreamResponse:
    """Each frame of each instance, a part each; 206 where there is one that cannot be decoded here."""
    shown = [held for held in found if has_picture(held) and can_decode(held.transfer_syntax_uid)]
    frames = [
        (held, number) for held in shown for number in numbers or await retrieve.all_frames(request, held)
    ]
    if len(frames) > retrieve.MOST_FRAMES:
        raise web.HTTPBadRequest(text=retrieve.TOO_MANY)
    left_out = sum(has_picture(held) for held in found) - len(shown)
    status, headers = retrieve.began(request, *_missing(left_out))
    writer = MultipartWriter(sending.boundary())
    headers |= {"Vary": "Accept", "Content-Type": writer.content_type(view.media_type)}
    response = web.StreamResponse(status=status, headers=headers)
    base = base_url(request)
    for held, number in frames:
        try:
            # The first is made before the head is sent, so that what cannot be shown gets a proper status.
            body = await request.app[ROOM].decoders.picture(held.path, number, view)
        except NoPixels:
            continue  # deflated, and without pixels
        if not response.prepared:
            await response.prepare(request)
        if request.method == "HEAD":
            break
        location = f"{retrieve.url_of(base, held)}/frames/{number}/rendered"
        head = {
            "Content-Type": view.media_type,
            "Content-Length": str(len(body)),
            "Content-Location": location,
        }
        await response.write(writer.part_head(head) + body)
    if not response.prepared:
        raise web.HTTPNotFound(text="nothing here has a picture")
    if request.method != "HEAD":
        await response.write(writer.end())
    await response.write_eof()
    return response


def _missing(left_out: int) -> list[str]:
    return [f"{left_out} objects cannot be shown as pictures here"] if left_out else []


def _from_the_middle(found: list[Held]) -> Iterator[Held]:
    middle = len(found) // 2
    return (held for held in [*found[middle:], *found[:middle]] if has_picture(held))
