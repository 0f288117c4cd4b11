"""The faults on the DICOM side, the product and the peers under each, and what callers saw.

As in `rows`: the product gets a fresh site for each row, a peer a fresh process, and the primary is filled
anew for each. An instance is lost when it was acknowledged and is not on the primary in the end.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from failover.aio import spawn
from failover.clock import SystemClock
from failover.errors import AssociationEnded, UpstreamError
from tests.bench.outage import content, dicom_peers
from tests.bench.outage.dicom_callers import Callers, Instances, Tally, Wrong, missing, store_all
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
from tests.peers.process import wait_for
from tests.system.site import Site, request

_clock = SystemClock()
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


ROWS: Final = (
    Row("killed", killed),
    Row("stopped (SIGSTOP)", stopped),
    Row("packets dropped", dropped),
    Row("failure statuses (0xA700, 0x0110)", behaves("failing")),
    Row("10 s slow", behaves("slow")),
    Row("refuses associations", behaves("refuse")),
    Row("2 s up, 2 s down", flaps),
    Row("a C-FIND that takes 20 s", nothing, moves=False, slow_finds=True),
    Row("a modality that sends malformed data sets", nothing, moves=False, malformed=True),
    Row("stopped 1.5 s every 25 s", stopped_shortly, moves=False),
)


@dataclass
class Result:
    row: str
    contestant: str
    tally: Tally
    lost: int
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


async def _run(row: Row, world: World, port: int, instances: Instances) -> tuple[Tally, list[str]]:
    notes: list[str] = []
    group = Callers(port, instances, slow_finds=row.slow_finds, malformed=row.malformed)
    asking = spawn(group.go_on(), name="callers")
    await world.sleep(BEFORE_S)
    await row.fault(world)
    ended_s = _clock.monotonic()
    await world.sleep(AFTER_S)
    if world.site is not None:
        while not await asyncio.to_thread(_is_back, world.site):
            if _clock.monotonic() - ended_s > FAILBACK_WITHIN_S:
                notes.append(f"not on the primary with all paid after {FAILBACK_WITHIN_S:g} s")
                break
            await world.sleep(0.2)
        else:
            notes.append(f"back, and all paid, {_clock.monotonic() - ended_s:.1f} s after the fault")
        await world.sleep(2.0)
    group.end()
    await asking
    return group.tally, notes


def _is_back(site: Site) -> bool:
    status = site.status()
    return bool(status["phase"] == "on_primary" and status["replication"]["lag_objects"] == 0)


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
                if skip(row.name, name):
                    continue
                with Archive(inside=True) as behind, DicomPrimary(namespace, behind) as primary:
                    world = World(primary, namespace, made)
                    wait_for(lambda: _stored(THEIRS, DICOM_PORT, made.files), "the primary is filled")
                    with makers[name](world) as port:
                        yield _one(row, name, world, port, instances)


def _one(row: Row, name: str, world: World, port: int, instances: Instances) -> Result:
    tally, notes = asyncio.run(_run(row, world, port, instances))
    lost = asyncio.run(missing(THEIRS, DICOM_PORT, tally.stored))
    result = Result(row.name, name, tally, lost, notes=notes)
    if world.site is not None:
        result.transitions = len(world.site.transitions())
        result.notes.append(f"{world.site.status()['replication']['lag_objects']} owed in the end")
    return result


def _stored(host: str, port: int, files: list[bytes]) -> bool:
    try:
        asyncio.run(store_all(host, port, files))
    except (UpstreamError, AssociationEnded, Wrong):
        return False
    return True
