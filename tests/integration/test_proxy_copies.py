"""DESIGN 4.4: what the primary took is copied to the backup; in `failing_back` before the acknowledgement."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from failover.model import Phase, UpstreamName, Verdict
from tests.fakes.backend import Received, Talk, always, answer
from tests.fakes.callers import Answered
from tests.fakes.web_stage import Stage, web_stage

pytestmark = pytest.mark.integration
STUDIES = "/dicom-web/studies"
KIND = 'multipart/related; type="application/dicom"; boundary=b'
BODY = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + b"x" * 300_000 + b"\r\n--b--\r\n"
NAMED = {"00081155": {"vr": "UI", "Value": ["1.2.3"]}}
STORED = json.dumps({"00081199": {"vr": "SQ", "Value": [NAMED]}}).encode()
PARTLY = json.dumps(
    {"00081199": {"vr": "SQ", "Value": [NAMED]}, "00081198": {"vr": "SQ", "Value": [NAMED]}}
).encode()


async def store(stage: Stage) -> Answered:
    return await stage.ask(f"{STUDIES}/1.2", f"Content-Type: {KIND}", method="POST", body=BODY)


def says(body: bytes) -> bytes:
    return answer(body, "200 OK", "Content-Type: application/dicom+json")


async def counted(stage: Stage, result: str) -> None:
    """Return once one copy ended with `result`."""
    async with asyncio.timeout(20):
        while stage.counted("failover_http_copies_total", result=result) < 1:
            await asyncio.wait_for(asyncio.shield(stage.proxy.clock.sleep(0.01)), 1)


async def test_with_tee_the_backup_gets_the_same_bytes_and_the_word(tmp_path: Path) -> None:
    async with web_stage(tmp_path, copies=True) as stage:
        stage.primary.script = stage.backup.script = always(says(STORED))
        answered = await store(stage)
        assert (answered.status, answered.upstream) == (200, "primary")
        copy = await stage.backup.received()
        assert copy.target == "/archive/dicom-web/studies/1.2"
        assert copy.body == BODY
        assert copy.header("Content-Type") == KIND
        assert [copy.header("X-Failover-Copy")] == stage.told
        await counted(stage, "copied")
        assert stage.proxy.spool.memory_used_bytes == 0


async def test_without_tee_nothing_is_copied_in_calm(tmp_path: Path) -> None:
    async with web_stage(tmp_path, copies=True, tee=False) as stage:
        stage.primary.script = stage.backup.script = always(says(STORED))
        assert (await store(stage)).status == 200
        assert not stage.backup.requests
        assert not stage.told


@pytest.mark.parametrize("foreign", [False, True])
async def test_in_failing_back_the_acknowledgement_waits_for_the_copy(tmp_path: Path, foreign: bool) -> None:
    async with web_stage(tmp_path, copies=True, tee=False, foreign_backup=foreign) as stage:
        stage.phase(Phase.FAILING_BACK)
        stored = asyncio.Event()

        async def slowly(_: Received, talk: Talk) -> None:
            await stored.wait()
            await talk.send(says(STORED))

        stage.primary.script, stage.backup.script = always(says(STORED)), slowly
        storing = asyncio.gather(store(stage))
        await stage.backup.received()
        assert not storing.done()
        stored.set()
        (answered,) = await storing
        assert (answered.status, answered.upstream) == (200, "primary")
        assert bool(stage.told) is not foreign


async def test_a_backup_that_does_not_answer_holds_the_acknowledgement_a_second_and_no_longer(
    tmp_path: Path,
) -> None:
    async with web_stage(tmp_path, copies=True) as stage:
        stage.phase(Phase.FAILING_BACK)
        never = asyncio.Event()

        async def hangs(_: Received, __: Talk) -> None:
            await never.wait()

        stage.primary.script, stage.backup.script = always(says(STORED)), hangs
        async with asyncio.timeout(20):
            answered = await store(stage)
        assert (answered.status, answered.whole) == (200, True)
        never.set()


@pytest.mark.parametrize(
    ("status", "body"), [("200 OK", PARTLY), ("202 Accepted", STORED), ("409 Conflict", PARTLY)]
)
async def test_what_the_primary_did_not_take_whole_is_not_copied(
    tmp_path: Path, status: str, body: bytes
) -> None:
    async with web_stage(tmp_path, copies=True) as stage:
        stage.primary.script = always(answer(body, status, "Content-Type: application/dicom+json"))
        assert (await store(stage)).status == int(status[:3])
        assert not stage.backup.requests


async def test_a_copy_that_fails_harms_nobody(tmp_path: Path) -> None:
    async with web_stage(tmp_path, copies=True) as stage:
        stage.primary.script = always(says(STORED))
        stage.backup.script = always(answer(b"", "507 Insufficient Storage"))
        assert (await store(stage)).status == 200
        await counted(stage, "failed")


async def test_while_the_backup_is_down_copies_are_dropped_and_counted(tmp_path: Path) -> None:
    async with web_stage(tmp_path, copies=True) as stage:
        stage.primary.script = always(says(STORED))
        stage.verdict(UpstreamName.BACKUP, Verdict.DOWN)
        assert (await store(stage)).status == 200
        await counted(stage, "dropped")
        assert not stage.backup.requests


async def test_what_the_backup_stored_itself_is_no_copy(tmp_path: Path) -> None:
    async with web_stage(tmp_path, copies=True) as stage:
        stage.phase(Phase.ON_BACKUP)
        stage.backup.script = always(says(STORED))
        answered = await store(stage)
        assert (answered.status, answered.upstream) == (200, "backup")
        assert [request.header("X-Failover-Copy") for request in stage.backup.requests] == [None]
