"""What an entry of the audit trail is, and which kinds there are. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class EventKind(StrEnum):
    """What happened."""

    STARTED = "started"
    TRANSITION = "transition"
    VERDICT = "verdict"
    INTENT = "intent"
    DECISION = "decision"
    DRAIN = "drain"
    ALARM = "alarm"
    STATE = "state"
    TROUBLE = "trouble"
    CONFIGURATION = "configuration"


# For the manual; tests/test_docs.py checks that each is in it.
KINDS: Final[Mapping[EventKind, str]] = {
    EventKind.STARTED: "the router began, with which mode and phase, and whether it could read its state",
    EventKind.TRANSITION: "a service changed its phase, by which edge of the table and why",
    EventKind.VERDICT: "an upstream's service became up, suspect or down, and which probe said so",
    EventKind.INTENT: "an operator changed the mode, or the time given with --for ended",
    EventKind.DECISION: "an operator decided what only a person may decide",
    EventKind.DRAIN: "a drained upstream became empty, or its grace ended with work left",
    EventKind.ALARM: "an upstream that should serve is down and nothing moves, and why",
    EventKind.STATE: "the routing state could not be written in time, or could be again",
    EventKind.TROUBLE: "the archive or the disk of state_dir wants a person, and for what; or it is over",
    EventKind.CONFIGURATION: "the configuration was read again: which keys are in force from now on",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One entry. `id` grows by one each; `time` is RFC 3339 in UTC."""

    id: int
    time: str
    kind: EventKind
    service: str | None
    from_: str | None
    to: str | None
    code: str
    reason: str
    actor: str | None

    def as_json(self) -> dict[str, Any]:
        """The entry as GET /api/events gives it."""
        return {
            "id": self.id,
            "time": self.time,
            "kind": str(self.kind),
            "service": self.service,
            "from": self.from_,
            "to": self.to,
            "code": self.code,
            "reason": self.reason,
            "actor": self.actor,
        }

    def line(self) -> bytes:
        return json.dumps(self.as_json(), ensure_ascii=False, separators=(",", ":")).encode()


def parse_event(line: bytes) -> Event | None:
    """Return the entry in one line of the trail, None when it is none: a crash can leave half a line."""
    try:
        row = json.loads(line)
        return Event(
            id=int(row["id"]),
            time=str(row["time"]),
            kind=EventKind(row["kind"]),
            service=_text(row["service"]),
            from_=_text(row["from"]),
            to=_text(row["to"]),
            code=str(row["code"]),
            reason=str(row["reason"]),
            actor=_text(row["actor"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
