"""The faults, the product and the peers under each, and what callers saw.

A row is a fault: how it begins and how it ends. The product gets a fresh site for each row (its hold-down
grows with each failover), a peer a fresh process; the primary is filled anew for each. Rows that must not
move the route want 0 transitions.
"""

from __future__ import annotations

import asyncio
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
from tests.bench.outage import callers, content, peers, readers
from tests.bench.outage.callers import Ask, Callers, Tally
from tests.bench.outage.content import Content
from tests.bench.outage.faults import (
    Fault,
    World,
    behaves,
    dropped,
    flaps,
    killed,
    lost_shortly,
    nothing,
    router_stopped,
    stopped,
    stopped_shortly,
)
from tests.bench.outage.readers import Readers
from tests.bench.outage.stage import PORT as PRIMARY_PORT
from tests.bench.outage.stage import THEIRS, Archive, Namespace, Primary, fill
from tests.bench.outage.watching import counted, entered_s, standing_still
from tests.peers.process import wait_for
from tests.system.site import Site, request

BEFORE_S: Final = 3.0
AFTER_S: Final = 5.0
FAILBACK_WITHIN_S: Final = 60.0
_clock = SystemClock()


@dataclass(frozen=True)
class Row:
    name: str
    fault: Fault
    """Begins, lasts and ends."""
    moves: bool = True
    """Whether the route may move."""
    readers: Callable[[int, Content], Readers] | None = None
    """With callers of long answers, at this port."""
    many: bool = False
    """With the study of many slices on all sides."""
    also: Callable[[], Iterator[Ask]] | None = None
    also_rate: float = 1.0
    product_only: bool = False


# So slow that at the fault more is left of each answer than the kernels between may hold, some 10 MB.
def _of_large(port: int, made: Content) -> Readers:
    return Readers(port, readers.large(made), at_once=2, bytes_per_s=6e6)


def _of_many(port: int, made: Content) -> Readers:
    return Readers(port, readers.many(made), at_once=4, bytes_per_s=3e6)


ROWS: Final = (
    Row("killed", killed),
    Row("stopped (SIGSTOP)", stopped),
    Row("packets dropped", dropped),
    Row("500 on everything", behaves("500")),
    Row("500 on all but the health page", behaves("500_but_health")),
    Row("10 s slow", behaves("slow")),
    Row("breaks every longer body", behaves("break")),
    Row("killed inside 64 MB answers", killed, readers=_of_large),
    Row("killed inside multipart answers", killed, readers=_of_many, many=True),
    Row("2 s up, 2 s down", flaps),
    Row("stopped 1.5 s every 25 s", stopped_shortly, moves=False),
    Row("packets lost for 300 ms", lost_shortly, moves=False),
    Row("one kind of request 20 s slow", nothing, moves=False, also=lambda: callers.kind("/kind/slow", 200)),
    Row(
        "one caller who earns only 500",
        nothing,
        moves=False,
        also=lambda: callers.kind("/kind/broken", 500),
        also_rate=20.0,
    ),
    Row("the router itself stopped for 5 s", router_stopped, moves=False, product_only=True),
)


@dataclass
class Result:
    row: str
    contestant: str
    tally: Tally
    at_failback: Counter[str]
    """Failures among what was asked after the fault had ended; of orders, since the way back began."""
    twice: int
    """Orders carried out more than once."""
    transitions: int | None = None
    missing: int | None = None
    """Acknowledged stores that are not on the primary in the end."""
    notes: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        asked, failed = self.tally.asked, self.tally.failed
        return {
            "row": self.row,
            "contestant": self.contestant,
            "asked": asked,
            "failed": failed,
            "reasons": self.tally.reasons,
            "failed_at_failback": self.at_failback,
            "slowest_s": {kind: round(took_s, 3) for kind, took_s in self.tally.slowest_s.items()},
            "orders_twice": self.twice,
            "transitions": self.transitions,
            "stores_missing": self.missing,
            "notes": self.notes,
        }


@contextmanager
def product(world: World) -> Iterator[int]:
    """A fresh site that has replicated all."""
    with Site({"web": {"url": f"http://{THEIRS}:{PRIMARY_PORT}"}}) as site:
        world.site = site
        wanted = len(world.content.files)

        def filled() -> bool:
            found = request(site.archive_web_port, "GET", "/dicom-web/instances?limit=1000")
            covered = site.status()["replication"]["coverage_ratio"] == 1.0
            return covered and found.status == 200 and len(found.json()) >= wanted

        wait_for(filled, "the archive is filled", timeout_s=120)
        try:
            yield site.web_port
        finally:
            world.site = None


