"""Ten minutes of callers that vanish: in a head, in a body, in an answer, in a store, in an association.

    python -m tests.bench.soak [--minutes 10]

Once a minute all of them are gone; then the router's descriptors, tasks and memory are looked at, at rest.
What the last minute has more than the first (memory: than the third, when its pools are warm) is a leak:
exit code 1. Callers who behave run beside them all the time, and none of these may fail. Only the
router's process is looked at, not the archive's nor the replicator's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Final

from failover.clock import Clock, SystemClock
from failover.dicom.dimse import echo_rq, store_rq
from failover.dicom.negotiation import VERIFICATION, propose
from failover.dicom.requestor import open_association
from failover.model import Address, AeTitle, DicomPeer
from tests.bench.dicom import ENDS
from tests.bench.dicom_ends import CT
from tests.bench.memory import origin
from tests.bench.report import Row, Suite, save, table
from tests.bench.web import program
from tests.peers.process import free_port
from tests.system.site import Site

_HEAD: Final = b"Host: a\r\nAccept: application/dicom+json\r\n"
_STOW: Final = (
    b"POST /dicom-web/studies HTTP/1.1\r\nHost: a\r\n"
    b'Content-Type: multipart/related; type="application/dicom"; boundary=x\r\n'
)
_FIGURES: Final = ("open_descriptors", "tasks", "resident_bytes")
_ALLOWED: Final = {"open_descriptors": 4.0, "tasks": 4.0, "resident_bytes": 8e6}
"""Growth between two minutes at rest that is no leak: a probe under way, a pool that filled, some pages."""
_AT_ONCE: Final = 24


class Callers:
    """Who behaves and who vanishes, on a web port and a DICOM port."""

    def __init__(self, site: Site, chance: random.Random, clock: Clock) -> None:
        self._web_port, self._chance, self._clock = site.web_port, chance, clock
        self._peer = DicomPeer(Address("127.0.0.1", site.dicom_port), AeTitle(site.ae_title))
        self.did: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    async def until(self, ends_s: float) -> None:
        """Be one caller after another until the monotonic time `ends_s`."""
        kinds: list[Callable[[], Awaitable[None]]] = [
            self.search, self.search, self.store_object,
            self.leave_in_head, self.leave_in_answer, self.leave_in_store, self.leave_in_chunk,
            self.leave_after_first_of_three, self.leave_in_request, self.leave_in_object,
        ]  # fmt: skip
        while self._clock.monotonic() < ends_s:
            kind = self._chance.choice(kinds)
            behaves = not kind.__name__.startswith("leave")
            self.did[kind.__name__] += 1
            try:
                async with asyncio.timeout(30):
                    await kind()
            except Exception as error:
                if behaves:
                    self.failed[f"{kind.__name__}: {type(error).__name__}: {error}"] += 1

    # -- who behave

    async def search(self) -> None:
        reader, writer = await self._connect()
        writer.write(b"GET /small HTTP/1.1\r\n" + _HEAD + b"Connection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"[]"):
            raise ValueError(answer[:20])

    async def store_object(self) -> None:
        association = await open_association(self._peer, self._name(), propose([CT]), timeout_s=20)
        await association.send(1, store_rq(1, CT, f"2.25.{self._chance.getrandbits(96)}"), bytes(200_000))
        answer = await association.receive()
        if answer is None or answer.command.status != 0:
            raise ValueError("the store was not taken")
        await association.release()

    # -- who vanish

    async def leave_in_head(self) -> None:
        head = b"GET /small HTTP/1.1\r\n" + _HEAD
        await self._send_and_leave(head[: self._chance.randrange(1, len(head))])

    async def leave_in_answer(self) -> None:
        reader, writer = await self._connect()
        writer.write(b"GET /big/4 HTTP/1.1\r\n" + _HEAD + b"\r\n")
        await reader.readexactly(self._chance.randrange(1, 2**21))
        self._leave(writer)

    async def leave_in_store(self) -> None:
        sent = os.urandom(self._chance.randrange(1, 2**20))
        await self._send_and_leave(_STOW + b"Content-Length: 1048577\r\n\r\n" + sent)

    async def leave_in_chunk(self) -> None:
        sent = os.urandom(self._chance.randrange(1, 2**18))
        await self._send_and_leave(_STOW + b"Transfer-Encoding: chunked\r\n\r\n40001\r\n" + sent)

    async def leave_after_first_of_three(self) -> None:
        reader, writer = await self._connect()
        writer.write((b"GET /small HTTP/1.1\r\n" + _HEAD + b"\r\n") * 3)
        await reader.readuntil(b"[]")
        self._leave(writer)

    async def leave_in_request(self) -> None:
        """An A-ASSOCIATE-RQ of which a part comes (PS3.8 9.3.2)."""
        await self._send_and_leave(struct.pack(">BBI", 1, 0, 4000) + bytes(64), self._peer.address.port)

    async def leave_in_object(self) -> None:
        association = await open_association(
            self._peer, self._name(), propose([CT, VERIFICATION]), timeout_s=20
        )
        await association.send(3, echo_rq(1))
        await association.receive()
        with suppress(_Gone):
            await association.send_parts(
                1, store_rq(2, CT, "2.25.1"), _ends_early(self._chance.randrange(1, 9))
            )
        association.abort()

    def _name(self) -> str:
        return f"SOAK{self._chance.randrange(40)}"

    async def _connect(self, port: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port or self._web_port, limit=2**22)

    async def _send_and_leave(self, sent: bytes, port: int = 0) -> None:
        _, writer = await self._connect(port)
        writer.write(sent)
        with suppress(OSError):
            await writer.drain()
        self._leave(writer)

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        """With a FIN or, as a killed caller's host would, with a reset."""
        if self._chance.random() < 0.5:
            reset = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()


