"""Could a search match what lies outside the window that the last comparison covered (DESIGN 4.2)? Pure.

"Nothing found" must never be said where "not here" is meant. When in doubt it could.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Final

from failover.archive.index import Index
from failover.archive.queries import Level, Query
from failover.archive.window import Window
from failover.dicom.query_keys import AnyOf, Range, matches

_STUDY_DATE: Final = 0x00080020
_STUDY_UID: Final = 0x0020000D
_STUDY_LEVELS: Final = (Level.PATIENT, Level.STUDY)
# Keys of a study that depend on all of its objects: modalities, SOP classes, counts in study.
_OF_PARTS: Final = frozenset((0x00080061, 0x00080062, 0x00201206, 0x00201208))


def may_have_missed(query: Query, before: Window, index: Index) -> bool:
    """Return whether `query`, which has just matched nothing here, could match on the primary.

    `before`: the window when the search began. By that of now as well: a comparison that ended meanwhile
    widens it over what the search did not see, and what went for space meanwhile shortens it.
    """
    return could_match_outside(query, before.meet(index.window), index)


def could_match_outside(query: Query, window: Window, index: Index) -> bool:
    """Return whether `query`, which matched nothing here, could match on the primary."""
    if window.complete:
        return False
    study = query.keys.get(_STUDY_UID)
    if isinstance(study, AnyOf) and _are_whole(study.values, window, index):
        return False
    if window.first_day is None or not _is_within(query, window.first_day):
        return True
    if index.set_aside([uid for uid, day in index.with_hidden().items() if _has_day(query, day)]):
        return True
    # A day that is covered may have a study of which we hold a part: what lies in it is not all here.
    return bool(window.short) and (query.level not in _STUDY_LEVELS or not _OF_PARTS.isdisjoint(query.keys))


def _is_within(query: Query, first_day: date) -> bool:
    wanted, first = query.keys.get(_STUDY_DATE), first_day.strftime("%Y%m%d")
    if isinstance(wanted, Range):
        return wanted.low is not None and wanted.low[:8] >= first
    return isinstance(wanted, AnyOf) and all(value[:8] >= first for value in wanted.values)


def _has_day(query: Query, day: str) -> bool:
    wanted = query.keys.get(_STUDY_DATE)
    return wanted is None or matches(wanted, "DA", [day])


def _are_whole(studies: Collection[str], window: Window, index: Index) -> bool:
    if any(uid in window.short or index.study_json(uid) is None for uid in studies):
        return False
    return not index.set_aside(studies)
