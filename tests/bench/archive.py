"""Our archive beside Debian's Orthanc with its DICOMweb plugin: store, search, retrieve; CPU and memory.

Both lie on the same disk and sync what they store before they say so (Orthanc: "SyncStorageArea", without
compression). The archive runs alone, as `failover archive` has it; the CPU of its decoders counts as its own.
Searches are over 1,000 studies, ours also over 100,000 (`many`): there Orthanc is asked over its 1,000 all
the same, because storing that many would take it longer than all the rest. Loads are processes of their own
on the same cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench import archive_load as objects
from tests.bench.measure import cpu_s, output_of
from tests.bench.report import Row, Suite
from tests.bench.web import load
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port, listens, wait_for

STUDIES = 1000
MANY_STUDIES = 100_000
LOAD = [sys.executable, "-m", "tests.bench.archive_load"]
RETRIEVE = [sys.executable, "-m", "tests.bench.retrieve_load"]
SINK = "SINK"  # the AE title to which a C-MOVE sends
# The paths are asked for in turn: the same one each time would measure somebody's cache.
_PATHS = """
local paths, count = {%s}, 0
request = function()
  count = count + 1
  local path = string.gsub(paths[count %% #paths + 1], "COUNT", tostring(count))
  return wrk.format(nil, path)
end
"""
JSON = "application/dicom+json"


@dataclass
class Contestant:
    name: str
    web_port: int
    dicom_port: int
    ae_title: str
    pid: int

    def memory_mb(self) -> float:
        """Of the process that stores and serves, without its decoders."""
        return float(psutil.Process(self.pid).memory_full_info().pss) / 1e6

    def decoder_mb(self) -> float:
        children = psutil.Process(self.pid).children(recursive=True)
        return max((child.memory_full_info().pss / 1e6 for child in children), default=0.0)


@contextmanager
def archive(folder: Path, sink: int = 0) -> Iterator[Contestant]:
    """`failover archive` alone: it owes nobody anything. `sink`: the port of `SINK`."""
    web, dicom = free_port(), free_port()
    blocks: dict[str, object] = {
        "web": {"port": web},
        "dicom": {"port": dicom, "ae_title": "MINIPACS"},
        "data_dir": "./archive",
    }
    if sink:
        blocks["move_destinations"] = {SINK: {"host": "127.0.0.1", "port": sink}}
    file = folder / "failover.yaml"
    file.write_text(json.dumps({"state_dir": "./state", "archive": blocks}))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "failover", "archive", "-c", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: listens(web) and listens(dicom), "the archive listens")
        yield Contestant("failover", web, dicom, "MINIPACS", process.pid)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def orthanc(folder: Path, sink: int) -> Iterator[Contestant]:
    extra = {"StorageCompression": False, "SyncStorageArea": True, "HttpThreadsCount": 50, "TcpNoDelay": True}
    with Orthanc(folder=folder, extra=extra, modalities={SINK: sink}) as peer:
        yield Contestant("orthanc", peer.web_port, peer.dicom_port, peer.ae_title, peer.pid)


def ask(*arguments: object, load: list[str] = LOAD) -> dict[str, float]:
    found: dict[str, float] = json.loads(output_of([*load, *map(str, arguments)]))
    return found


@contextmanager
def sink() -> Iterator[int]:
    """Where a C-MOVE sends: it throws away."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.dicom_ends", "sink", str(port)], stdin=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: listens(port), "the sink listens")
        yield port
    finally:
        process.terminate()
        process.wait(30)


