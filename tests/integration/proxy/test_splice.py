"""Large answers that nobody here reads go from socket to socket (ADR 10), and no caller sees it."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
from pathlib import Path

import psutil
import pytest

from failover.model import UpstreamName
from failover.proxy import splice
from tests.fakes.backend import Received, Script, Talk, always, answer
from tests.fakes.callers import RawCaller
from tests.fakes.web_stage import PRIMARY, Stage, web_stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
    pytest.mark.skipif(not hasattr(os, "splice"), reason="this system has no splice(2)"),
]
BODY = random.Random(3).randbytes(4_000_000)
GET = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[splice.Splice]:
    """Every splice that begins."""
    found: list[splice.Splice] = []

    class Seen(splice.Splice):
        def go(self) -> None:
            if self not in found:
                found.append(self)
            super().go()

    monkeypatch.setattr(splice, "Splice", Seen)
    return found


async def _turn() -> None:
    await asyncio.wait([asyncio.get_running_loop().run_in_executor(None, int)])


async def _at_rest(stage: Stage, descriptors: int) -> None:
    """Wait until nobody is here and all that was opened is closed."""
    async with asyncio.timeout(20):
        while stage.proxy._callers or any(stage.proxy.in_flight(name) for name in UpstreamName):
            await _turn()
        while psutil.Process().num_fds() > descriptors:
            await _turn()
    assert splice.Splice.all_stuck == 0


def stops_after(count: int, then: asyncio.Event, *, die: bool = False) -> Script:
    async def script(_: Received, talk: Talk) -> None:
        whole = answer(BODY)
        await talk.send(whole[:count])
        await then.wait()
        if die:
            talk.die()
        else:
            await talk.send(whole[count:])

    return script


async def _is_reset(caller: RawCaller) -> bool:
    """Read to the end: whether it came as a reset, and not as an end that might be one."""
    try:
        while await caller.reader.read(2**20):
            pass
    except ConnectionResetError:
        return True
    return False


async def _some(caller: RawCaller, count: int) -> None:
    await caller.head()
    await caller.reader.readexactly(count)


async def test_it_is_the_same_to_the_byte_and_both_connections_serve_on(
    stage: Stage, begun: list[splice.Splice], capfd: pytest.CaptureFixture[str]
) -> None:
    stage.primary.script = always(answer(BODY, "200 OK", "Content-Type: video/mp4"))
    caller = await stage.caller()
    await caller.send(GET * 3)  # pipelined: the second stands behind the first while that is moved
    for _ in range(3):
        answered = await caller.answer()
        assert (answered.body == BODY, answered.header("Content-Length")) == (True, str(len(BODY)))
    assert len(begun) == 3
    assert stage.primary.connections == 1
    assert (await caller.ask("/large")).body == BODY
    caller.close()
    stage.proxy.access.close(wait_s=20)
    assert capfd.readouterr().err.count(f" bytes={len(BODY)} ") == 4


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_pace_of_either_side(stage: Stage, begun: list[splice.Splice], seed: int) -> None:
    """Pieces of any size from one side, reads of any size on the other, through any socket buffer."""
    dice = random.Random(seed)
    body = dice.randbytes(dice.randrange(1_600_000, 3_000_000))

    async def in_pieces(_: Received, talk: Talk) -> None:
        data = answer(body) * 2
        while data:
            cut = dice.choice((1, 500, 20_000, 70_000, 900_000))
            await talk.send(data[:cut])
            data = data[cut:]
            if cut < 30_000:
                await _turn()
        talk.close()

    stage.primary.script = in_pieces
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, dice.choice((4096, 65536, 2**20)))
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", stage.port))
    caller = RawCaller(stage.port)
    caller.reader, caller.writer = await asyncio.open_connection(sock=sock, limit=4096)
    await caller.send(GET)
    await caller.head()
    got = b""
    while len(got) < len(body):
        got += await caller.reader.read(dice.choice((100, 5000, 300_000)))
    assert got == body
    assert len(begun) == 1
    caller.close()


@pytest.mark.parametrize("works", [0, 1, 4, 5])
async def test_a_kernel_that_will_not_is_no_harm(
    stage: Stage, begun: list[splice.Splice], monkeypatch: pytest.MonkeyPatch, works: int
) -> None:
    """Given a system call that fails, before, between and inside pieces, then the usual path goes on."""
    calls, real = 0, os.splice

    def fails(source: int, sink: int, count: int, *, flags: int) -> int:
        nonlocal calls
        calls += 1
        if calls > works:
            raise OSError(errno.EINVAL, "no splice for these")
        return real(source, sink, count, flags=flags)

    monkeypatch.setattr(os, "splice", fails)
    stage.primary.script = always(answer(BODY))
    before = psutil.Process().num_fds()
    async with asyncio.timeout(20):  # what was in the pipe would be awaited for ever
        assert (await stage.ask("/large")).body == BODY
    assert calls == works + 1
    assert len(begun) == 1
    await stage.primary.kill()
    await _at_rest(stage, before)


async def test_a_slow_reader_holds_one_piece_and_slows_its_upstream(
    stage: Stage, begun: list[splice.Splice]
) -> None:
    sent = 0

    async def endless(_: Received, talk: Talk) -> None:
        nonlocal sent
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**31)
        while True:
            await talk.send(b"x" * 65536)
            sent += 65536

    before = psutil.Process().num_fds()
    stage.primary.script = endless
    caller = await stage.caller()
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await caller.send(GET)
    async with asyncio.timeout(20):
        seen = -1
        while not splice.Splice.all_stuck or seen != sent:
            seen = sent
            for _ in range(50):
                await _turn()
        (one,) = stage.proxy._callers
        assert one.write_paused
        assert 0 < splice.Splice.all_stuck <= splice.PIECE_BYTES
        caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await _some(caller, 2 * sent)  # it goes on
        assert len(begun) == 1
        caller.close()
    await stage.primary.kill()
    await _at_rest(stage, before)


async def test_a_dead_upstream_breaks_it_visibly(
    stage: Stage, begun: list[splice.Splice], capfd: pytest.CaptureFixture[str]
) -> None:
    before = psutil.Process().num_fds()
    for die in (True, False):
        dies, then = asyncio.Event(), asyncio.Event()
        stage.primary.script = stops_after(2_000_000, dies, die=True) if die else _ends(2_000_000, then)
        caller = await stage.caller()
        await caller.send(GET)
        await _some(caller, 1_000_000)
        dies.set()
        then.set()
        assert await _is_reset(caller)
        caller.close()
    assert len(begun) == 2
    await _at_rest(stage, before)
    stage.proxy.access.close(wait_s=20)
    assert capfd.readouterr().err.count("broken=true") == 2


def _ends(count: int, then: asyncio.Event) -> Script:
    async def script(_: Received, talk: Talk) -> None:
        await talk.send(answer(BODY)[:count])
        await then.wait()
        talk.close()

    return script


async def test_one_that_falls_silent_is_left(tmp_path: Path, begun: list[splice.Splice]) -> None:
    async with web_stage(tmp_path, body_idle="300ms") as stage:
        then = asyncio.Event()
        stage.primary.script = stops_after(2_000_000, then)
        before = psutil.Process().num_fds()
        async with asyncio.timeout(20):
            assert not (await stage.ask("/large")).whole
        assert len(begun) == 1
        then.set()
        await _at_rest(stage, before)


async def test_a_caller_that_vanishes_leaves_nothing(stage: Stage, begun: list[splice.Splice]) -> None:
    before = psutil.Process().num_fds()
    then = asyncio.Event()
    stage.primary.script = stops_after(3_000_000, then)
    for reads in (100_000, 2_000_000):
        caller = await stage.caller()
        await caller.send(GET)
        await _some(caller, reads)
        caller.close()
        async with asyncio.timeout(20):
            while stage.proxy._callers or stage.proxy.in_flight(PRIMARY):
                await _turn()
    then.set()
    await _at_rest(stage, before)
    assert len(begun) == 2


async def test_a_drain_ends_it(stage: Stage, begun: list[splice.Splice]) -> None:
    stage.primary.script = stops_after(2_000_000, asyncio.Event())
    caller = await stage.caller()
    await caller.send(GET)
    await _some(caller, 1_900_000)
    assert stage.proxy.end_work(PRIMARY) == 1
    assert await _is_reset(caller)
    assert len(begun) == 1


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/dicom-web/studies/1.2/series/1/instances/2", "application/dicom"),  # continued only on proof
        ("/dicom-web/studies/1.2/metadata", "application/dicom+json"),  # known by its items
        ("/dicom-web/studies/1.2/bulk", "application/json"),  # its URLs are led back
    ],
)
async def test_what_must_be_read_is_read(
    stage: Stage, begun: list[splice.Splice], target: str, kind: str
) -> None:
    body = b"[" + b" " * 2_000_000 + b"]"
    stage.primary.script = always(answer(body, "200 OK", f"Content-Type: {kind}"))
    assert (await stage.ask(target)).body in (body, b"[]")  # of items, the space between them is ours
    assert begun == []
