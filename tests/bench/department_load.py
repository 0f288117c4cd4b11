"""The load of the department test, a process of its own: a reading day, replayed as fast as it is answered.

    python -m tests.bench.department_load fill PORT
    python -m tests.bench.department_load day WEB_PORT DICOM_PORT CALLED SESSIONS with|without

Four readers, each over one connection, and each session of one reads a study: the worklist and the patient's
other studies are searched, the study is opened (its series, their metadata), all its slices are scrolled
through, then some of a prior. Four modalities store an object for every `REQUESTS_A_STORE` requests of the
readers, so that both contestants do the same work however fast they are. `without` leaves the searches out.

`day` prints {"done", "failed", "seconds", "ms": {kind: [each operation's time]}}.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Final

import uvloop

from failover.clock import SystemClock
from failover.dicom.dimse import store_rq
from failover.dicom.negotiation import propose
from failover.dicom.requestor import open_association
from failover.model import Address, AeTitle, DicomPeer
from tests.bench.archive_load import (
    CT,
    Stow,
    Template,
    day_of,
    numbers,
    object_uid,
    patient_id,
    series_uid,
    study_uid,
)

STACKS: Final = 6
SLICES: Final = 50
OF_A_PRIOR: Final = 10
READERS = MODALITIES = 4
REQUESTS_A_STORE: Final = 5
_FIRST_STACK: Final = 900_000
_JSON: Final = "application/dicom+json"
_FRAME: Final = 'multipart/related; type="application/octet-stream"'
Operation = tuple[str, str, str]  # its kind, its path, what is accepted


def operations(reader: int, session: int, *, searches: bool) -> Iterator[Operation]:
    """Yield what one session asks for."""
    root, stack = "/dicom-web/studies", (reader + session) % STACKS
    study, prior = _FIRST_STACK + stack, _FIRST_STACK + (stack + 1) % STACKS
    if searches:
        day = day_of((reader * 7 + session) % 10 * 100)
        yield "search", f"{root}?StudyDate={day}&limit=100", _JSON
        yield "search", f"{root}?PatientID={patient_id(study)}", _JSON
        yield "search", f"{root}/{study_uid(study)}/series", _JSON
    for shown, slices in ((study, SLICES), (prior, OF_A_PRIOR)):
        series = f"{root}/{study_uid(shown)}/series/{series_uid(shown)}"
        yield "open", f"{series}/metadata", _JSON
        for number in range(slices):
            yield "slice", f"{series}/instances/{_slice_uid(shown, number)}/frames/1", _FRAME


def _slice_uid(study: int, number: int) -> str:
    return object_uid(2_000_000 + (study - _FIRST_STACK) * 1000 + number)


def fill(port: int) -> None:
    client, template = Stow(port), Template(512)
    for study in range(_FIRST_STACK, _FIRST_STACK + STACKS):
        for at in range(0, SLICES, 10):
            first = 2_000_000 + (study - _FIRST_STACK) * 1000 + at
            objects = [template.part10(number, study) for number in range(first, first + 10)]
            assert client.post(client.body(objects)) == len(objects), "not all was stored"


class Reader:
    """One connection of a viewer: GET after GET."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def get(self, path: str, accept: str) -> bool:
        """Read the whole answer; return whether it was a 200."""
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n"
        self._writer.write(head.encode())
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "chunked" in fields.get("transfer-encoding", ""):
            while size := int((await self._reader.readline()).split(b";")[0], 16):
                await self._reader.readexactly(size + 2)
            await self._reader.readline()
        else:
            await self._reader.readexactly(int(fields.get("content-length", "0")))
        return " 200 " in status


class Day:
    """What happens in it, and how long each operation took."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.ms: dict[str, list[float]] = {}
        self.failed = 0
        self.stores: asyncio.Queue[bool] = asyncio.Queue()
        self._asked = 0

    def note(self, kind: str, began_s: float, good: bool) -> None:
        self.ms.setdefault(kind, []).append(1e3 * (self.clock.monotonic() - began_s))
        self.failed += not good

    async def read(self, port: int, reader: int, sessions: int, searches: bool) -> None:
        viewer = Reader(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))
        for session in range(sessions):
            for kind, path, accept in operations(reader, session, searches=searches):
                began_s = self.clock.monotonic()
                self.note(kind, began_s, await viewer.get(path, accept))
                self._asked += 1
                if self._asked % REQUESTS_A_STORE == 0:
                    self.stores.put_nowait(True)

    async def store(self, peer: DicomPeer, study: int, count: Iterator[int], template: Template) -> None:
        association = await open_association(peer, f"CT{study % 8}", propose([CT]), timeout_s=30)
        message_ids = itertools.cycle(range(1, 65536))
        while await self.stores.get():
            number = next(count)
            content = template.data_set(number, study)
            began_s = self.clock.monotonic()
            await association.send(1, store_rq(next(message_ids), CT, object_uid(number)), content)
            answer = await association.receive()
            self.note("store", began_s, answer is not None and answer.command.status == 0)
        await association.release()


async def day(web: int, dicom: int, called: str, sessions: int, searches: bool) -> None:
    it, template, count = Day(), Template(512), numbers()
    peer = DicomPeer(Address("127.0.0.1", dicom), AeTitle(called))
    first = 3_000_000 + next(count) % 1_000_000
    began_s = it.clock.monotonic()
    async with asyncio.TaskGroup() as modalities:
        for number in range(MODALITIES):
            modalities.create_task(it.store(peer, first + number, count, template))
        async with asyncio.TaskGroup() as readers:
            for number in range(READERS):
                readers.create_task(it.read(web, number, sessions, searches))
        for _ in range(MODALITIES):
            it.stores.put_nowait(False)
    seconds = it.clock.monotonic() - began_s
    done = sum(map(len, it.ms.values()))
    said = {"done": done - it.failed, "failed": it.failed, "seconds": seconds, "ms": it.ms}
    sys.stdout.write(json.dumps(said) + "\n")


def main() -> None:
    work, port, *rest = sys.argv[1:]
    if work == "fill":
        fill(int(port))
    else:
        dicom, called, sessions, searches = rest
        uvloop.run(day(int(port), int(dicom), called, int(sessions), searches == "with"))


if __name__ == "__main__":
    main()
