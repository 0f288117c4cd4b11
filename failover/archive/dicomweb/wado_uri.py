"""WADO-URI (PS3.18 9): one instance, named in the query, as DICOM, as a picture or as a document.

What a picture is and how it is sent is `rendered`'s, whole objects `sending`'s. Parameters that only may be
understood (annotation, charset) are read over; those that would give less than was asked for are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from failover.archive.dicomweb import accept, rendered, retrieve, sending, views
from failover.archive.dicomweb.asking import ROOM, is_unchanged, warning
from failover.archive.dicomweb.from_disk import Streamed
from failover.archive.held import Held
from failover.archive.pixels import NoSuchFrame
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from failover.http.media_types import best
from failover.model import parse_uid

_UIDS: Final = ("studyUID", "seriesUID", "objectUID")
# Whoever asks for these must not get an object as if they had been heeded.
_NOT_DONE: Final = {
    "anonymize": "nothing is made anonymous here",
    "presentationUID": "presentation states are not applied here",
    "presentationSeriesUID": "presentation states are not applied here",
}


async def retrieve_instance(request: web.Request) -> web.StreamResponse:
    """Answer one request. 400: it is none; 404: not held; 406: not in this form."""
    query = request.query
    if query.get("requestType") != "WADO":
        raise web.HTTPBadRequest(text="requestType must be WADO")
    study, series, instance = (_uid(query, name) for name in _UIDS)
    for name, why in _NOT_DONE.items():
        if query.get(name):
            raise accept.NotAcceptable(why)
    index = request.app[ROOM].index
    held = index.instance(instance, study=study, series=series)
    if held is None:
        raise web.HTTPNotFound(text="not held by this archive", headers={"Warning": warning(index.window)})
    media_type = _media_type(request, held)
    if media_type == accept.DICOM:
        return await _as_dicom(request, held)
    if media_type in rendered.document_types(held):
        return await rendered.document(request, held, media_type)
    view = views.of_wado_uri(query, media_type)
    number = _frame_number(query)
    try:
        if media_type == accept.GIF:
            return await rendered.in_motion(request, held, None if number is None else [number], view)
        return await rendered.picture(request, held, number or 1, view)
    except NoSuchFrame as error:
        raise web.HTTPBadRequest(text=str(error)) from None  # PS3.18 9.5.2.1


def _uid(query: Mapping[str, str], name: str) -> str:
    try:
        return parse_uid(query.get(name, ""))
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} must be a UID") from None


def _media_type(request: web.Request, held: Held) -> str:
    """PS3.18 9.3: what contentType, else Accept, likes best; of `*/*` a picture. Raises NotAcceptable."""
    shown = rendered.document_types(held) or (accept.PICTURES if rendered.has_picture(held) else ())
    offers = (*shown, accept.DICOM)
    try:
        wanted = accept.read_accept(request.headers.getall("Accept", []), request.query.get("contentType"))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"contentType: {error}") from None
    chosen = best(wanted, offers)
    if chosen is None:
        raise accept.NotAcceptable(f"this object is offered as {', '.join(offers)}")
    return chosen


def _frame_number(query: Mapping[str, str]) -> int | None:
    text = query.get("frameNumber")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) < 10**9):
        raise web.HTTPBadRequest(text="frameNumber must be a number from 1")
    return int(text)


async def _as_dicom(request: web.Request, held: Held) -> web.StreamResponse:
    """PS3.18 9.4: in `transferSyntax`; without it Explicit VR Little Endian where that can be made."""
    named = request.query.get("transferSyntax")
    syntaxes: tuple[str | None, ...] = (EXPLICIT_LITTLE, None)
    if named is not None:
        syntaxes = (None if named == "*" else _uid(request.query, "transferSyntax"),)
    _, (planned,) = sending.plan([held], [accept.Wish(False, accept.DICOM, syntax) for syntax in syntaxes])
    etag = retrieve.instance_etag(planned)
    headers = {"Vary": "Accept", "ETag": f'"{etag}"'}
    if is_unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    return await sending.send_single(request, Streamed(headers=headers), planned, etag)
