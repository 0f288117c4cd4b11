"""An archive on a disk that others have filled; `test_archive_full_disk` runs it step by step on a tmpfs."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from failover.clock import SystemClock
from tests.integration.archive_stage import dcmtk
from tests.integration.dicomweb_stage import WebStage, a_web_archive
from tests.unit.archive.objects import an_object

LIMIT_S = 60.0
BALLAST = "ballast"


def fill(ballast: Path) -> None:
    """Leave not one byte of room."""
    with ballast.open("ab", buffering=0) as file:
        for piece in (b"\0" * 65536, b"\0" * 512, b"\0"):
            try:
                while file.write(piece):
                    pass
            except OSError:
                continue
    assert os.statvfs(ballast.parent).f_bavail == 0


async def storescu(stage: WebStage, file: Path) -> str:
    dicom = stage.configuration.archive.dicom
    _, said = await dcmtk("storescu", "-d", "-aec", "MINIPACS", "127.0.0.1", dicom.port, file)
    return said


async def begin(disk: Path, _: Path) -> None:
    """Store one, stop; what could be made again is gone, and others take all that is left."""
    async with a_web_archive(disk, filled=False, min_free="8MB") as stage:
        assert (await stage.store(an_object(1)))[0] == 200
        assert (await stage.ask("ledger.numbers"))["troubles"] == {}
    for kept in stage.configuration.archive.data_dir.glob("metadata.sqlite*"):
        kept.unlink()
    fill(disk / BALLAST)


async def full(disk: Path, file: Path) -> None:
    """It starts where there is no room, reads, refuses, says so; then others take what it gave back."""
    async with a_web_archive(disk, filled=False, min_free="8MB") as stage:
        fill(disk / BALLAST)
        assert len(await stage.search("/studies")) == 1, "it reads"
        status, _ = await stage.store(an_object(2))
        assert status == 507, status
        assert "0xa700" in (await storescu(stage, file)).lower()
        assert list((await stage.ask("ledger.numbers"))["troubles"]) == ["no_room"]
        metrics = (await stage.ask("metrics"))["text"]
        assert 'failover_archive_trouble{trouble="no_room"} 1.0' in metrics
    fill(disk / BALLAST)


async def room(disk: Path, file: Path) -> None:
    """It takes stores again as soon as there is room."""
    async with a_web_archive(disk, filled=False, min_free="8MB") as stage:
        (disk / BALLAST).unlink()
        assert (await stage.store(an_object(2)))[0] == 200
        assert "0x0000" in (await storescu(stage, file)).lower()
        async with asyncio.timeout(LIMIT_S):
            while (await stage.ask("ledger.numbers"))["troubles"]:
                await SystemClock().sleep(0.1)


if __name__ == "__main__":
    steps = {"begin": begin, "full": full, "room": room}
    own = Path(sys.argv[3], "one.dcm")
    own.write_bytes(an_object(3))
    asyncio.run(steps[sys.argv[1]](Path(sys.argv[2]), own))
