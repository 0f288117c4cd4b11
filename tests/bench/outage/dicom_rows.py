"""The faults on the DICOM side, the product and the peers under each, and what callers saw.

As in `rows`: the product gets a fresh site for each row, a peer a fresh process, and the primary is filled
anew for each. An instance is lost when it was acknowledged and is not on the primary in the end; where the
backup is another's (`dicom_foreign`), when it is on neither.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from failover.aio import spawn
from failover.clock import SystemClock
from failover.errors import AssociationEnded, UpstreamError
from tests.bench.outage import content, dicom_foreign, dicom_peers
from tests.bench.outage.dicom_callers import Callers, Instances, Tally, Wrong, held, store_all
from tests.bench.outage.dicom_exam import Exam
from tests.bench.outage.dicom_stage import DICOM_PORT, DicomPrimary
from tests.bench.outage.faults import (
    Fault,
    World,
    behaves,
    dropped,
    flaps,
    killed,
    nothing,
    stopped,
    stopped_shortly,
)
from tests.bench.outage.rows import AFTER_S, BEFORE_S, FAILBACK_WITHIN_S
from tests.bench.outage.stage import AE_TITLE, THEIRS, Archive, Namespace
from tests.bench.outage.watching import standing_still
from tests.peers.process import wait_for
from tests.system.site import Site, request

_EXAM_WANTED_S: Final = 1.0  # so long after the fault began the workstation asks for the exam
_BY_HAND_S: Final = 2.0  # so long the way back is under way before the operator ends it
_clock = SystemClock()
_exams = itertools.count(1)
CONTESTANTS: Final = ("failover", "haproxy", "nginx")


@dataclass(frozen=True)
class Row:
    name: str
    fault: Fault
    moves: bool = True
    """Whether the route may move."""
    slow_finds: bool = False
    """With a workstation whose searches take 20 s."""
    malformed: bool = False
    """With a modality that sends malformed data sets."""
    exam: bool = False
    """With an exam on the table: what of it is there while the primary is not."""
    foreign: bool = False
    """With a backup that is none of ours. The peers' never is ours."""


ROWS: Final = (
    Row("killed", killed),
    Row("stopped (SIGSTOP)", stopped),
    Row("packets dropped", dropped),
    Row("failure statuses (0xA700, 0x0110)", behaves("failing")),
    Row("10 s slow", behaves("slow")),
    Row("refuses associations", behaves("refuse")),
    Row("2 s up, 2 s down", flaps),
    Row("killed, with an exam on the table", killed, exam=True),
    Row("killed, foreign backup", killed, foreign=True),
    Row("stopped (SIGSTOP), foreign backup", stopped, foreign=True),
    Row("10 s slow, foreign backup", behaves("slow"), foreign=True),
    Row("a C-FIND that takes 20 s", nothing, moves=False, slow_finds=True),
    Row("a modality that sends malformed data sets", nothing, moves=False, malformed=True),
    Row("stopped 1.5 s every 25 s", stopped_shortly, moves=False),
)


@dataclass
class Result:
    row: str
    contestant: str
    tally: Tally
    at_failback: Counter[str]
    """Failures among what was asked after the fault had ended."""
    lost: int
    on_both_sides: int | None = None
    """Instances that the foreign backup holds too although nothing asked for that."""
    exam_missing: int | None = None
    """Slices of the exam that were acknowledged and did not come while the primary was dead."""
    transitions: int | None = None
    notes: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        tally = self.tally
        return {
            "row": self.row,
            "contestant": self.contestant,
            "asked": tally.asked,
            "failed": tally.failed,
            "reasons": tally.reasons,
            "aborted_associations": tally.aborted,
            "instances_lost": self.lost,
            "failed_at_failback": self.at_failback,
            "on_both_sides": self.on_both_sides,
            "exam_missing": self.exam_missing,
            "slowest_s": {kind: round(took_s, 3) for kind, took_s in tally.slowest_s.items()},
            "transitions": self.transitions,
            "notes": self.notes,
        }


@contextmanager
def product(world: World) -> Iterator[int]:
    """A fresh site that has replicated all."""
    primary = {"dicom": {"host": THEIRS, "port": DICOM_PORT, "ae_title": AE_TITLE}}
    with Site(primary) as site:
        world.site = site
        wanted = len(world.content.files)

        def filled() -> bool:
            found = request(site.archive_web_port, "GET", "/dicom-web/instances?limit=1000")
            covered = site.status()["replication"]["coverage_ratio"] == 1.0
            return covered and found.status == 200 and len(found.json()) >= wanted

        wait_for(filled, "the archive is filled", timeout_s=120)
        try:
            yield site.dicom_port
        finally:
            world.site = None


@contextmanager
def foreign(world: World, backup: Archive) -> Iterator[int]:
    """A fresh site whose backup is `backup`, another's archive."""
    with dicom_foreign.site_with(backup) as site:
        world.site = site
        try:
            yield site.dicom_port
        finally:
            world.site = None


@dataclass
class _Seen:
    """One run: what callers saw, and when the fault began and ended (monotonic)."""

    tally: Tally
    began_s: float = 0.0
    ended_s: float = 0.0
    exam_missing: int | None = None
    exam_lost: int = 0
    notes: list[str] = field(default_factory=list)


