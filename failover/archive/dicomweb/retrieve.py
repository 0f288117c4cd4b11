"""WADO-RS (PS3.18 10.4): instances, metadata, frames, rendered, thumbnails, bulk data.

Which media type and transfer syntax is `accept`'s to decide, how bytes flow `sending`'s, how pixels become a
picture `rendering`'s.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final

import pydicom
from aiohttp import web
from pydicom.dataset import Dataset

from failover.archive import pixels
from failover.archive.codecs import Undecodable
from failover.archive.dicomweb import accept, sending
from failover.archive.dicomweb.asking import ROOM, accepted, base_url, is_unchanged, uid, warning
from failover.archive.index import Held
from failover.archive.pixels import NoPixels, NoSuchFrame
from failover.archive.rendering import MAX_VIEWPORT, View, Window
from failover.dicom.json_model import to_json
from failover.http.media_types import best
from failover.http.multipart import MultipartWriter

_FRAMES: Final = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")
_PATH: Final = re.compile(r"[0-9A-F]{8}(/[0-9]{1,6}/[0-9A-F]{8})*")
# Values above this stand behind a URI in metadata (PS3.18 F.2.7 leaves the size to us).
_INLINE_BYTES: Final = 1024
_MOST_FRAMES: Final = 10_000
_THUMBNAIL: Final = (128, 128)


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


def _began(request: web.Request) -> tuple[int, dict[str, str]]:
    if not _is_short(request):
        return 200, {}
    return 206, {"Warning": _warning(request, "The primary holds more instances of this study")}


async def instances(request: web.Request) -> web.StreamResponse:
    """A study, a series or one instance, as Part 10 files."""
    found = held_instances(request)
    multipart, plans = sending.plan(found, accept.instance_wishes(accepted(request)))
    status, headers = _began(request)
    response = web.StreamResponse(status=status, headers={**headers, "Vary": "Accept"})
    if multipart:
        base = base_url(request)
        await sending.send_multipart(request, response, plans, [_url(base, one.held) for one in plans])
        return response
    etag = f"{plans[0].held.digest.hex()[:32]}-{plans[0].transfer_syntax}"
    if is_unchanged(request, etag):
        return web.Response(status=304, headers={"ETag": f'"{etag}"'})
    response.headers["ETag"] = f'"{etag}"'
    await sending.send_single(request, response, plans[0])
    return response


async def metadata(request: web.Request) -> web.StreamResponse:
    """All attributes as DICOM JSON; large values stand behind a BulkDataURI."""
    found = held_instances(request)
    media_type = accept.json_type(accepted(request))
    status, headers = _began(request)
    base = base_url(request)
    response = web.StreamResponse(status=status, headers={**headers, "Content-Type": media_type})
    await response.prepare(request)
    if request.method != "HEAD":
        before = b"["
        for held in found:
            await response.write(before + await asyncio.to_thread(_metadata, held, _url(base, held)))
            before = b","
        await response.write(b"]")
    await response.write_eof()
    return response


def _metadata(held: Held, url: str) -> bytes:
    def bulk_uri(path: str, length: int) -> str | None:
        if path == "7FE00010":
            return f"{url}/frames"
        return f"{url}/bulkdata/{path}" if length > _INLINE_BYTES else None

    header = pixels.read_header(held.path)
    found = to_json(header, bulk_uri=bulk_uri)
    found["00083002"] = {"vr": "UI", "Value": [held.transfer_syntax_uid]}
    found["00081190"] = {"vr": "UR", "Value": [url]}
    return json.dumps(dict(sorted(found.items())), separators=(",", ":"), ensure_ascii=False).encode()


async def frames(request: web.Request) -> web.StreamResponse:
    """Frames of one instance, in the order in which they are asked for; without a list, all of them."""
    held = held_instances(request)[0]
    chosen = accept.choose_frame(accept.frame_wishes(accepted(request)), held.transfer_syntax_uid)
    if chosen is None:
        raise accept.NotAcceptable("frames are offered as application/octet-stream, or as they are stored")
    wish, part_type, decoded = chosen
    numbers = await _frame_numbers(request, held)
    if not wish.multipart and len(numbers) != 1:
        raise accept.NotAcceptable("several frames are sent as multipart/related alone")
    renderer = request.app[ROOM].renderer
    # The first is made before the head is sent, so that what cannot be decoded gets a proper status.
    first, _ = await renderer.frames(held.path, numbers[:1], decoded=decoded)
    if not wish.multipart:
        return web.Response(body=first[0], headers={"Content-Type": part_type, "Vary": "Accept"})
    writer = MultipartWriter(sending.boundary())
    head = {
        "Content-Type": writer.content_type(part_type.partition(";")[0]),
        "Vary": "Accept",
    }
    response = web.StreamResponse(headers=head)
    await response.prepare(request)
    if request.method != "HEAD":
        url = _url(base_url(request), held)
        for place, number in enumerate(numbers):
            if place:
                first, _ = await renderer.frames(held.path, [number], decoded=decoded)
            part = {"Content-Type": part_type, "Content-Location": f"{url}/frames/{number}"}
            await response.write(writer.part_head(part) + first[0])
        await response.write(writer.end())
    await response.write_eof()
    return response


async def _frame_numbers(request: web.Request, held: Held) -> list[int]:
    text = request.match_info.get("frames")
    if text is None:
        image = await asyncio.to_thread(pixels.open_image, held.path)
        return list(range(1, image.frames + 1))
    if not _FRAMES.fullmatch(text):
        raise web.HTTPBadRequest(text="frames must be numbers from 1, separated by commas")
    numbers = [int(number) for number in text.split(",")]
    if len(numbers) > _MOST_FRAMES or min(numbers) < 1:
        raise web.HTTPBadRequest(text=f"frames must be 1 to {_MOST_FRAMES} numbers from 1")
    return numbers


async def rendered(request: web.Request) -> web.Response:
    """One frame as a picture (PS3.18 8.3.5): `viewport`, `window`, `quality`."""
    found = held_instances(request)
    held = found[len(found) // 2]
    numbers = await _frame_numbers(request, held) if "frames" in request.match_info else [1]
    if len(numbers) != 1:
        raise web.HTTPBadRequest(text="one frame at a time can be rendered")
    return await _picture(request, held, numbers[0], _view(request, default_viewport=None))


async def thumbnail(request: web.Request) -> web.Response:
    """A small picture that stands for a study, a series or an instance: of the one in the middle."""
    found = held_instances(request)
    view = _view(request, default_viewport=_THUMBNAIL)
    for held in [*found[len(found) // 2 :], *found[: len(found) // 2]]:
        if held.pixel_offset is not None:
            return await _picture(request, held, 1, view)
    raise web.HTTPNotFound(text="nothing here has a picture")


async def _picture(request: web.Request, held: Held, number: int, view: View) -> web.Response:
    etag = f"{held.digest.hex()[:32]}-{number}-{hash(view) & 0xFFFFFFFF:x}"
    headers = {"Vary": "Accept", "ETag": f'W/"{etag}"', "Cache-Control": "private, max-age=60"}
    if is_unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    body = await request.app[ROOM].renderer.rendered(held.path, number, view)
    return web.Response(body=body, headers={**headers, "Content-Type": view.media_type})


def _view(request: web.Request, *, default_viewport: tuple[int, int] | None) -> View:
    query = request.query
    try:
        viewport = default_viewport
        if "viewport" in query:
            width, height = (int(part) for part in query["viewport"].split(",")[:2])
            viewport = width, height
            if not (1 <= width <= MAX_VIEWPORT and 1 <= height <= MAX_VIEWPORT):
                raise ValueError("viewport")
        window = None
        if "window" in query:
            centre, width_text, *function = query["window"].split(",")
            names = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
            window = Window(float(centre), float(width_text), names[(function or ["linear"])[0].lower()])
            if not (0 < window.width < 1e9 and abs(window.centre) < 1e9):
                raise ValueError("window")
        quality = int(query.get("quality", "90"))
        if not 1 <= quality <= 100:
            raise ValueError("quality")
    except (ValueError, KeyError):
        raise web.HTTPBadRequest(
            text="viewport=width,height; window=centre,width,linear|linear-exact|sigmoid; quality=1…100"
        ) from None
    return View(window, viewport, quality, accept.picture_type(accepted(request)))


async def bulk_data(request: web.Request) -> web.Response:
    """One large value, by the path that metadata gave."""
    held = held_instances(request)[0]
    path = request.match_info["path"]
    if not _PATH.fullmatch(path):
        raise web.HTTPBadRequest(text="the path is none that metadata gives")
    value = await asyncio.to_thread(_value, held, path)
    if value is None:
        raise web.HTTPNotFound(text="no such value")
    wanted = accepted(request)
    if best(wanted, (accept.OCTETS,)) is not None and not any(
        one.media.essence == accept.MULTIPART for one in wanted
    ):
        return web.Response(body=value, headers={"Content-Type": accept.OCTETS})
    writer = MultipartWriter(sending.boundary())
    body = writer.part_head({"Content-Type": accept.OCTETS}) + value + writer.end()
    return web.Response(body=body, headers={"Content-Type": writer.content_type(accept.OCTETS)})


def _value(held: Held, path: str) -> bytes | None:
    steps = path.split("/")
    item: Dataset = pydicom.dcmread(held.path, defer_size=_INLINE_BYTES)
    for tag, number in zip(steps[0:-1:2], steps[1::2], strict=True):
        sequence: Any = item.get(int(tag, 16))
        if sequence is None or sequence.VR != "SQ" or int(number) >= len(sequence.value):
            return None
        item = sequence.value[int(number)]
    element = item.get(int(steps[-1], 16))
    return bytes(element.value) if element is not None and isinstance(element.value, bytes) else None


def _url(base: str, held: Held) -> str:
    key = held.key
    return (
        f"{base}/studies/{key.study_instance_uid}/series/{key.series_instance_uid}"
        f"/instances/{key.sop_instance_uid}"
    )


UNANSWERABLE: Final = (NoPixels, NoSuchFrame, Undecodable)
