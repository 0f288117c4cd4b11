"""What the replicator asks of a primary, whichever way: search, list, bring, send, show.

`web_way` and `dicom_way` are the two. A way does what it is told once and says what came of it; the worker
decides which way is open and when to try again. All verbs raise UpstreamError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, Protocol, TypeVar

from failover.clients.stored import Stored
from failover.model import InstanceKey
from failover.replication.archive_side import OwedObject
from failover.replication.reconcile import StudyOnPrimary

_T = TypeVar("_T")
# Objects of one C-GET, C-MOVE or C-STORE association: short enough that nobody waits for our slot.
BATCH: Final = 20
# UIDs in one list of a search: 64 characters each, in a URL of at most 2000.
UIDS_AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True)
class InstanceOnPrimary:
    key: InstanceKey
    sop_class_uid: str | None  # None: this primary does not say


@dataclass(frozen=True, slots=True)
class Brought:
    """One file fetched, and by which service: wado, get."""

    path: Path
    via: str
    sop_instance_uid: str


class Way(Protocol):
    """What the replicator needs of a primary."""

    name: str

    async def studies(self, first_day: date, last_day: date) -> list[StudyOnPrimary]:
        """Return the studies dated so, both days included."""

    async def named(self, study_instance_uids: Sequence[str]) -> list[StudyOnPrimary]:
        """Return those of these studies that the primary has."""

    async def instances(self, study_instance_uid: str) -> list[InstanceOnPrimary]:
        """Return every instance of a study."""

    def bring(self, wanted: Sequence[InstanceOnPrimary], folder: Path) -> AsyncIterator[Brought]:
        """Fetch `wanted` into `folder`. What comes by C-MOVE goes to the archive itself and is not yielded.

        Instances that the primary does not give are skipped: a later look misses them.
        """

    async def let_go(self) -> None:
        """End what is being brought at this moment, where leaving `bring` does not end it."""

    async def send(self, objects: Sequence[OwedObject]) -> dict[str, Stored]:
        """Send `objects`; return what was said of each, of what was never sent `NOT_SENT`.

        Missing in the answer: its fate is unknown. Raises UpstreamError only when nothing was sent.
        """

    async def shown(self, objects: Sequence[OwedObject]) -> set[str]:
        """Return which of `objects`, all of one study, it shows under that study and their patient ID."""


def parts(items: Sequence[_T], size: int) -> Iterable[Sequence[_T]]:
    """Return `items` in pieces of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
