"""STOW-RS (PS3.18 10.5): each part of the body becomes an object, durable before it is named as stored.

Parts stream to their files; what one part lacks does not harm the others.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

from aiohttp import web
from pydicom.dataelem import DataElement
from pydicom.filereader import read_partial

from failover.aio import spawn
from failover.archive.dicomweb import composed
from failover.archive.dicomweb.asking import ROOM, base_url, uid
from failover.archive.dicomweb.collecting import METADATA, Holding, collected
from failover.archive.instances import Incoming, Stored
from failover.errors import (
    Conflict,
    DiskFull,
    LimitExceeded,
    MalformedMultipart,
    StorageError,
    UnreadableDataSet,
)
from failover.http.media_types import MediaType, parse_media_type
from failover.http.multipart import MultipartParser, PartBegan, PartBytes, PartEnded
from failover.model import Origin, parse_uid

_DICOM: Final = "application/dicom"
# PS3.18 I.2.2: Failure Reason.
_OUT_OF_RESOURCES: Final = 0xA700
_CANNOT_UNDERSTAND: Final = 0xC000
_DUPLICATE: Final = 0x0111
_PROCESSING_FAILURE: Final = 0x0110
_OTHER_STUDY: Final = 0xA900  # data set does not match: the path names another study
# Parts of one request that are synced at the same time: they share the disk's syncs.
_AT_ONCE: Final = 16
# What an object says of itself stands well before its pixels; in these first bytes it is looked for.
_LOOKED_AT_BYTES: Final = 65536
_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_STUDY_UID: Final = 0x0020000D
# `failover import` says so; what it brings is owed all the same, unless the primary has it.
_ORIGIN: Final = "X-Failover-Origin"
# The router's copy of what the primary acknowledged shows a word that the archive was told before.
_COPY: Final = "X-Failover-Copy"
_COPY_MESSAGE_ID: Final = 1


Failed = tuple[str, str, int]  # SOP class, SOP instance, reason


@dataclass
class _Outcome:
    """What became of the parts, in their order. Up to _AT_ONCE of them are made durable at the same time."""

    stored: list[Stored] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    _kept: list[asyncio.Task[Stored | Failed]] = field(default_factory=list)
    _free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def has_room(self) -> None:
        """Return when one more may be begun; `keep` must follow at once."""
        await self._free.acquire()

    def keep(self, work: Coroutine[Any, Any, Stored | Failed]) -> None:
        """Begin `work`, for which there is room."""
        task = spawn(work, name="store")
        task.add_done_callback(lambda _: self._free.release())
        self._kept.append(task)

    async def ended(self) -> None:
        """Wait for all that was begun. Raises what is no answer: a fault of ours."""
        for result in await asyncio.gather(*self._kept, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, Stored):
                self.stored.append(result)
            else:
                self.failed.append(result)

    @property
    def status(self) -> int:
        if not self.failed:
            return 200
        if self.stored:
            return 202
        return 507 if all(reason == _OUT_OF_RESOURCES for *_, reason in self.failed) else 409


async def store(request: web.Request) -> web.Response:
    """Answer one STOW request: 200, 202, 409, 507, or 400, 413 and 415 before anything is read."""
    media = _media_type(request)
    study = uid(request, "study")
    most = request.app[ROOM].max_store_bytes
    if (request.content_length or 0) > most:
        raise web.HTTPRequestEntityTooLarge(most, request.content_length or 0)
    outcome = _Outcome()
    try:
        if media.essence == _DICOM:
            await _single(request, outcome, study)
        elif media.parameters.get("type", _DICOM).lower() == METADATA:
            await _described(request, MultipartParser(media.parameters["boundary"]), outcome, study)
        else:
            await _parts(request, MultipartParser(media.parameters["boundary"]), outcome, study)
    finally:
        await outcome.ended()
    if not outcome.stored and not outcome.failed:
        raise web.HTTPBadRequest(text="the body holds no object")
    answer = json.dumps(_answer(outcome, base_url(request), study), separators=(",", ":"))
    # JSON is UTF-8, and dicomweb-client reads no type that has a charset behind it.
    headers = {"Content-Type": "application/dicom+json"}
    return web.Response(status=outcome.status, body=answer.encode(), headers=headers)


def _media_type(request: web.Request) -> MediaType:
    try:
        media = parse_media_type(request.headers.get("Content-Type", ""))
    except ValueError as error:
        raise web.HTTPUnsupportedMediaType(text=f"Content-Type: {error}") from None
    if media.essence == _DICOM:
        return media
    kind = media.parameters.get("type", _DICOM).lower()
    if media.essence != "multipart/related" or kind not in (_DICOM, METADATA):
        raise web.HTTPUnsupportedMediaType(
            text=f'multipart/related with type="{_DICOM}" or type="{METADATA}" is taken'
        )
    if "boundary" not in media.parameters:
        raise web.HTTPBadRequest(text="Content-Type names no boundary")
    return media


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises HTTPRequestEntityTooLarge at what is more than is taken."""
    left = most = request.app[ROOM].max_store_bytes
    async for piece in request.content.iter_any():
        left -= len(piece)
        if left < 0:
            raise web.HTTPRequestEntityTooLarge(most, most - left)
        yield piece


