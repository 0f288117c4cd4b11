"""QIDO-RS (PS3.18 10.6): a search request to a question of the index, and its matches to JSON.

What keys mean is decided in `dicom.query_keys`; whether a search could have missed something, in `outside`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from aiohttp import web
from pydicom.datadict import tag_for_keyword
from yarl import URL

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
from failover.archive.window import Window
from failover.dicom.query_keys import KeyUnreadable

# More matches than this are given page by page: an answer must fit our memory and the caller's.
MAX_MATCHES: Final = {Level.STUDY: 5_000, Level.SERIES: 10_000, Level.IMAGE: 50_000}
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_COMMA_LISTS: Final = frozenset({"UI", "CS"})  # in the others a comma is a character
_STUDY_UID: Final = 0x0020000D
_SERIES_UID: Final = 0x0020000E
_LONGEST_KEPT: Final = 1024  # a list of ten thousand UIDs is not kept
_NO_UID: Final = "-"
_OPTIONS: Final = frozenset({"limit", "offset", "includefield", "fuzzymatching", "accept", "charset"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A search as it was asked for."""

    query: Query
    includes: frozenset[int]  # tags of includefield that the index may hold
    includes_all: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A search as it is put to the index: `query` asks for one match more than is `wanted`."""

    query: Query
    wanted: int
    is_cut_by_us: bool  # `wanted` is not what the caller's limit says
    with_levels_above: bool
    accept: str | None  # the parameter of that name


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


def prepared(level: Level, parameters: str, path_keys: tuple[tuple[int, str], ...]) -> Prepared:
    """Return the search that the query part of a URL asks for, undecoded. Raises HTTPBadRequest."""
    return (_kept if len(parameters) <= _LONGEST_KEPT else _prepared)(level, parameters, path_keys)


def _prepared(level: Level, parameters: str, path_keys: tuple[tuple[int, str], ...]) -> Prepared:
    pairs = [*URL.build(path="/", query_string=parameters, encoded=True).query.items()]
    asked = read_search(level, pairs, dict(path_keys))
    limit, most = asked.query.limit, MAX_MATCHES[level]
    wanted = most if limit is None else min(limit, most)
    with_sop_classes = asked.includes_all or SOP_CLASSES_IN_STUDY in asked.includes
    return Prepared(
        replace(asked.query, limit=wanted + 1, with_sop_classes=with_sop_classes),
        wanted,
        is_cut_by_us=limit != wanted,
        with_levels_above=_needs_levels_above(asked, len(path_keys)),
        accept=next((value for name, value in pairs if name == "accept"), None),
    )


_kept = lru_cache(512)(_prepared)  # work lists ask the same every half minute


async def search(request: web.Request, level: Level) -> web.Response:
    """Answer one search: 200, 204 without matches, 400, 406, 503 where it could have matched elsewhere."""
    room = request.app[ROOM]
    path_keys: list[tuple[int, str]] = []
    if (study := uid(request, "study")) is not None:
        path_keys.append((_STUDY_UID, study))
    if (series := uid(request, "series")) is not None:
        path_keys.append((_SERIES_UID, series))
    media_type = accept.json_type(accepted(request))
    asked = prepared(level, request.rel_url.raw_query_string, tuple(path_keys))
    window = room.index.window
    if asked.wanted == 0:
        return web.Response(status=204, headers={"Warning": warning(window)})
    templates = await _templates(room.index, asked)
    if not templates:
        is_guarded = room.fails_outside_window and is_via_router(request) and asked.query.offset == 0
        if is_guarded and may_have_missed(asked.query, window, room.index):
            return unavailable("no match here, and the archive does not hold all that was asked for", window)
        return web.Response(status=204, headers=_headers(asked, window, templates))
    headers, etag, body = answer(asked, window, templates, base_url(request))
    if is_unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers | {"Content-Type": media_type})


def answer(
    asked: Prepared, window: Window, templates: list[bytes], base: str
) -> tuple[dict[str, str], str, bytes]:
    """Return headers, entity tag and body of an answer with matches."""
    headers = _headers(asked, window, templates)
    body = finished(b"[%b]" % b",".join(templates[: asked.wanted]), base)
    etag = hashlib.sha256(body).hexdigest()[:32]
    headers["ETag"] = f'W/"{etag}"'
    return headers, etag, body


def _headers(asked: Prepared, window: Window, templates: list[bytes]) -> dict[str, str]:
    notes = _notes(asked.query, more=len(templates) > asked.wanted and asked.is_cut_by_us)
    return {"Warning": warning(window, *notes), "Vary": "Accept", "Cache-Control": "no-cache"}


async def _templates(index: Index, asked: Prepared) -> list[bytes]:
    query = asked.query
    if query.level is Level.STUDY:
        return await index.templates(query)
    if query.level is Level.IMAGE and (query.limit or 0) > 1000:
        matches = await asyncio.get_running_loop().run_in_executor(None, index.search_now, query)
    else:
        matches = await index.search(query)
    return [match.whole_template() if asked.with_levels_above else match.template for match in matches]


def _needs_levels_above(asked: Asked, named: int) -> bool:
    """PS3.18 10.6.3.3: levels above are given where the path does not name them, or on request.

    `named`: how many the path names, none, the study, or the series too.
    """
    level = asked.query.level
    if asked.includes_all or (level is Level.SERIES and named < 1) or (level is Level.IMAGE and named < 2):
        return True
    levels = (level_of(tag) for tag in asked.includes)
    return any(own is not None and own < level for own in levels)


def _notes(query: Query, *, more: bool) -> list[str]:
    notes: list[str] = []
    if more:
        notes.append("There are more matches: ask for them with offset")
    if query.unsupported:
        tags = ", ".join(f"{tag:08X}" for tag in sorted(query.unsupported))
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