async def _ends_early(blocks: int) -> AsyncIterator[bytes]:
    """A data set whose sender dies after `blocks` parts."""
    for _ in range(blocks):
        yield bytes(16_000)
    raise _Gone


class _Gone(Exception):
    """The sender of an object is no more."""


def _at_rest(site: Site) -> dict[str, float]:
    """Wait until nothing is under way; return the router's footprint."""
    site.wait_until(
        lambda status: (
            not any(count for services in status["in_flight"].values() for count in services.values())
        ),
        "nothing is under way",
    )
    text = site.admin("GET", "/metrics").body.decode()
    return {name: float(re.findall(rf"^failover_router_{name} (\S+)$", text, re.M)[0]) for name in _FIGURES}


async def _soak(site: Site, minutes: int, seed: int) -> tuple[Callers, list[dict[str, float]]]:
    clock = SystemClock()
    callers = Callers(site, random.Random(seed), clock)
    seen = []
    for _ in range(minutes):
        ends_s = clock.monotonic() + 57
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(callers.until(ends_s))
        seen.append(await asyncio.to_thread(_at_rest, site))
        sys.stderr.write(
            f"{sum(callers.did.values())} callers, {sum(callers.failed.values())} failed, {seen[-1]}\n"
        )
    return callers, seen


def run(minutes: int) -> tuple[Suite, bool]:
    """Return what was seen, and whether nothing failed and nothing grew."""
    with ExitStack() as stack:
        port, sink = stack.enter_context(origin()), free_port()
        stack.enter_context(program([*ENDS, "sink", str(sink)], sink))
        primary = {
            "web": {"url": f"http://127.0.0.1:{port}"},
            "dicom": {"host": "127.0.0.1", "port": sink, "ae_title": "SINK"},
        }
        # What leaks is asked here, not how fast a busy machine answers probes.
        blocks = {"health": {"search": "false", "frame": "false", "timeout": "4s"}}
        site = stack.enter_context(Site(primary, **blocks))
        callers, seen = asyncio.run(_soak(site, minutes, seed=minutes))
    rows, flat = [], not callers.failed
    for name in _FIGURES:
        first = seen[min(2, len(seen) - 1) if name == "resident_bytes" else 0][name]
        row = Row(f"router at rest, {name}", "", "first")
        row.add("first", first)
        row.add("last", seen[-1][name])
        row.add("most", max(figures[name] for figures in seen))
        rows.append(row)
        flat = flat and seen[-1][name] - first <= _ALLOWED[name]
    notes = [f"{count} x {name}" for name, count in sorted(callers.did.items())]
    notes += [f"FAILED {count} x {name}" for name, count in sorted(callers.failed.items())]
    return Suite("soak", rows, notes), flat


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=10)
    arguments = parser.parse_args()
    suite, flat = run(arguments.minutes)
    print(table(suite), flush=True)
    if arguments.minutes >= 10:
        save(suite)
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