async def _single(request: web.Request, outcome: _Outcome, study: str | None) -> None:
    part = _Part(request, outcome, study)
    try:
        await part.begin()
        async for piece in _body(request):
            await part.write(piece)
        await part.end()
    finally:
        await part.give_up()


async def _parts(request: web.Request, parser: MultipartParser, outcome: _Outcome, study: str | None) -> None:
    part = _Part(request, outcome, study)
    try:
        async for piece in _body(request):
            for event in parser.receive_data(piece):
                if isinstance(event, PartBegan):
                    await part.begin()
                elif isinstance(event, PartBytes):
                    await part.write(event.content)
                elif isinstance(event, PartEnded):
                    await part.end()
        parser.receive_end()
    except (MalformedMultipart, LimitExceeded) as error:
        # What was stored before stays and is not named: the caller repeats, and it is known then.
        raise web.HTTPBadRequest(text=str(error)) from None
    finally:
        await part.give_up()


def _origin(request: web.Request) -> Origin:
    """Return how the objects came. Who says that it is the router's copy must know the word of the moment."""
    word = request.headers.get(_COPY)
    if word is not None:
        return request.app[ROOM].expected.origin(word, _COPY_MESSAGE_ID)
    imported = request.headers.get(_ORIGIN) == Origin.IMPORTED.value
    return Origin.IMPORTED if imported else Origin.CALLER


async def _described(
    request: web.Request, parser: MultipartParser, outcome: _Outcome, study: str | None
) -> None:
    """Take metadata and bulk data, and store the objects that they make."""
    base, held = str(request.url), Holding(request.app[ROOM])
    try:
        described, bulk = await collected(_body(request), parser, base, held)
        for metadata in described:
            made = await asyncio.to_thread(composed.compose, metadata, bulk, base)
            if isinstance(made, composed.Refused):
                outcome.failed.append((made.sop_class_uid, made.sop_instance_uid, _CANNOT_UNDERSTAND))
                continue
            part = _Part(request, outcome, study)
            try:
                await part.begin()
                await part.write(made)
                await part.end()
            finally:
                await part.give_up()
    finally:
        held.release()


