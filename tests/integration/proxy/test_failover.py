"""DESIGN 4.2, row by row, on real sockets: the primary dies, hangs or lies, and what a caller gets."""

from __future__ import annotations

import asyncio

import pytest

from failover.model import Phase, Verdict
from tests.fakes.backend import always, answer, die, silent
from tests.fakes.web_stage import BACKUP, PRIMARY, Stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]


async def test_calm_reads_come_from_the_primary(stage: Stage) -> None:
    answered = await stage.ask("/dicom-web/studies?PatientID=1")
    assert (answered.status, answered.body, answered.upstream) == (200, b"primary", "primary")
    received = stage.primary.requests[0]
    assert received.target == "/dicom-web/studies?PatientID=1"
    assert received.header("Host") == "pacs.example"
    assert received.header("X-Forwarded-For") == "127.0.0.1"
    assert received.header("Forwarded") == "for=127.0.0.1;host=pacs.example;proto=http"


async def test_dead_port_is_answered_by_the_backup_in_the_same_request(stage: Stage) -> None:
    await stage.primary.kill()
    answered = await stage.ask("/dicom-web/studies")
    assert (answered.status, answered.body, answered.upstream) == (200, b"backup", "backup")
    received = stage.backup.requests[0]
    assert received.target == "/archive/dicom-web/studies"
    assert received.header("X-Failover-Via") == "router"
    assert received.header("X-Failover-Prefix") == "/dicom-web"
    assert stage.counted("failover_http_moved_total", reason="unreachable") == 1


async def test_safe_request_moves_when_its_connection_dies(stage: Stage) -> None:
    stage.primary.script = die
    answered = await stage.ask("/dicom-web/studies/1.2/metadata")
    assert (answered.status, answered.body) == (200, b"backup")


async def test_held_answer_that_breaks_is_fetched_from_the_backup_unseen(stage: Stage) -> None:
    async def half(_: object, talk: object) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)  # type: ignore[attr-defined]
        talk.die()  # type: ignore[attr-defined]

    stage.primary.script = half
    answered = await stage.ask("/dicom-web/studies/1.2/metadata")
    assert (answered.status, answered.body, answered.upstream) == (200, b"backup", "backup")


async def test_waiting_request_moves_when_the_primary_becomes_suspect(stage: Stage) -> None:
    stage.primary.script = silent
    caller = await stage.caller()
    await caller.send(b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\n\r\n")
    await stage.primary.received()
    stage.verdict(PRIMARY, Verdict.SUSPECT)
    answered = await caller.answer()
    assert (answered.status, answered.upstream) == (200, "backup")
    assert stage.counted("failover_http_moved_total", reason="primary_suspect") == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 507])
async def test_failing_status_of_the_primary_is_asked_of_the_backup(stage: Stage, status: int) -> None:
    stage.primary.script = always(answer(b"broken", f"{status} No"))
    answered = await stage.ask("/dicom-web/studies")
    assert (answered.status, answered.body, answered.upstream) == (200, b"backup", "backup")
    stage.backup.script = always(answer(b"[]"))
    answered = await stage.ask("/dicom-web/studies")
    assert (answered.status, answered.body, answered.upstream) == (status, b"broken", "primary")


@pytest.mark.parametrize("not_whole", [
    answer(b"[]"), answer(b"", "204 No Content"), answer(b"x", "206 Partial Content"),
    answer(b"x", "404 Not Found"), answer(b"x", "503 No"),
])  # fmt: skip
async def test_answer_that_is_not_whole_does_not_count_while_the_primary_is_suspect(
    stage: Stage, not_whole: bytes
) -> None:
    stage.backup.script = always(not_whole)
    stage.verdict(PRIMARY, Verdict.SUSPECT)
    answered = await stage.ask("/dicom-web/studies")
    assert (answered.status, answered.body, answered.upstream) == (200, b"primary", "primary")
    assert len(stage.backup.requests) == 1