async def _run(row: Row, world: World, port: int) -> tuple[Tally, Counter[str], list[str]]:
    notes: list[str] = []
    groups: list[Callers | Readers] = [Callers(port, callers.workload(world.content))]
    long = None if row.readers is None else row.readers(port, world.content)
    if long is not None:
        groups.append(long)
    if row.also is not None:
        groups.append(Callers(port, row.also(), rate=row.also_rate))
    if long is not None:
        await long.be_inside()
    with standing_still(notes, "the callers' own loop"):
        asking = [spawn(group.go_on(), name="callers") for group in groups]
        await world.sleep(BEFORE_S)
        if long is not None:
            notes.append(f"{long.inside} long answers under way at the fault")
        began_s = _clock.monotonic()
        for group in groups:
            group.tally.begin()
        await row.fault(world)
        ended_s = _clock.monotonic()
        await world.sleep(AFTER_S)
        if world.site is not None:
            notes.append(await _come_back(world, ended_s))
            await world.sleep(2.0)
        for group in groups:
            group.end()
        await asyncio.gather(*asking)
    whole = groups[0].tally
    for group in groups[1:]:
        whole.join(group.tally)
    notes.append(f"the slowest GET was due {whole.slowest_due_s['get'] - began_s:+.1f} s from the fault")
    back_s = (
        None if world.site is None else await asyncio.to_thread(entered_s, world.site, "web", "failing_back")
    )
    at_failback = Counter(
        kind
        for due_s, kind in whole.failures
        if due_s >= ended_s and (kind != "order" or (back_s is not None and due_s >= back_s))
    )
    return whole, at_failback, notes


async def _come_back(world: World, ended_s: float) -> str:
    """Wait until the product is on the primary again; return how long that took, or that it did not come."""
    assert world.site is not None
    while (await asyncio.to_thread(world.site.status))["phase"] != "on_primary":
        if _clock.monotonic() - ended_s > FAILBACK_WITHIN_S:
            return f"not back on the primary after {FAILBACK_WITHIN_S:g} s"
        await world.sleep(0.2)
    return f"back within {_clock.monotonic() - ended_s:.1f} s of the end of the fault"


def measure(names: list[str], wanted: list[str], skip: Callable[[str, str], bool]) -> Iterator[Result]:
    """Run the rows whose name contains one of `wanted` (all when empty) for each contestant of `names`.

    Not those of which `skip` says so, by row and contestant.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outage-")))
        namespace = stack.enter_context(Namespace())
        beside = stack.enter_context(Archive(inside=False))
        made = content.make()
        wait_for(lambda: _stored(beside.port, made.with_many(), "127.0.0.1"), "the backup is filled")
        makers: dict[str, Callable[[World], AbstractContextManager[int]]] = {
            "failover": product,
            "haproxy": lambda _: peers.haproxy(folder, beside.port, tuned=False),
            "haproxy tuned": lambda _: peers.haproxy(folder, beside.port, tuned=True),
            "nginx": lambda _: peers.nginx(folder, beside.port),
            "caddy": lambda _: peers.caddy(folder, beside.port),
        }
        for row in ROWS:
            if wanted and not any(part in row.name for part in wanted):
                continue
            for name in names:
                if skip(row.name, name):
                    continue
                if row.product_only and name != "failover":
                    continue
                if name == "caddy" and not peers.have("caddy"):
                    continue
                with Archive(inside=True) as behind, Primary(namespace, behind) as primary:
                    world = World(primary, namespace, made.with_many() if row.many else made)
                    wait_for(partial(_stored, PRIMARY_PORT, world.content, THEIRS), "the primary is filled")
                    yield _one(row, name, makers[name], world)


def _one(row: Row, name: str, make: Callable[[World], AbstractContextManager[int]], world: World) -> Result:
    with make(world) as port:
        tally, at_failback, notes = asyncio.run(_run(row, world, port))
        orders = world.primary.orders()
        twice = sum(orders.get(mark, 0) > 1 for mark in tally.orders)
        result = Result(row.name, name, tally, at_failback, twice, notes=notes)
        if world.site is not None:
            result.transitions = len(world.site.transitions())
            result.missing = sum(not _on_primary(uid) for uid in tally.stored)
            result.notes.append(f"{world.site.status()['replication']['lag_objects']} owed in the end")
            if row.readers is not None:
                result.notes.append(
                    f"{counted(world.site, 'failover_http_resumed_total'):.0f} went on elsewhere"
                )
    return result


def _on_primary(uid: str) -> bool:
    found = request(PRIMARY_PORT, "GET", f"/dicom-web/instances?SOPInstanceUID={uid}", host=THEIRS)
    return found.status == 200 and len(found.json()) == 1


def _stored(port: int, made: Content, host: str) -> bool:
    try:
        fill(port, made, host)
    except (OSError, AssertionError):
        return False
    return True
