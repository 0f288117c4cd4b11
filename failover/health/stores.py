"""Judging `store`, which has no probe: from stores alone, those of callers and of the replicator. Pure.

Suspect: stores of two callers failed within 10 s and none succeeded, or three objects of the replicator in
a row. One accepted store of a caller ends a suspicion; `down`, and the replicator's row, end only with a
store that was accepted and proven: Orthanc says success on a full disk. One caller alone never makes it
suspect, whatever it sends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

WITHIN_S: Final = 10.0
CALLERS: Final = 2
REPLICATOR_IN_A_ROW: Final = 3


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """The failures that still count: of each caller its last one, and the replicator's run."""

    failures: tuple[tuple[str, float], ...] = ()  # (caller, when)
    replicator_failed: int = 0


def caller_stored(record: StoreRecord, caller: str, accepted: bool, now_s: float) -> StoreRecord:
    """Return the record after a store of `caller`. An accepted one wipes all failures."""
    if accepted:
        return StoreRecord()
    recent = tuple((who, at_s) for who, at_s in record.failures if who != caller and now_s - at_s <= WITHIN_S)
    # More callers than these say nothing new, and a flood of names must not fill the memory.
    return replace(record, failures=(*recent[-CALLERS:], (caller, now_s)))


def replicator_stored(record: StoreRecord, accepted: bool, proven: bool) -> StoreRecord:
    """Return the record after the replicator sent one object. A proven one wipes all failures."""
    if proven:
        return StoreRecord()
    return record if accepted else replace(record, replicator_failed=record.replicator_failed + 1)


def store_suspicion(record: StoreRecord, now_s: float) -> str | None:
    """Return why `store` is suspect, None when it is not."""
    callers = sum(now_s - at_s <= WITHIN_S for _, at_s in record.failures)
    if callers >= CALLERS:
        return f"stores of {callers} callers failed within {WITHIN_S:.0f} s and none succeeded"
    if record.replicator_failed >= REPLICATOR_IN_A_ROW:
        return f"{record.replicator_failed} objects of the replicator failed in a row"
    return None
