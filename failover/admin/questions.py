"""What is asked for in the query of a list, read strictly. Pure.

What cannot be read raises BadRequest (400).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from failover.admin.requests import BadRequest

DEFAULT_LIMIT: Final = 100
LONGEST_PAGE: Final = 1000
# Two files are read for each.
LONGEST_QUARANTINE_PAGE: Final = 100
# PS3.5 9.1: a UID has at most 64 characters.
_UID: Final = re.compile(r"[0-9.]{1,64}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


class OwedState(StrEnum):
    """Where an object stands between the archive and the primary."""

    OWED = "owed"  # not yet sent
    SENT = "sent"  # sent, not yet proven
    REFUSED = "refused"  # the primary refused it for good, or the archive lost it before it was sent
    VANISHED = "vanished"  # the primary showed it once and does not now: an operator must decide
    DELETED = "deleted"  # deleted on the primary: hidden here
    PROVEN = "proven"  # was owed, and the primary has shown it


@dataclass(frozen=True, slots=True)
class OwedQuestion:
    """GET /api/owed. `state` None: all that is owed, sent or refused."""

    state: OwedState | None = None
    limit: int = DEFAULT_LIMIT
    after: str | None = None  # the SOP instance UID of the last one got


@dataclass(frozen=True, slots=True)
class SplitQuestion:
    """GET /api/split."""

    limit: int = DEFAULT_LIMIT
    after: str | None = None  # the study instance UID of the last one got


@dataclass(frozen=True, slots=True)
class QuarantineQuestion:
    """GET /api/quarantine."""

    limit: int = DEFAULT_LIMIT
    after: int | None = None  # the id of the last one got


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """GET /api/archive/plan."""

    limit: int = DEFAULT_LIMIT


def parse_plan_question(query: Mapping[str, str]) -> PlanQuestion:
    """Return what GET /api/archive/plan asks for. Raises BadRequest."""
    _only(query, "limit")
    return PlanQuestion(_limit(query, LONGEST_PAGE))


def parse_owed_question(query: Mapping[str, str]) -> OwedQuestion:
    """Return what GET /api/owed asks for. Raises BadRequest."""
    _only(query, "state", "limit", "after")
    word = query.get("state")
    if word is not None and word not in list(OwedState):
        raise BadRequest(f"state: must be {', '.join(OwedState)}")
    after = _after(query, "SOP instance UID")
    return OwedQuestion(OwedState(word) if word is not None else None, _limit(query, LONGEST_PAGE), after)


def parse_split_question(query: Mapping[str, str]) -> SplitQuestion:
    """Return what GET /api/split asks for. Raises BadRequest."""
    _only(query, "limit", "after")
    return SplitQuestion(_limit(query, LONGEST_PAGE), _after(query, "study instance UID"))


def parse_quarantine_question(query: Mapping[str, str]) -> QuarantineQuestion:
    """Return what GET /api/quarantine asks for. Raises BadRequest."""
    _only(query, "limit", "after")
    after = query.get("after")
    if after is not None and not _NUMBER.fullmatch(after):
        raise BadRequest("after: must be the id of the last one got")
    return QuarantineQuestion(_limit(query, LONGEST_QUARANTINE_PAGE), None if after is None else int(after))


def _after(query: Mapping[str, str], what: str) -> str | None:
    after = query.get("after")
    if after is not None and not _UID.fullmatch(after):
        raise BadRequest(f"after: must be the {what} of the last one got")
    return after


def _only(query: Mapping[str, str], *known: str) -> None:
    for key in query:
        if key not in known:
            raise BadRequest(f"{key[:40]}: unknown; known are {', '.join(known)}")


def _limit(query: Mapping[str, str], longest: int) -> int:
    text = query.get("limit")
    if text is None:
        return DEFAULT_LIMIT
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= longest:
        raise BadRequest(f"limit: must be 1 to {longest}")
    return int(text)
