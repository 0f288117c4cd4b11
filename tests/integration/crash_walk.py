"""Kill a storing archive at its every step, and look at what the next one finds. Run by test_archive_crash.

    python -m tests.integration.crash_walk FOLDER

For n = 1, 2, … a child stores some objects and dies by SIGKILL at the n-th call that touches the disk (write,
fsync, rename, unlink, commit), just before it. What it had acknowledged must be there, whole, with its debt.
Ends when a child lives through all of its work. Prints one line for each broken promise; exit code 1 if any.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import structlog
from prometheus_client import CollectorRegistry

from failover import durable
from failover.archive import arrival, compressing, decoder, instances, journal, straight
from failover.archive.codecs import decode
from failover.archive.compressor import Compressor
from failover.archive.damaged import Damaged
from failover.archive.decoders import Decoders
from failover.archive.index import Index
from failover.archive.instances import Instances
from failover.archive.janitor import Janitor
from failover.archive.ledger import Ledger
from failover.archive.pixels import Images, open_image
from failover.archive.retention import Policy
from failover.archive.troubles import Troubles
from failover.clock import SystemClock
from failover.errors import Conflict
from failover.metrics import ArchiveMetrics
from failover.model import DebtState, Origin
from tests.unit.archive.objects import data_set, part10, uid

# A kill by the kernel loses nothing of the page cache: what is shown is the order of the steps. That files,
# folders and rows are synced before the acknowledgement is shown by the count of fsyncs in the walk.
BIG = bytes(3 * 2**20)
AT_ONCE = 4
_STEPS = frozenset({
    "write", "writev", "pwrite", "pwritev", "fsync", "fdatasync", "posix_fallocate", "replace", "open",
})  # fmt: skip


def archive(folder: Path) -> tuple[Index, Instances, Janitor]:
    metrics, clock = ArchiveMetrics(CollectorRegistry()), SystemClock()
    index = Index(folder, has_primary=True)
    kept = Instances(folder, index, metrics, clock, owes=True, min_free_bytes=0)
    return index, kept, Janitor(folder, index, Policy(90, 10**12, 0, True), metrics, clock)


class Inline(Decoders):
    """The work of the compressing process, here, so that its steps are counted too."""

    async def _whole(self, **question: Any) -> bytes:
        return b"".join(decoder.answer(question, Images()))


async def compress(folder: Path, index: Index, kept: Instances) -> None:
    """Compress what is proven, and bring it back because it is owed again."""
    clock = SystemClock()
    metrics = ArchiveMetrics(CollectorRegistry())
    damaged = Damaged(folder, index, metrics, clock, Troubles(metrics))
    compressor = Compressor(folder, index, kept, damaged, "jpeg-lossless", {}, metrics, clock)
    compressor._worker = Inline()
    await compressor.turn()
    await Ledger(index, clock).mark([uid(7, 1, 1)], DebtState.OWED)
    await compressor.turn()


async def work(kept: Instances, acknowledge: Callable[[str], None]) -> None:
    """Store small ones, several at once, a large one in pieces, a correction, a conflict."""

    async def one(number: int, pixels: int = 32) -> None:
        await kept.store(part10(data_set(number, PixelData=bytes(pixels))), Origin.CALLER)
        acknowledge(f"{uid(number, 1, 1)} P{number}")

    await one(1)
    await asyncio.gather(one(2), one(3, pixels=200_000))  # of this size it goes past the cache
    incoming = kept.receive()
    await incoming.write(part10(data_set(4, PixelData=BIG)))
    await incoming.keep(Origin.CALLER)
    acknowledge(f"{uid(4, 1, 1)} P4")
    await kept.store(part10(data_set(5)), Origin.REPLICATED)
    await kept.store(part10(data_set(5, PatientID="RIGHT")), Origin.REPLICATED)
    acknowledge(f"{uid(5, 1, 1)} RIGHT")
    try:
        await kept.store(part10(data_set(1, PatientID="OTHER")), Origin.CALLER)
    except Conflict:
        acknowledge(f"quarantined {uid(1, 1, 1)}")
    await one(6)
    await kept.store(part10(data_set(7, Rows=64, Columns=64, PixelData=bytes(8192))), Origin.REPLICATED)
    acknowledge(f"{uid(7, 1, 1)} P7")


def die_at(step: int) -> None:
    """Make this process kill itself before its `step`-th call that touches the disk."""
    left = [step]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                # Long enough for an acknowledgement that came too early to get out: it would be caught.
                threading.Event().wait(0.05)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return replacement

    class Disk:
        """`os`, with its steps counted."""

        def __getattr__(self, name: str) -> Any:
            call = getattr(os, name)
            return counted(call) if name in _STEPS else call

    class Counted(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> Any:  # type: ignore[override]
            if sql == "COMMIT":
                return counted(super().execute)(sql, *arguments)
            return super().execute(sql, *arguments)

    for module in (durable, arrival, instances, compressing, journal, straight):
        module.os = Disk()  # type: ignore[attr-defined]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    connect = sqlite3.connect
    sqlite3.connect = lambda *a, **named: connect(*a, factory=Counted, **named)  # type: ignore[assignment]


def child(folder: Path, step: int, pipe: int) -> None:
    index, kept, _ = archive(folder)
    index.close()  # its tables are made: the steps of interest are those of storing
    kept.close()
    die_at(step)
    index, kept, _ = archive(folder)
    asyncio.run(work(kept, lambda line: void(os.write(pipe, line.encode() + b"\n"))))
    asyncio.run(compress(folder, index, kept))
    kept.close()
    index.close()


def void(_: object) -> None:
    return None


def broken_promises(folder: Path, acknowledged: list[str]) -> list[str]:
    index, kept, janitor = archive(folder)
    broken: list[str] = []
    janitor.at_start()
    ledger = Ledger(index, SystemClock())
    owed = {entry["sop_instance_uid"] for entry in ledger.entries([DebtState.OWED], limit=1000)}
    for line in acknowledged:
        first, second = line.split(" ")
        if first == "quarantined":
            found = [q for q in index.quarantined() if q["uid"] == second]
            if not found or not (folder / found[0]["path"]).is_file():
                broken.append("acknowledged as quarantined and not there")
            continue
        held = index.instance(first)
        if held is None:
            broken.append("acknowledged and not in the index")
        elif pydicom.dcmread(held.path).PatientID != second:
            broken.append("acknowledged and not what is kept")
        elif second == "P7":
            image = open_image(held.path)
            if image.transfer_syntax != held.transfer_syntax_uid or image.read_frame(1) == b"":
                broken.append("compressed and not what the row says")
            elif decode(image.read_frame(1), image.transfer_syntax, image.layout)[0].any():
                broken.append("compressed and not the same pixels")
        elif second != "RIGHT" and first not in owed:
            broken.append("acknowledged and not owed")
    for number in range(1, 8):
        held = index.instance(uid(number, 1, 1))
        if held is not None and held.path.stat().st_size != held.size_bytes:
            broken.append("a row without its whole file")
    for name in {path.parent.name for path in (folder / "objects").rglob("*.dcm")}:
        janitor.compare_folder(name)
    files = {str(p.relative_to(folder)) for p in (folder / "objects").rglob("*.dcm")}
    rows = {
        row["path"]
        for row in index.reader().execute("SELECT path FROM instances UNION ALL SELECT path FROM history")
    }
    if files != rows:
        broken.append("files and rows differ after the janitor")
    if list((folder / "incoming").iterdir()):
        broken.append("half an object is left")
    kept.close()
    index.close()
    return broken


@dataclass
class Storing:
    """A child that stores until it dies at `step`."""

    step: int
    folder: Path
    pid: int
    pipe: int

    def end(self) -> tuple[list[str], int]:
        """Wait for its end; return what it acknowledged, and how it ended."""
        with os.fdopen(self.pipe) as lines:
            acknowledged = lines.read().splitlines()
        return acknowledged, os.waitpid(self.pid, 0)[1]


def begin(base: Path, step: int) -> Storing:
    folder = base / str(step)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        child(folder, step, writing)
        os._exit(0)
    os.close(writing)
    return Storing(step, folder, pid, reading)


def main(base: Path) -> int:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50),
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    failed, step, walked = 0, 0, False
    while not walked:
        # Some at once: each waits for the disk, and before it dies.
        for last in [begin(base, step + n) for n in range(1, AT_ONCE + 1)]:
            if walked:  # one after the last step: it did the same as that one
                os.kill(last.pid, signal.SIGKILL)
                last.end()
                continue
            step = last.step
            acknowledged, status = last.end()
            walked = os.WIFEXITED(status)
            if walked and os.WEXITSTATUS(status):
                sys.stdout.write("the child failed\n")
                return 1
            # In a child of its own: threads of a parent that forks again would be lost.
            checker = os.fork()
            if checker == 0:
                broken = broken_promises(last.folder, acknowledged)
                for sentence in broken:
                    sys.stdout.write(f"killed at step {step}: {sentence}\n")
                sys.stdout.flush()
                os._exit(1 if broken else 0)
            failed += os.waitstatus_to_exitcode(os.waitpid(checker, 0)[1]) != 0
            shutil.rmtree(last.folder)
    sys.stdout.write(f"walked {step} steps\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