async def _run(row: Row, world: World, port: int, instances: Instances) -> _Seen:
    group = Callers(port, instances, slow_finds=row.slow_finds, malformed=row.malformed)
    seen = _Seen(group.tally)
    exam = Exam(port, next(_exams), group.tally) if row.exam else None
    groups: list[Callers | Exam] = [group] if exam is None else [group, exam]
    with standing_still(seen.notes, "the callers' own loop"):
        asking = [spawn(one.go_on(), name="callers") for one in groups]
        await world.sleep(BEFORE_S)
        seen.began_s = _clock.monotonic()
        group.tally.begin()
        looking = None if exam is None else spawn(_wanted(world, exam), name="the exam is wanted")
        await row.fault(world)
        seen.ended_s = _clock.monotonic()
        if looking is not None:
            seen.exam_missing = await looking
        await world.sleep(AFTER_S)
        if world.site is not None:
            seen.notes.append(await _come_back(row, world.site, world, seen.ended_s))
            await world.sleep(2.0)
        if exam is not None:
            seen.exam_lost = await exam.missing()
        for one in groups:
            one.end()
        await asyncio.gather(*asking)
    return seen


async def _wanted(world: World, exam: Exam) -> int:
    await world.sleep(_EXAM_WANTED_S)
    return await exam.missing()


async def _come_back(row: Row, site: Site, world: World, ended_s: float) -> str:
    """Wait until the product is on the primary again, with all paid; return how long that took."""
    if row.foreign:
        await _until(site, world, ended_s, lambda status: status["phase"] == "failing_back")
        await world.sleep(_BY_HAND_S)
        await asyncio.to_thread(dicom_foreign.go_back, site)
    if not await _until(site, world, ended_s, _is_on_primary if row.foreign else _is_back):
        return f"not on the primary with all paid after {FAILBACK_WITHIN_S:g} s"
    what = "back, by hand," if row.foreign else "back, and all paid,"
    return f"{what} {_clock.monotonic() - ended_s:.1f} s after the fault"


async def _until(site: Site, world: World, ended_s: float, holds: Callable[[dict[str, Any]], bool]) -> bool:
    while not holds(await asyncio.to_thread(site.status)):
        if _clock.monotonic() - ended_s > FAILBACK_WITHIN_S:
            return False
        await world.sleep(0.2)
    return True


def _is_on_primary(status: dict[str, Any]) -> bool:
    return bool(status["phase"] == "on_primary")


def _is_back(status: dict[str, Any]) -> bool:
    return _is_on_primary(status) and status["replication"]["lag_objects"] == 0


def measure(names: list[str], wanted: list[str], skip: Callable[[str, str], bool]) -> Iterator[Result]:
    """Run the rows whose name contains one of `wanted` (all when empty) for each contestant of `names`.

    Not those of which `skip` says so, by row and contestant.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outage-dicom-")))
        namespace = stack.enter_context(Namespace())
        beside = stack.enter_context(Archive(inside=False))
        made = content.make(with_large=False)
        instances = Instances()
        wait_for(lambda: _stored("127.0.0.1", beside.dicom_port, made.files), "the backup is filled")
        makers: dict[str, Callable[[World], AbstractContextManager[int]]] = {
            "failover": product,
            "haproxy": lambda _: dicom_peers.haproxy(folder, beside.dicom_port),
            "nginx": lambda _: dicom_peers.nginx(folder, beside.dicom_port),
        }
        for row in ROWS:
            if wanted and not any(part in row.name for part in wanted):
                continue
            for name in names:
                if skip(row.name, name) or (row.foreign and name != "failover"):
                    continue
                with ExitStack() as one:
                    behind = one.enter_context(Archive(inside=True))
                    primary = one.enter_context(DicomPrimary(namespace, behind))
                    world = World(primary, namespace, made)
                    wait_for(lambda: _stored(THEIRS, DICOM_PORT, made.files), "the primary is filled")
                    other: Archive | None = None
                    if row.foreign:
                        other = one.enter_context(Archive(inside=False))
                        there = partial(_stored, "127.0.0.1", other.dicom_port, made.files)
                        wait_for(there, "the foreign backup is filled")
                        port = one.enter_context(foreign(world, other))
                    else:
                        port = one.enter_context(makers[name](world))
                    yield _one(row, name, world, port, instances, other)


def _one(row: Row, name: str, world: World, port: int, instances: Instances, other: Archive | None) -> Result:
    seen = asyncio.run(_run(row, world, port, instances))
    stored = seen.tally.stored
    here = asyncio.run(held(THEIRS, DICOM_PORT, stored))
    at_failback = Counter(kind for due_s, kind in seen.tally.failures if due_s >= seen.ended_s)
    lost = len(stored) - len(here) + seen.exam_lost
    result = Result(row.name, name, seen.tally, at_failback, lost, None, seen.exam_missing, notes=seen.notes)
    if world.site is None:
        return result
    result.transitions = len(world.site.transitions())
    if other is None:
        result.notes.append(f"{world.site.status()['replication']['lag_objects']} owed in the end")
        return result
    there = asyncio.run(held("127.0.0.1", other.dicom_port, stored))
    spans = dicom_foreign.allowed(world.site, seen.began_s)
    result.lost = len(stored.keys() - here - there)
    result.on_both_sides = dicom_foreign.without_need(stored, here & there, spans)
    result.notes.append(
        f"{len(here & there)} of {len(stored)} on both sides, {len(there - here)} there alone"
    )
    return result


def _stored(host: str, port: int, files: list[bytes]) -> bool:
    try:
        asyncio.run(store_all(host, port, files))
    except (UpstreamError, AssociationEnded, Wrong):
        return False
    return True
