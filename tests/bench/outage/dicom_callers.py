"""Twelve new associations a second with one operation each, and two long ones: 100 stores, 50 searches.

Each answer is judged as a modality or workstation would: accepted, answered with success, all matches there,
the association still standing. What a caller finds broken it opens anew, as they do, and goes on.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom import Dataset

from failover.aio import spawn
from failover.clock import SystemClock
from failover.dicom.data_sets import encoded
from failover.dicom.dimse import Category, category, echo_rq, find_rq, store_rq
from failover.dicom.exchange import Association
from failover.dicom.negotiation import VERIFICATION, propose
from failover.dicom.part10 import read_head
from failover.dicom.requestor import open_association
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from failover.errors import AssociationEnded, UpstreamError
from failover.model import Address, AeTitle, DicomPeer
from tests.bench.outage.content import ROOT, SMALL_STUDIES, TEMPLATE_UID, new_object, part10
from tests.bench.outage.dicom_primary import SLOW_PATIENT
from tests.bench.outage.stage import AE_TITLE

RATE: Final = 12
TIMEOUT_S: Final = 30.0
CT: Final = "1.2.840.10008.5.1.4.1.1.2"
STUDY_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
LONG_STORES, LONG_FINDS = 100, 50
_STORE_EVERY_S, _FIND_EVERY_S = 0.2, 0.4
_CONTEXTS: Final = propose([VERIFICATION, STUDY_FIND, CT], [EXPLICIT_LITTLE])
_ID: Final = {context.abstract_syntax: context.context_id for context in _CONTEXTS}
_numbers = itertools.count(1)
_clock = SystemClock()


@dataclass
class Tally:
    """What callers saw in one run; kinds: echo, find, store, long find, long store, kind (the row's own)."""

    asked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    aborted: int = 0
    """Associations that ended before their requestor released them."""
    slowest_s: dict[str, float] = field(default_factory=dict)
    stored: dict[str, tuple[float, float]] = field(default_factory=dict)
    """SOP instance UIDs that were acknowledged: when each was sent, and when that was (monotonic)."""
    failures: list[tuple[float, str]] = field(default_factory=list)
    """When each that failed was due (monotonic), and its kind; of an association that was lost, when."""

    def add(self, kind: str, took_s: float, fault: str | None) -> None:
        self.asked[kind] += 1
        self.slowest_s[kind] = max(took_s, self.slowest_s.get(kind, 0.0))
        if fault is not None:
            self.failed[kind] += 1
            self.reasons[f"{kind}: {fault}"] += 1
            self.failures.append((_clock.monotonic() - took_s, kind))

    def begin(self) -> None:
        """The fault begins: how slow the first operations of a cold system were does not count."""
        self.slowest_s.clear()

    def lost_association(self) -> None:
        self.aborted += 1
        self.failures.append((_clock.monotonic(), "association"))


class Wrong(Exception):
    """An answer that is not what was asked for."""


class Instances:
    """New objects of 520 KB, each a study of its own, without end."""

    def __init__(self) -> None:
        file = part10(TEMPLATE_UID, TEMPLATE_UID, TEMPLATE_UID, side=512)
        self._template = file[read_head(file).data_set_offset :]

    def next(self) -> tuple[str, bytes]:
        """Return (SOP instance UID, data set)."""
        return new_object(self._template, next(_numbers))


def _find(**keys: str) -> bytes:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = ""
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return encoded(identifier, EXPLICIT_LITTLE)


_ONE: Final = _find(StudyInstanceUID=f"{ROOT}.1003")
_SMALL: Final = _find(PatientID="B4.1*")
_SLOW: Final = _find(PatientID=SLOW_PATIENT)

Operation = Callable[[Association, int], Awaitable[None]]


async def _echo(association: Association, number: int) -> None:
    await association.send(_ID[VERIFICATION], echo_rq(number))
    await final(association)


def _found(identifier: bytes, wanted: int) -> Operation:
    async def operation(association: Association, number: int) -> None:
        await association.send(_ID[STUDY_FIND], find_rq(number, STUDY_FIND), identifier)
        matches = await final(association)
        if matches != wanted:
            raise Wrong(f"{matches} matches of {wanted}")

    return operation


async def final(association: Association) -> int:
    """Return how many pending responses came before success."""
    pending = 0
    while (message := await association.receive()) is not None:
        kind = category(message.command.status)
        if kind is Category.PENDING:
            pending += 1
        elif kind is Category.SUCCESS:
            return pending
        else:
            raise Wrong(f"status {message.command.status:#06x}")
    raise Wrong("released by the acceptor")


class Callers:
    """Ask until told to end; then wait for what is under way."""

    def __init__(self, port: int, instances: Instances, *, slow_finds: bool, malformed: bool) -> None:
        self.tally = Tally()
        self._peer = DicomPeer(Address("127.0.0.1", port), AeTitle(AE_TITLE))
        self._instances = instances
        self._slow_finds, self._malformed = slow_finds, malformed
        self._under_way: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def go_on(self) -> None:
        groups = [self._steadily(1 / RATE, self._new_ones()), self._long_stores(), self._long_finds()]
        if self._slow_finds:
            groups.append(self._steadily(2.0, itertools.repeat(("kind", "WORKSTATION", _found(_SLOW, 0)))))
        if self._malformed:
            groups.append(self._steadily(0.1, itertools.repeat(("kind", "BROKEN", self._broken_store))))
        await asyncio.gather(*groups)
        if self._under_way:
            await asyncio.wait(self._under_way)

    def end(self) -> None:
        self._ended.set()

    # -- many short ones ----------------------------------------------------------------------------

    def _new_ones(self) -> Iterator[tuple[str, str, Operation]]:
        while True:
            yield "echo", "MONITOR", _echo
            yield "find", "WORKSTATION", _found(_ONE, 1)
            yield "store", f"CT{next(_numbers) % 4}", self._store

    async def _steadily(self, every_s: float, asks: Iterator[tuple[str, str, Operation]]) -> None:
        due_s = _clock.monotonic()
        for kind, calling, operation in asks:
            if await self._is_over(due_s):
                return
            task = spawn(self._one(kind, calling, operation, due_s), name="a caller")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            due_s += every_s

    async def _is_over(self, due_s: float) -> bool:
        try:
            await asyncio.wait_for(self._ended.wait(), max(0.0, due_s - _clock.monotonic()))
        except TimeoutError:
            return False
        return True

    async def _one(self, kind: str, calling: str, operation: Operation, due_s: float) -> None:
        association, fault = await self._opened(calling)
        if association is not None:
            fault = await self._asked(association, operation, 1)
            await self._released(association)
        self.tally.add(kind, _clock.monotonic() - due_s, fault)

    # -- two long ones ------------------------------------------------------------------------------

    async def _long_stores(self) -> None:
        await self._in_one("long store", "MR", self._store, LONG_STORES, _STORE_EVERY_S)

    async def _long_finds(self) -> None:
        await self._in_one("long find", "READER", _found(_SMALL, SMALL_STUDIES), LONG_FINDS, _FIND_EVERY_S)

    async def _in_one(
        self, kind: str, calling: str, operation: Operation, times: int, every_s: float
    ) -> None:
        association: Association | None = None
        due_s = _clock.monotonic()
        for number in range(1, times + 1):
            if await self._is_over(due_s):
                break
            began_s, fault = _clock.monotonic(), None
            if association is None:
                association, fault = await self._opened(calling)
            if association is not None:
                fault = await self._asked(association, operation, number)
                if association.ended is not None:
                    await self._released(association)
                    association = None
            self.tally.add(kind, _clock.monotonic() - began_s, fault)
            due_s = max(due_s + every_s, _clock.monotonic())
        if association is not None:
            await self._released(association)

    # -- one step -----------------------------------------------------------------------------------

    async def _opened(self, calling: str) -> tuple[Association | None, str | None]:
        try:
            return await open_association(self._peer, calling, _CONTEXTS, timeout_s=TIMEOUT_S), None
        except UpstreamError as error:
            return None, f"not opened: {error}"

    async def _asked(self, association: Association, operation: Operation, number: int) -> str | None:
        """Return what was wrong with the answer, None when nothing was."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await operation(association, number)
        except TimeoutError:
            association.abort()
            return f"nothing within {TIMEOUT_S:g} s"
        except (Wrong, AssociationEnded) as error:
            return str(error)
        return None

    async def _released(self, association: Association) -> None:
        if association.ended is not None:
            self.tally.lost_association()
        await association.release()

    async def _store(self, association: Association, number: int) -> None:
        uid, data_set = self._instances.next()
        began_s = _clock.monotonic()
        await association.send(_ID[CT], store_rq(number, CT, uid), data_set)
        await final(association)
        self.tally.stored[uid] = began_s, _clock.monotonic()

    async def _broken_store(self, association: Association, number: int) -> None:
        """A data set that ends in the middle of an element: whoever looks at it says no, and why."""
        uid, data_set = self._instances.next()
        await association.send(_ID[CT], store_rq(number, CT, uid), data_set[:301])
        try:
            await final(association)
        except Wrong:
            return
        raise Wrong("a malformed data set was accepted")


async def held(host: str, port: int, uids: Iterable[str]) -> set[str]:
    """Return which studies of `uids` (each of one instance) are there."""
    association = await open_association(
        DicomPeer(Address(host, port), AeTitle(AE_TITLE)), "COUNTER", _CONTEXTS, timeout_s=TIMEOUT_S
    )
    found: set[str] = set()
    for number, uid in enumerate(uids, start=1):
        await association.send(
            _ID[STUDY_FIND], find_rq(number % 65535 or 1, STUDY_FIND), _find(StudyInstanceUID=uid)
        )
        if await final(association) == 1:
            found.add(uid)
    await association.release()
    return found


async def store_all(host: str, port: int, files: list[bytes]) -> None:
    """Store Part 10 files. Raises UpstreamError, AssociationEnded, Wrong."""
    association = await open_association(
        DicomPeer(Address(host, port), AeTitle(AE_TITLE)), "FILLER", _CONTEXTS, timeout_s=TIMEOUT_S
    )
    for number, file in enumerate(files, start=1):
        head = read_head(file)
        command = store_rq(number, CT, head.sop_instance_uid)
        await association.send(_ID[CT], command, file[head.data_set_offset :])
        await final(association)
    await association.release()
