"""QIDO-RS (PS3.18 10.6): a search request to a question of the index, and its matches to JSON.

What keys mean is decided in `dicom.query_keys`; whether a search could have missed something, in `outside`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web
from pydicom.datadict import tag_for_keyword

from failover.archive.dicomweb import accept
from failover.archive.dicomweb.asking import (
    ROOM,
    accepted,
    base_url,
    is_unchanged,
    is_via_router,
    uid,
    unavailable,
    warning,
)
from failover.archive.index import Index
from failover.archive.matches import finished
from failover.archive.outside import may_have_missed
from failover.archive.queries import (
    SOP_CLASSES_IN_STUDY,
    Level,
    Query,
    level_of,
    make_query,
    vr_of,
)
from failover.dicom.query_keys import KeyUnreadable

# More matches than this are given page by page: an answer must fit our memory and the caller's.
MAX_MATCHES: Final = {Level.STUDY: 5_000, Level.SERIES: 10_000, Level.IMAGE: 50_000}
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_COMMA_LISTS: Final = frozenset({"UI", "CS"})  # in the others a comma is a character
_STUDY_UID: Final = 0x0020000D
_SERIES_UID: Final = 0x0020000E
_NO_UID: Final = "-"
_OPTIONS: Final = frozenset({"limit", "offset", "includefield", "fuzzymatching", "accept", "charset"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A search as it was asked for."""

    query: Query
    includes: frozenset[int]  # tags of includefield that the index may hold
    includes_all: bool


def read_search(level: Level, parameters: Iterable[tuple[str, str]], path_keys: Mapping[int, str]) -> Asked:
    """Return the question that the parameters ask. Raises HTTPBadRequest with a sentence."""
    keys: dict[int, str] = {}
    includes: set[int] = set()
    limit: int | None = None
    offset, fuzzy, includes_all = 0, False, False
    for name, value in parameters:
        option = name.lower()
        if option == "limit":
            limit = _whole(name, value)
        elif option == "offset":
            offset = _whole(name, value)
        elif option == "fuzzymatching":
            fuzzy = _truth(value)
        elif option == "includefield":
            includes_all |= "all" in value.lower().split(",")
            includes |= {_tag(field) for field in value.split(",") if field and field.lower() != "all"}
        elif option not in _OPTIONS:
            tag = _tag(name)
            if vr_of(tag) in _COMMA_LISTS:
                value = value.replace(",", "\\")
            keys[tag] = f"{keys[tag]}\\{value}" if keys.get(tag) else value
    for tag, value in path_keys.items():
        asked_too = keys.get(tag, "").strip()
        is_other = asked_too not in ("", "*") and value not in asked_too.split("\\")
        keys[tag] = _NO_UID if is_other else value  # nothing is of two studies
    try:
        query = make_query(level, keys, limit=limit, offset=offset, fuzzy=fuzzy)
    except KeyUnreadable as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    return Asked(query, frozenset(includes), includes_all)


async def search(request: web.Request, level: Level) -> web.Response:
    """Answer one search: 200, 204 without matches, 400, 406, 503 where it could have matched elsewhere."""
    room = request.app[ROOM]
    media_type = accept.json_type(accepted(request))
    path_keys: dict[int, str] = {}
    if (study := uid(request, "study")) is not None:
        path_keys[_STUDY_UID] = study
    if (series := uid(request, "series")) is not None:
        path_keys[_SERIES_UID] = series
    asked = read_search(level, request.query.items(), path_keys)
    most = MAX_MATCHES[level]
    wanted = most if asked.query.limit is None else min(asked.query.limit, most)
    window = room.index.window
    if wanted == 0:
        return web.Response(status=204, headers={"Warning": warning(window)})
    with_sop_classes = asked.includes_all or SOP_CLASSES_IN_STUDY in asked.includes
    query = replace(asked.query, limit=wanted + 1, with_sop_classes=with_sop_classes)
    templates = await _templates(room.index, query, _needs_levels_above(asked, path_keys))
    notes = _notes(asked, more=len(templates) > wanted and asked.query.limit != wanted)
    del templates[wanted:]
    window = window.meet(room.index.window)  # what went meanwhile the search may not have seen
    headers = {"Warning": warning(window, *notes), "Vary": "Accept", "Cache-Control": "no-cache"}
    if not templates:
        is_guarded = room.fails_outside_window and is_via_router(request) and asked.query.offset == 0
        if is_guarded and may_have_missed(query, window, room.index):
            return unavailable("no match here, and the archive does not hold all that was asked for", window)
        return web.Response(status=204, headers=headers)
    body = finished(b"[%b]" % b",".join(templates), base_url(request))
    etag = hashlib.blake2b(body, digest_size=16).hexdigest()
    headers["ETag"] = f'W/"{etag}"'
    if is_unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers | {"Content-Type": media_type})


async def _templates(index: Index, query: Query, with_levels_above: bool) -> list[bytes]:
    if query.level is Level.STUDY:
        return await index.templates(query)
    if query.level is Level.IMAGE and (query.limit or 0) > 1000:
        matches = await asyncio.get_running_loop().run_in_executor(None, index.search_now, query)
    else:
        matches = await index.search(query)
    return [match.whole_template() if with_levels_above else match.template for match in matches]


def _needs_levels_above(asked: Asked, path_keys: Mapping[int, str]) -> bool:
    """PS3.18 10.6.3.3: levels above are given where the path does not name them, or on request."""
    level = asked.query.level
    named = len(path_keys)  # 0: none, 1: the study, 2: the series too
    if asked.includes_all or (level is Level.SERIES and named < 1) or (level is Level.IMAGE and named < 2):
        return True
    levels = (level_of(tag) for tag in asked.includes)
    return any(own is not None and own < level for own in levels)


def _notes(asked: Asked, *, more: bool) -> list[str]:
    notes: list[str] = []
    if more:
        notes.append("There are more matches: ask for them with offset")
    if asked.query.unsupported:
        tags = ", ".join(f"{tag:08X}" for tag in sorted(asked.query.unsupported))
        notes.append(f"These keys are not searched here and were left out: {tags}")
    return notes


def _tag(name: str) -> int:
    # A path into a sequence is known by its first attribute: such keys are not searched here, and named.
    own = name.partition(".")[0]
    if _TAG.fullmatch(own):
        return int(own, 16)
    tag = tag_for_keyword(own)
    if tag is None:
        raise web.HTTPBadRequest(text="a parameter is neither an attribute nor known to this service")
    return tag


def _whole(name: str, value: str) -> int:
    if not _WHOLE.fullmatch(value):
        raise web.HTTPBadRequest(text=f"{name.lower()} must be a whole number, 0 or more")
    return int(value)


def _truth(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise web.HTTPBadRequest(text="fuzzymatching must be true or false")
    return value.lower() == "true"
