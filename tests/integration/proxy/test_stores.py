"""STOW through the proxy: kept, replayed, read before it is believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from failover.model import Phase, Verdict
from tests.fakes.backend import Received, Talk, always, answer, die
from tests.fakes.web_stage import PRIMARY, Stage, web_stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]


STORED = (
    b'{"00081199":{"vr":"SQ","Value":[{"00081150":{"vr":"UI","Value":["1.2.840.10008.5.1.4.1.1.2"]},'
    b'"00081155":{"vr":"UI","Value":["1.2.3"]}}]}}'
)
NOTHING = b'{"00081198":{"vr":"SQ"},"00081199":{"vr":"SQ"}}'
JSON = "Content-Type: application/dicom+json"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with web_stage(tmp_path) as stage:
        stage.primary.script = always(answer(STORED, "200 OK", JSON))
        stage.backup.script = always(answer(STORED, "200 OK", JSON))
        yield stage


async def test_store_goes_to_the_primary(stage: Stage) -> None:
    answered = await stage.ask("/dicom-web/studies", method="POST", body=b"d" * 1000)
    assert (answered.status, answered.body, answered.upstream) == (200, STORED, "primary")
    assert stage.primary.requests[0].body == b"d" * 1000
    assert stage.proxy.last_store_on_backup_s is None
    assert stage.proxy.spool.memory_used_bytes == 0


async def test_store_is_replayed_when_the_primary_dies_after_the_body(stage: Stage) -> None:
    stage.primary.script = die
    body = bytes(range(256)) * 40_000  # 10 MB: on disk by then
    answered = await stage.ask("/dicom-web/studies", method="POST", body=body)
    assert (answered.status, answered.upstream) == (200, "backup")
    received = stage.backup.requests[0]
    assert received.target == "/archive/dicom-web/studies"
    assert received.body == body
    assert stage.proxy.last_store_on_backup_s is not None
    assert stage.proxy.spool.disk_used_bytes == 0


async def test_store_is_replayed_when_the_primary_dies_inside_the_body(stage: Stage) -> None:
    async def read_some(_: Received, talk: Talk) -> None:
        await talk.reader.readexactly(100_000)
        talk.die()

    stage.primary.read_bodies = False
    stage.primary.script = read_some
    body = bytes(range(256)) * 40_000
    answered = await stage.ask("/dicom-web/studies/1.2", method="POST", body=body)
    assert (answered.status, answered.upstream) == (200, "backup")
    assert stage.backup.requests[0].body == body


async def test_chunked_store_is_replayed(stage: Stage) -> None:
    stage.primary.script = die
    caller = await stage.caller()
    await caller.send(
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    )
    await caller.send(b"7;ext=1\r\n, world\r\n0\r\nTrailer: x\r\n\r\n")
    answered = await caller.answer("POST")
    assert (answered.status, answered.upstream) == (200, "backup")
    assert stage.backup.requests[0].body == b"hello, world"
    assert (await caller.ask("/dicom-web/studies")).status == 200


async def test_success_that_names_no_instance_is_a_failure(stage: Stage) -> None:
    stage.primary.script = always(answer(NOTHING, "200 OK", JSON))
    answered = await stage.ask("/dicom-web/studies", method="POST", body=b"d")
    assert (answered.status, answered.body, answered.upstream) == (200, STORED, "backup")
    await stage.backup.kill()
    answered = await stage.ask("/dicom-web/studies", method="POST", body=b"d")
    assert (answered.status, answered.upstream) == (502, "none")


@pytest.mark.parametrize("status", ["202 Accepted", "409 Conflict", "400 Bad Request"])
async def test_these_are_passed_on(stage: Stage, status: str) -> None:
    stage.primary.script = always(answer(NOTHING, status, JSON))
    answered = await stage.ask("/dicom-web/studies", method="POST", body=b"d")
    assert (answered.status, answered.upstream) == (int(status[:3]), "primary")
    assert stage.backup.requests == []


async def test_507_goes_to_the_backup(stage: Stage) -> None:
    stage.primary.script = always(answer(b"full", "507 Insufficient Storage"))
    answered = await stage.ask("/dicom-web/studies", method="POST", body=b"d")
    assert (answered.status, answered.upstream) == (200, "backup")


async def test_stores_are_held_until_the_route_turns(stage: Stage) -> None:
    route = stage.board.current
    stage.board.publish(replace(route, hold_stores=True))
    store = asyncio.ensure_future(stage.ask("/dicom-web/studies", method="POST", body=b"d"))  # noqa: TID251
    assert (await stage.ask("/dicom-web/studies")).status == 200  # reads go on
    assert not store.done()
    stage.board.publish(route)
    answered = await store
    assert (answered.status, answered.upstream) == (200, "primary")


async def test_held_stores_go_on_after_a_second(stage: Stage) -> None:
    stage.board.publish(replace(stage.board.current, hold_stores=True))
    answered = await stage.ask("/dicom-web/studies", method="POST", body=b"d")
    assert (answered.status, answered.upstream) == (200, "primary")


async def test_stores_follow_the_route(stage: Stage) -> None:
    stage.phase(Phase.FAILING_BACK)
    assert (await stage.ask("/dicom-web/studies", method="POST", body=b"d")).upstream == "primary"
    stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
    assert (await stage.ask("/dicom-web/studies", method="POST", body=b"d")).upstream == "backup"


async def test_store_waiting_for_its_answer_moves_when_the_primary_is_suspect(stage: Stage) -> None:
    async def silent(_: Received, talk: Talk) -> None:
        await talk.reader.read()

    stage.primary.script = silent
    caller = await stage.caller()
    await caller.send(b"POST /dicom-web/studies HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
    await stage.primary.received()
    stage.verdict(PRIMARY, Verdict.SUSPECT)
    answered = await caller.answer("POST")
    assert (answered.status, answered.upstream) == (200, "backup")
    assert stage.backup.requests[0].body == b"body"


async def test_full_spool_sends_the_body_on_unprotected_and_counts_it(stage: Stage) -> None:
    stage.proxy.spool._memory_bytes = stage.proxy.spool._disk_bytes = 1000
    body = b"d" * 3_000_000
    answered = await stage.ask("/dicom-web/studies", method="POST", body=body)
    assert (answered.status, answered.upstream) == (200, "primary")
    assert stage.primary.requests[0].body == body
    assert stage.counted("failover_http_unprotected_total", reason="spool_full") == 1
    stage.primary.script = die
    answered = await stage.ask("/dicom-web/studies", method="POST", body=body)
    assert (answered.status, answered.upstream) == (502, "none")
    assert stage.backup.requests == []


async def test_expect_continue_is_answered_by_us(stage: Stage) -> None:
    caller = await stage.caller()
    await caller.send(
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    )
    assert (await caller.head()).status == 100
    await caller.send(b"body")
    answered = await caller.answer("POST")
    assert answered.status == 200
    received = stage.primary.requests[0]
    assert received.body == b"body"
    assert received.header("Expect") is None