class _Part:
    """The part that is being received. A failure is kept until its end, so that the rest is read past it."""

    def __init__(self, request: web.Request, outcome: _Outcome, study: str | None) -> None:
        self._instances = request.app[ROOM].instances
        self._caller = request.remote or ""
        self._origin = _origin(request)
        self._outcome = outcome
        self._study = study
        self._incoming: Incoming | None = None
        self._reason: int | None = None
        self._first = bytearray()

    async def begin(self) -> None:
        self._reason = None
        self._first.clear()
        try:
            self._incoming = self._instances.receive()
        except StorageError as error:
            self._reason = _reason(error)

    async def write(self, piece: bytes) -> None:
        if len(self._first) < _LOOKED_AT_BYTES:
            self._first += piece[: _LOOKED_AT_BYTES - len(self._first)]
        if self._incoming is None or self._reason is not None:
            return
        try:
            await self._incoming.write(piece)
        except StorageError as error:
            self._reason = _reason(error)

    async def end(self) -> None:
        await self._outcome.has_room()
        incoming, self._incoming = self._incoming, None
        self._outcome.keep(self._finished(incoming, self._reason, bytes(self._first)))

    async def _finished(self, incoming: Incoming | None, reason: int | None, first: bytes) -> Stored | Failed:
        """Store what is whole. `reason`: why it already failed."""
        try:
            if incoming is None or reason is not None:
                kept: Stored | int = reason or _PROCESSING_FAILURE
            else:
                kept = await self._keep(incoming, first)
        finally:
            if incoming is not None:
                await incoming.discard()
        if isinstance(kept, Stored):
            return kept
        said = await asyncio.to_thread(_says_of_itself, first)
        return said.sop_class_uid, said.sop_instance_uid, kept

    async def _keep(self, incoming: Incoming, first: bytes) -> Stored | int:
        """Store what is whole; return the failure reason where it cannot be."""
        if self._study is not None:
            said = await asyncio.to_thread(_says_of_itself, first)
            if said.study_instance_uid not in ("", self._study):
                return _OTHER_STUDY
        try:
            return await incoming.keep(self._origin, self._caller)
        except StorageError as error:
            return _reason(error)

    async def give_up(self) -> None:
        """The body ended within a part: leave nothing of it."""
        if self._incoming is not None:
            await self._incoming.discard()


@dataclass(frozen=True, slots=True)
class _Said:
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""


def _says_of_itself(first: bytes) -> _Said:
    """Return the UIDs in the first bytes of a Part 10 file, as far as they can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = read_partial(BytesIO(first), lambda tag, _vr, _length: tag > _STUDY_UID)
        return _Said(*(_uid_of(dataset.get(tag)) for tag in (_SOP_CLASS, _SOP_INSTANCE, _STUDY_UID)))
    except Exception:  # what pydicom raises for bytes that are no data set is not documented
        return _Said()


def _uid_of(element: DataElement | None) -> str:
    try:
        return parse_uid(str(element.value)) if element is not None else ""
    except ValueError:
        return ""


def _reason(error: StorageError) -> int:
    match error:
        case DiskFull():
            return _OUT_OF_RESOURCES
        case UnreadableDataSet():
            return _CANNOT_UNDERSTAND
        case Conflict():
            return _DUPLICATE
    return _PROCESSING_FAILURE


def _answer(outcome: _Outcome, base: str, study: str | None) -> dict[str, Any]:
    """Return the store response (PS3.18 table 10.5.3-1): every object of the body in one of the sequences."""
    answer: dict[str, Any] = {}
    if study is not None or len({one.key.study_instance_uid for one in outcome.stored}) == 1:
        named = study or outcome.stored[0].key.study_instance_uid
        answer["00081190"] = {"vr": "UR", "Value": [f"{base}/studies/{named}"]}
    if outcome.failed:
        answer["00081198"] = {"vr": "SQ", "Value": [_failed(*one) for one in outcome.failed]}
    if outcome.stored:
        answer["00081199"] = {"vr": "SQ", "Value": [_stored(one, base) for one in outcome.stored]}
    return answer


def _failed(sop_class: str, sop_instance: str, reason: int) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if sop_class:
        item["00081150"] = {"vr": "UI", "Value": [sop_class]}
    if sop_instance:
        item["00081155"] = {"vr": "UI", "Value": [sop_instance]}
    item["00081197"] = {"vr": "US", "Value": [reason]}
    return item


def _stored(stored: Stored, base: str) -> dict[str, Any]:
    key = stored.key
    url = (
        f"{base}/studies/{key.study_instance_uid}/series/{key.series_instance_uid}"
        f"/instances/{key.sop_instance_uid}"
    )
    return {
        "00081150": {"vr": "UI", "Value": [stored.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [key.sop_instance_uid]},
        "00081190": {"vr": "UR", "Value": [url]},
    }