async def test_it_waits_for_a_suspect_primary_that_refuses_until_it_is_down(stage: Stage) -> None:
    await stage.primary.kill()
    stage.backup.script = always(answer(b"[]"))
    stage.verdict(PRIMARY, Verdict.SUSPECT)
    caller = await stage.caller()
    await caller.send(b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\n\r\n")
    await stage.backup.received()
    stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
    answered = await caller.answer()
    assert (answered.status, answered.body, answered.upstream) == (200, b"[]", "backup")


async def test_unsafe_request_is_never_repeated_once_sent(stage: Stage) -> None:
    stage.primary.script = die
    answered = await stage.ask("/api/things", method="POST", body=b"x=1")
    assert (answered.status, answered.upstream) == (502, "none")
    assert len(stage.primary.requests) == 1
    assert stage.backup.requests == []


async def test_unsafe_request_gets_503_when_the_primary_is_down(stage: Stage) -> None:
    await stage.primary.kill()
    stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
    answered = await stage.ask("/api/things", method="POST", body=b"x=1")
    assert (answered.status, answered.upstream) == (503, "none")
    assert answered.header("Retry-After") == "5"
    assert stage.backup.requests == []


async def test_strangers_wait_and_get_503_when_the_primary_is_down(stage: Stage) -> None:
    stage.admitted.clear()
    stage.primary.script = silent
    caller = await stage.caller()
    await caller.send(b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\n\r\n")
    await stage.primary.received()
    stage.verdict(PRIMARY, Verdict.SUSPECT)
    stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
    answered = await caller.answer()
    assert (answered.status, answered.upstream) == (503, "none")
    assert stage.backup.requests == []
    assert (await stage.ask("/.failover/")).status == 403


async def test_backup_mode_pages_go_to_the_viewer(stage: Stage) -> None:
    stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
    answered = await stage.ask("/app/explorer.html", "Accept: text/html,*/*")
    assert (answered.status, answered.header("Location")) == (302, "/.failover/")
    assert answered.header("Cache-Control") == "no-store"
    answered = await stage.ask("/.failover/studies", "Accept: text/html")
    assert (answered.upstream, stage.backup.requests[-1].target) == ("backup", "/.failover/studies")


async def test_page_waits_for_a_suspect_primary_instead_of_going_to_the_viewer(stage: Stage) -> None:
    stage.verdict(PRIMARY, Verdict.SUSPECT)
    answered = await stage.ask("/app/explorer.html", "Accept: text/html")
    assert (answered.status, answered.upstream) == (200, "primary")


async def test_backup_mode_asks_the_primary_for_what_the_backup_does_not_hold(stage: Stage) -> None:
    stage.backup.script = always(answer(b"not here", "404 Not Found"))
    stage.phase(Phase.FAILING_BACK)
    answered = await stage.ask("/dicom-web/studies/1.2")
    assert (answered.status, answered.body, answered.upstream) == (200, b"primary", "primary")
    stage.primary.script = always(answer(b"nor here", "404 Not Found"))
    answered = await stage.ask("/dicom-web/studies/1.2")
    assert (answered.status, answered.body, answered.upstream) == (404, b"nor here", "primary")
    stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
    answered = await stage.ask("/dicom-web/studies/1.2")
    assert (answered.status, answered.upstream) == (503, "none")
    assert answered.header("Retry-After") == "5"


async def test_backup_mode_sends_other_requests_to_a_primary_that_is_up(stage: Stage) -> None:
    stage.phase(Phase.ON_BACKUP)
    answered = await stage.ask("/api/things", method="POST", body=b"x=1")
    assert (answered.status, answered.upstream) == (200, "primary")
    answered = await stage.ask("/app/main.js")
    assert (answered.status, answered.upstream) == (200, "primary")


async def test_neither_can_take_it_then_one_comes_back(stage: Stage) -> None:
    await stage.primary.kill()
    await stage.backup.kill()
    caller = await stage.caller()
    await caller.send(b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\n\r\n")
    while stage.proxy.sides[BACKUP].pool._addresses == []:
        await stage.proxy.clock.sleep(0.01)
    await stage.backup.start()
    answered = await caller.answer()
    assert (answered.status, answered.upstream) == (200, "backup")


async def test_stale_kept_connection_is_replaced_unseen(stage: Stage) -> None:
    caller = await stage.caller()
    assert (await caller.ask("/dicom-web/studies")).upstream == "primary"
    stage.primary.script = die
    first = stage.primary.script

    async def once(received: object, talk: object) -> None:
        stage.primary.script = None
        await first(received, talk)  # type: ignore[arg-type]

    stage.primary.script = once
    answered = await caller.ask("/dicom-web/studies")
    assert (answered.status, answered.upstream) == (200, "primary")
    assert [r.connection for r in stage.primary.requests] == [1, 1, 2]


async def test_when_a_drain_ends_a_waiting_read_is_answered_by_the_backup(stage: Stage) -> None:
    stage.primary.script = silent
    caller = await stage.caller()
    await caller.send(b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\n\r\n")
    await stage.primary.received()
    stage.drain()
    assert stage.proxy.in_flight(PRIMARY) == 1  # the grace is running
    assert stage.proxy.end_work(PRIMARY) == 1
    answered = await caller.answer()
    assert (answered.status, answered.upstream) == (200, "backup")
    assert stage.proxy.in_flight(PRIMARY) == 0
    assert stage.counted("failover_http_moved_total", reason="work_ended") == 1


async def test_when_a_drain_ends_what_may_not_be_repeated_gets_502(stage: Stage) -> None:
    stage.primary.script = silent
    caller = await stage.caller()
    await caller.send(b"POST /api/things HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nx=1")
    await stage.primary.received()
    stage.drain()
    assert stage.proxy.end_work(PRIMARY) == 1
    answered = await caller.answer()
    assert (answered.status, answered.upstream) == (502, "none")
    assert not stage.backup.requests


async def test_when_a_drain_ends_a_half_sent_answer_is_broken_visibly(stage: Stage) -> None:
    async def half(_: object, talk: object) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 500)  # type: ignore[attr-defined]
        await silent(_, talk)  # type: ignore[arg-type]

    stage.primary.script = half
    caller = await stage.caller()
    await caller.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    await caller.reader.readuntil(b"\r\n\r\n")
    stage.drain()
    assert stage.proxy.end_work(PRIMARY) == 1
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await caller.reader.readexactly(9_000_000)
    assert stage.proxy.in_flight(PRIMARY) == 0


async def test_when_a_drain_ends_idle_connections_to_the_primary_are_closed(stage: Stage) -> None:
    await stage.ask("/dicom-web/studies")
    stage.drain()
    assert stage.proxy.end_work(PRIMARY) == 0
    assert stage.proxy.sides[PRIMARY].pool.take() is None


async def test_who_has_just_come_is_answered_by_a_proxy_that_stops(stage: Stage) -> None:
    idle, newcomer = await stage.caller(), await stage.caller()
    assert (await idle.ask("/dicom-web/studies")).status == 200
    while len(stage.proxy._callers) < 2:
        await stage.proxy.clock.sleep(0.01)
    stopping = asyncio.gather(stage.proxy.stop(2.0))
    assert await idle.ended() == b""
    answered = await newcomer.ask("/dicom-web/studies")
    assert (answered.status, answered.header("connection")) == (200, "close")
    await stopping


async def test_attempts_that_fail_leave_nothing_behind(stage: Stage) -> None:
    await stage.primary.kill()
    for _ in range(3):
        assert (await stage.ask("/dicom-web/studies")).upstream == "backup"
    assert not stage.proxy.sides[PRIMARY].pool._open