class Run:
    """Rounds of one kind of work after the other, the contestants in turn."""

    def __init__(self, contestants: list[Contestant], rounds: int, seconds: float, folder: Path) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self._contestants = contestants
        self._rounds, self._seconds, self._folder = rounds, seconds, folder
        self._memory = Row("the most, of the process that stores and serves", "MB resident (PSS)", "orthanc")
        self._decoder = Row("the largest decoder", "MB resident (PSS)", "orthanc")

    def dicom(self, work: str, unit: str, ask_one: Callable[[Contestant], dict[str, float]]) -> None:
        """Measure what one of our own loads says, and the CPU of each object or search."""
        rate = Row(work, f"{unit}/s", "orthanc", less_is_better=False)
        cost = Row(work, f"ms CPU of {unit}, each", "orthanc")
        self.rows += [rate, cost]
        for _ in range(self._rounds):
            for one in self._contestants:
                before = cpu_s(one.pid)
                seen = ask_one(one)
                done = max(1.0, seen["done"])
                rate.add(one.name, seen["done"] / seen["seconds"])
                cost.add(one.name, 1e3 * (cpu_s(one.pid) - before) / done)
                if seen["failed"]:
                    self.notes.append(f"{one.name}, {work}: {seen['failed']:g} failed")
                self.look_at_memory(one)

    def web(
        self, work: str, paths: list[str], accept: str, contestants: list[Contestant] | None = None
    ) -> float:
        """Measure GET of `paths` in turn over four connections; return our p99 in ms."""
        asked = contestants or self._contestants
        rate = Row(work, "requests/s", "orthanc", less_is_better=False)
        cost = Row(work, "ms CPU/request", "orthanc")
        late = Row(work, "ms, p99", "orthanc")
        self.rows += [rate, cost, late]
        script = _PATHS % ",".join(f'"{path}"' for path in paths)
        for one in asked:  # what starts at first use has started then
            load(
                one.web_port,
                paths[0],
                connections=4,
                seconds=1,
                folder=self._folder,
                accept=accept,
                script=script,
            )
        for _ in range(self._rounds):
            for one in asked:
                before = cpu_s(one.pid)
                seen = load(
                    one.web_port, paths[0], connections=4, seconds=max(1, int(self._seconds)),
                    folder=self._folder, accept=accept, script=script,
                )  # fmt: skip
                rate.add(one.name, seen.requests / max(1, int(self._seconds)))
                cost.add(one.name, 1e3 * (cpu_s(one.pid) - before) / max(1, seen.requests))
                late.add(one.name, seen.p99_us / 1e3)
                if seen.errors:
                    self.notes.append(f"{one.name}, {work}: {seen.errors} of {seen.requests} failed")
                self.look_at_memory(one)
        return late.median("failover")

    def look_at_memory(self, one: Contestant) -> None:
        self._memory.add(one.name, one.memory_mb())
        if one.name == "failover":
            self._decoder.add(one.name, one.decoder_mb())

    def memory(self) -> list[Row]:
        """The most that was seen, as one figure each."""
        for row in (self._memory, self._decoder):
            row.rounds = {name: [max(figures)] for name, figures in row.rounds.items()}
        return [self._memory, self._decoder]


