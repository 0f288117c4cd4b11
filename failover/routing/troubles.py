"""What wants a person though routing goes on: the archive's troubles, and a disk that takes no state. Pure.

The archive tells its own with the ledger's numbers. Each has a code, for the status and the audit trail, and
a sentence that stays the same as long as it lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from failover.routing.states import Numbers

STATE_NOT_WRITTEN: Final = "state_not_written"
CLOCK_DOUBTED: Final = "clock_doubted"  # as the archive names it


@dataclass(frozen=True, slots=True)
class Trouble:
    """Whose it is (router, archive), and what is the matter and what to do."""

    component: str
    sentence: str


def troubles_of(
    before: Mapping[str, Trouble], numbers: Numbers | None, disk_problem: str | None
) -> dict[str, Trouble]:
    """Return what is the matter now, by code. An archive that does not answer has what it had."""
    if numbers is None:
        found = {code: one for code, one in before.items() if one.component == "archive"}
    else:
        found = {code: Trouble("archive", sentence) for code, sentence in numbers.troubles.items()}
    if disk_problem is not None:
        found[STATE_NOT_WRITTEN] = Trouble(
            "router",
            f"state_dir cannot be written ({disk_problem}): state not persisted. Routing goes on, and all is"
            " written when the disk is willing; a restart before that begins with the state of before",
        )
    return found


def news(before: Mapping[str, Trouble], now: Mapping[str, Trouble]) -> list[tuple[str, str]]:
    """Return code and sentence of each event: what began, and what is over."""
    begun = [(code, one.sentence) for code, one in now.items() if code not in before]
    ended = [
        (f"{code}_over", f"{one.component}: it is over") for code, one in before.items() if code not in now
    ]
    return begun + ended
