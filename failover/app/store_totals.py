"""What the replicator's own stores say of the primary: totals come in, what is new goes to the checker.

Pure. The totals only grow while one replicator lives; smaller ones are those of another, counted from zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from failover.health.stores import REPLICATOR_IN_A_ROW
from failover.model import Service


@dataclass(frozen=True, slots=True)
class StoreTotals:
    """Objects sent by one service since the replicator began."""

    failed: int = 0
    accepted: int = 0
    proven: int = 0


@dataclass(frozen=True, slots=True)
class StoreSent:
    """One object that the replicator sent."""

    service: Service
    accepted: bool
    proven: bool


NOTHING: Final = StoreTotals()


def totals_of(reported: Mapping[str, Any]) -> dict[Service, StoreTotals]:
    """Read `stores` of the replicator's numbers. Raises KeyError, TypeError, ValueError."""
    return {
        Service(name): StoreTotals(int(each["failed"]), int(each["accepted"]), int(each["proven"]))
        for name, each in reported.items()
    }


def news(before: Mapping[Service, StoreTotals], now: Mapping[Service, StoreTotals]) -> Iterator[StoreSent]:
    """Return what happened between two reports, as far as it changes a judgement.

    The order within it is not known: failures are told first, so that one proof among them counts for it.
    """
    for service, total in now.items():
        known = before.get(service)
        if known is None:
            continue  # the first report since we began: how old it is, nobody knows
        if total.failed < known.failed or total.accepted < known.accepted or total.proven < known.proven:
            known = NOTHING  # another replicator
        for _ in range(min(total.failed - known.failed, REPLICATOR_IN_A_ROW)):
            yield StoreSent(service, accepted=False, proven=False)
        if total.accepted > known.accepted:
            yield StoreSent(service, accepted=True, proven=False)
        if total.proven > known.proven:
            yield StoreSent(service, accepted=True, proven=True)