@contextmanager
def filled() -> Iterator[tuple[list[Contestant], Path]]:
    """Both contestants with the same `STUDIES` studies, and the folder in which they have theirs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-archive-")))
        (folder / "ours").mkdir()
        (folder / "theirs").mkdir()
        destination = stack.enter_context(sink())
        contestants = [
            stack.enter_context(orthanc(folder / "theirs", destination)),
            stack.enter_context(archive(folder / "ours", destination)),
        ]
        for one in contestants:
            ask("fill", one.web_port, STUDIES)
        yield contestants, folder


def run(quick: bool) -> Suite:
    seconds, rounds = (1, 1) if quick else (2, 3)
    with filled() as (contestants, folder):
        it = Run(contestants, rounds, seconds, folder)
        late = _search(it, seconds)
        _search_many(it, contestants[0], folder, 5_000 if quick else MANY_STUDIES, late)
        _retrieve(it, seconds)
        _store(it, seconds)
        return Suite("archive", [*it.rows, *it.memory()], it.notes)


_ROOT = "/dicom-web/studies"
_SOME = range(0, STUDIES, 7)
_PAGES = [f"{_ROOT}?limit=100&offset={n}" for n in range(0, 800, 50)]
_NAMES = [f"{_ROOT}?limit=100&PatientName=bench{objects.patient_id(n)[:7]}*" for n in _SOME]
_PATIENTS = [f"{_ROOT}?PatientID={objects.patient_id(n)}" for n in _SOME]
_INNER = [f"{_ROOT}?limit=100&PatientName=*ench{objects.patient_id(n)[:7]}*" for n in _SOME]


def _search_many(it: Run, theirs: Contestant, folder: Path, studies: int, late: dict[str, float]) -> None:
    """The same searches over many studies; `late`: our p99 of them over 1,000."""
    (folder / "many").mkdir()
    making = [sys.executable, "-m", "tests.bench.many", str(folder / "many" / "archive"), str(studies)]
    subprocess.run(making, check=True)
    with archive(folder / "many") as ours:
        both, over = [theirs, ours], f"over {studies:,} studies (Orthanc over {STUDIES:,})"
        for work, paths in (("limit=100", _PAGES), ("name with a wildcard (20 matches)", _NAMES)):
            p99_ms = it.web(f"QIDO, {work}, {over}", paths, JSON, both)
            more = f"{p99_ms / late[work]:.2f} x that over {STUDIES:,}"
            it.notes.append(f"failover, QIDO, {work}: p99 over {studies:,} studies {more}")
        it.web(f"QIDO, one patient (2 matches), {over}", _PATIENTS, JSON, both)
        it.web(f"QIDO, name with the beginning unknown (20 matches), {over}", _INNER, JSON, both)


def _search(it: Run, seconds: float) -> dict[str, float]:
    late = {
        "limit=100": it.web("QIDO, 1,000 studies, limit=100", _PAGES, JSON),
        "name with a wildcard (20 matches)": it.web("QIDO, name with a wildcard (20 matches)", _NAMES, JSON),
    }
    it.web("QIDO, one patient (2 matches)", _PATIENTS, JSON)
    it.dicom(
        "C-FIND, one patient (2 matches)", "searches",
        lambda one: ask("find", one.dicom_port, one.ae_title, seconds, "patient"),
    )  # fmt: skip
    it.dicom(
        "C-FIND, 100 studies", "searches",
        lambda one: ask("find", one.dicom_port, one.ae_title, seconds, "day"),
    )  # fmt: skip
    return late


def _retrieve(it: Run, seconds: float) -> None:
    it.dicom(
        "C-MOVE of a series, 100 x 520 KB", "objects",
        lambda one: ask("move", one.dicom_port, one.ae_title, seconds, SINK, load=RETRIEVE),
    )  # fmt: skip
    it.dicom(
        "C-GET of a series, 100 x 520 KB", "objects",
        lambda one: ask("get", one.dicom_port, one.ae_title, seconds, load=RETRIEVE),
    )  # fmt: skip
    series = f"/dicom-web/studies/{objects.study_uid(0)}/series/{objects.series_uid(0)}"
    slices = [
        f"{series}/instances/{objects.object_uid(1_000_000 + number)}" for number in range(objects.SLICES)
    ]
    dicom = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    it.web("WADO-RS, instance of 520 KB", slices, dicom)
    octets = 'multipart/related; type="application/octet-stream"'
    it.web("WADO-RS, frame of 520 KB", [f"{one}/frames/1" for one in slices], octets)
    # Another window each time: a picture that was made before would be sent again.
    pictures = [f"{one}/rendered?window=1064,4COUNT,linear" for one in slices]
    it.web("WADO-RS, rendered 512 x 512 as JPEG", pictures, "image/jpeg")


def _store(it: Run, seconds: float) -> None:
    def storing(associations: int) -> Callable[[Contestant], dict[str, float]]:
        return lambda one: ask("store", one.dicom_port, one.ae_title, associations, seconds)

    it.dicom("C-STORE of 520 KB, 1 association", "objects", storing(1))
    it.dicom("C-STORE of 520 KB, 4 associations", "objects", storing(4))
    it.dicom(
        "STOW, 100 objects of 33 KB a request", "objects", lambda one: ask("stow", one.web_port, seconds)
    )
