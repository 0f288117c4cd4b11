"""A read that is slow at the primary is asked of the backup too (DESIGN 4.2), on real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from failover.clock import SystemClock
from failover.compiled import is_compiled
from failover.config.schema import Hedge
from failover.model import Verdict
from failover.proxy.attempt import Attempt
from failover.proxy.hedge import BURST
from tests.fakes.backend import Received, Script, Talk, always, answer, die, silent
from tests.fakes.callers import Answered
from tests.fakes.clocks import FastClock
from tests.fakes.web_stage import BACKUP, PRIMARY, Stage, web_stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]

STUDY = "/dicom-web/studies/1.2"
FRAME = STUDY + "/series/1.2.3/instances/1.2.3.4/frames/1"
QUICK = Hedge(after_min=0.02, after_max=0.05)
COOKIE = "Cookie: session=0123456789abcdef"
PICTURE = answer(b"backup", "200 OK", "Content-Type: multipart/related")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with web_stage(tmp_path, hedge=QUICK) as stage:
        yield stage


def until(let_go: asyncio.Event, data: bytes) -> Script:
    """Answer with `data` once the event is set."""

    async def script(_: Received, talk: Talk) -> None:
        await let_go.wait()
        await talk.send(data)

    return script


async def known(stage: Stage, *lines: str) -> None:
    """The primary has just given the caller something of the study."""
    assert (await stage.ask(FRAME, *lines)).upstream == "primary"


def hedges(stage: Stage) -> dict[str, float]:
    results = ("won", "lost", "failed", "over_budget")
    counted = {one: stage.counted("failover_http_hedges_total", result=one) for one in results}
    return {one: count for one, count in counted.items() if count}


async def had_its_chance(stage: Stage) -> None:
    """A hedge that could have begun before now would have: one that begins later has ended."""
    asked = len(stage.backup.requests)
    assert (await stage.ask(FRAME)).upstream == "backup"
    assert len(stage.backup.requests) == asked + 1


async def settled(stage: Stage, result: str) -> None:
    async with asyncio.timeout(20):
        while not hedges(stage).get(result):
            await SystemClock().sleep(0.005)


async def test_a_slow_frame_is_answered_by_the_backup_and_the_primary_is_left(stage: Stage) -> None:
    await known(stage)
    stage.primary.script = silent  # until the other side goes
    answered = await stage.ask(FRAME)
    assert (answered.status, answered.body, answered.upstream) == (200, b"backup", "backup")
    assert hedges(stage) == {"won": 1}
    assert stage.counted("failover_http_moved_total", reason="hedge") == 1
    assert (stage.proxy.in_flight(PRIMARY), stage.proxy.in_flight(BACKUP)) == (0, 0)


async def test_a_large_answer_of_the_backup_streams_on(stage: Stage) -> None:
    await known(stage)
    stage.primary.script = silent
    large = b"b" * 3_000_000
    stage.backup.script = always(answer(large))
    assert (await stage.ask(FRAME)).body == large


@pytest.mark.parametrize(
    "target",
    [
        "/dicom-web/studies?PatientID=1",
        STUDY + "/series",
        STUDY,
        STUDY + "/series/1.2.3",
        STUDY + "/metadata",
        FRAME + "/rendered",
    ],
)
async def test_a_slow_search_series_study_or_picture_waits_for_the_primary(stage: Stage, target: str) -> None:
    await known(stage)
    let_go = asyncio.Event()
    stage.primary.script = until(let_go, answer(b"late"))
    asking = asyncio.ensure_future(stage.ask(target))  # noqa: TID251 (the test awaits it)
    await stage.primary.received(2)
    await had_its_chance(stage)
    let_go.set()
    assert (await asking).body == b"late"
    assert len(stage.backup.requests) == 1


@pytest.mark.parametrize(
    "theirs",
    [
        answer(b"", "404 Not Found"),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        answer(b"x", "206 Partial Content"),
        answer(b"", "302 Found", "Location: /.failover/"),
        answer(b"no", "401 Unauthorized"),
        answer(b"no", "503 Service Unavailable"),
        b"rubbish\r\n\r\n",
        None,
    ],
)
async def test_what_is_not_whole_at_the_backup_never_wins(stage: Stage, theirs: bytes | None) -> None:
    await known(stage)
    let_go = asyncio.Event()
    stage.primary.script = until(let_go, answer(b"late"))
    stage.backup.script = die if theirs is None else always(theirs)
    asking = asyncio.ensure_future(stage.ask(FRAME))  # noqa: TID251 (the test awaits it)
    await settled(stage, "failed")
    let_go.set()
    answered = await asking
    assert (answered.status, answered.body, answered.upstream) == (200, b"late", "primary")
    assert hedges(stage) == {"failed": 1}


async def test_when_the_primary_answers_first_the_other_is_left(stage: Stage) -> None:
    await known(stage)
    let_go = asyncio.Event()
    stage.primary.script = until(let_go, answer(b"late"))
    stage.backup.script = silent
    asking = asyncio.ensure_future(stage.ask(FRAME))  # noqa: TID251 (the test awaits it)
    await stage.backup.received()
    let_go.set()
    assert (await asking).body == b"late"
    assert hedges(stage) == {"lost": 1}
    assert stage.proxy.in_flight(BACKUP) == 0


async def test_a_primary_that_dies_meanwhile_leaves_the_answer_to_the_one_already_asked(stage: Stage) -> None:
    await known(stage)
    die_now, let_go = asyncio.Event(), asyncio.Event()

    async def dying(_: Received, talk: Talk) -> None:
        await die_now.wait()
        talk.die()

    stage.primary.script = dying
    stage.backup.script = until(let_go, PICTURE)
    asking = asyncio.ensure_future(stage.ask(FRAME))  # noqa: TID251 (the test awaits it)
    await stage.backup.received()
    die_now.set()
    let_go.set()
    assert (await asking).body == b"backup"
    assert len(stage.backup.requests) == 1


async def test_a_failing_primary_does_not_beat_a_backup_that_is_on_its_way(stage: Stage) -> None:
    await known(stage)
    fail, let_go = asyncio.Event(), asyncio.Event()
    stage.primary.script = until(fail, answer(b"no", "500 Internal Server Error"))
    stage.backup.script = until(let_go, PICTURE)
    asking = asyncio.ensure_future(stage.ask(FRAME))  # noqa: TID251 (the test awaits it)
    await stage.backup.received()
    fail.set()
    let_go.set()
    assert (await asking).body == b"backup"
    assert len(stage.backup.requests) == 1


async def test_when_both_die_the_caller_is_told(tmp_path: Path) -> None:
    async with web_stage(tmp_path, hedge=QUICK, clock=FastClock()) as stage:
        await known(stage)
        die_now = asyncio.Event()

        async def dying(_: Received, talk: Talk) -> None:
            await die_now.wait()
            talk.die()

        stage.primary.script = stage.backup.script = dying
        asking = asyncio.ensure_future(stage.ask(FRAME))  # noqa: TID251 (the test awaits it)
        await stage.backup.received()
        await stage.primary.kill()
        await stage.backup.kill()
        die_now.set()
        answered: Answered = await asking
        assert answered.status == 503
        assert answered.header("Retry-After") is not None


async def test_a_backup_that_breaks_after_it_won_is_followed_by_the_primary(stage: Stage) -> None:
    await known(stage)
    stage.primary.script = silent

    async def half(_: Received, talk: Talk) -> None:
        stage.primary.script = always(answer(b"whole"))
        await talk.send(answer(b"whole")[:-2])
        talk.die()

    stage.backup.script = half
    answered = await stage.ask(FRAME)
    assert (answered.body, answered.upstream) == (b"whole", "primary")


async def test_who_shows_something_else_or_another_study_waits_for_the_primary(stage: Stage) -> None:
    await known(stage)
    await known(stage, COOKIE)
    let_go = asyncio.Event()
    stage.primary.script = until(let_go, answer(b"no", "401 Unauthorized"))
    other = FRAME.replace("1.2/", "1.9/", 1)
    asking = [
        asyncio.ensure_future(asked)  # noqa: TID251 (the test awaits them)
        for asked in (
            stage.ask(FRAME, "Authorization: Basic Yjpi", COOKIE),
            stage.ask(FRAME, "Cookie: session=fedcba9876543210"),
            stage.ask(other, COOKIE),
        )
    ]
    await stage.primary.received(5)
    await had_its_chance(stage)
    let_go.set()
    assert [one.status for one in await asyncio.gather(*asking)] == [401, 401, 401]
    assert len(stage.backup.requests) == 1


async def test_who_is_refused_once_is_not_let_in_by_a_later_hedge(stage: Stage) -> None:
    await known(stage)
    await known(stage, COOKIE)
    stage.primary.script = always(answer(b"no", "403 Forbidden"))
    assert (await stage.ask(FRAME, COOKIE)).status == 403
    let_go = asyncio.Event()
    stage.primary.script = until(let_go, answer(b"no", "403 Forbidden"))
    asking = asyncio.ensure_future(stage.ask(FRAME, COOKIE))  # noqa: TID251 (the test awaits it)
    await stage.primary.received(4)
    await had_its_chance(stage)
    let_go.set()
    assert (await asking).status == 403
    assert len(stage.backup.requests) == 1


async def test_a_caller_whom_access_does_not_admit_is_never_hedged(stage: Stage) -> None:
    await known(stage)
    stage.admitted.clear()
    let_go = asyncio.Event()
    stage.primary.script = until(let_go, answer(b"late"))
    asking = asyncio.ensure_future(stage.ask(FRAME))  # noqa: TID251 (the test awaits it)
    await stage.primary.received(2)
    stage.admitted.add("127.0.0.1")
    await had_its_chance(stage)
    let_go.set()
    assert (await asking).body == b"late"
    assert len(stage.backup.requests) == 1


async def test_no_hedge_while_the_backup_is_in_doubt_or_the_operator_says_no(stage: Stage) -> None:
    await known(stage)
    let_go = asyncio.Event()
    stage.primary.script = until(let_go, answer(b"late"))
    stage.proxy.change(stage.proxy.listen, stage.proxy.admits, Hedge(enabled=False))
    first = asyncio.ensure_future(stage.ask(FRAME))  # noqa: TID251 (the test awaits it)
    await stage.primary.received(2)
    stage.proxy.change(stage.proxy.listen, stage.proxy.admits, QUICK)
    await had_its_chance(stage)
    stage.verdict(BACKUP, Verdict.SUSPECT)
    second = asyncio.ensure_future(stage.ask(FRAME))  # noqa: TID251 (the test awaits it)
    await stage.primary.received(4)
    # Its timer was set before the primary got it; one that is set now and as long fires after it.
    chance = asyncio.Event()
    asyncio.get_running_loop().call_later(QUICK.after_max, chance.set)
    await chance.wait()
    let_go.set()
    assert [(await one).body for one in (first, second)] == [b"late", b"late"]
    assert len(stage.backup.requests) == 1


async def test_slowness_of_the_primary_does_not_double_the_load_on_the_backup(stage: Stage) -> None:
    await known(stage)
    let_go = asyncio.Event()
    stage.primary.script = until(let_go, answer(b"late"))
    count = 60
    asking = [asyncio.ensure_future(stage.ask(FRAME)) for _ in range(count)]  # noqa: TID251
    async with asyncio.timeout(20):
        while sum(hedges(stage).values()) < count:
            await SystemClock().sleep(0.005)
    let_go.set()
    bodies = [one.body for one in await asyncio.gather(*asking)]
    assert BURST <= bodies.count(b"backup") <= BURST + 3
    assert bodies.count(b"late") == count - bodies.count(b"backup")


async def test_a_caller_who_leaves_ends_both(stage: Stage) -> None:
    await known(stage)
    stage.primary.script = stage.backup.script = silent
    caller = await stage.caller()
    await caller.send(f"GET {FRAME} HTTP/1.1\r\nHost: pacs.example\r\n\r\n".encode())
    await stage.backup.received()
    # By a reset: one that only says no more would still be answered.
    sock = caller.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.writer.transport.abort()
    async with asyncio.timeout(20):
        while stage.proxy.in_flight(PRIMARY) or stage.proxy.in_flight(BACKUP):
            await SystemClock().sleep(0.005)
    assert hedges(stage) == {"lost": 1}


@pytest.mark.skipif(is_compiled(), reason="replaces a method, which compiled code does not see (ADR 7)")
@pytest.mark.parametrize("step", ["start", "_send", "answered_whole"])
async def test_a_fault_of_ours_at_the_second_attempt_leaves_the_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await known(stage)
    works = getattr(Attempt, step)

    def fails(attempt: Attempt, *given: object, **named: object) -> object:
        if attempt.name is BACKUP:
            raise KeyError("a fault of ours")
        return works(attempt, *given, **named)

    monkeypatch.setattr(Attempt, step, fails)
    let_go = asyncio.Event()
    stage.primary.script = until(let_go, answer(b"late"))
    asking = asyncio.ensure_future(stage.ask(FRAME))  # noqa: TID251 (the test awaits it)
    await settled(stage, "failed")
    let_go.set()
    answered = await asking
    assert (answered.status, answered.upstream, answered.body) == (200, "primary", b"late")
    assert [stage.proxy.in_flight(name) for name in (PRIMARY, BACKUP)] == [0, 0]
