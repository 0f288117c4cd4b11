"""Limits of time by phase, and of connections: in all, for one address, for strangers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fakes.backend import Received, Talk
from tests.fakes.web_stage import web_stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]


async def test_limits_by_phase(tmp_path: Path) -> None:
    async with web_stage(
        tmp_path, head_timeout="300ms", body_idle="300ms", answer_timeout="300ms", keep_alive="300ms"
    ) as stage:
        slow_head = await stage.caller()
        await slow_head.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        slow_body = await stage.caller()
        await slow_body.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        idle = await stage.caller()
        assert (await idle.ask("/x")).status == 200
        assert (await slow_head.answer()).status == 408
        assert (await slow_body.answer()).status == 408
        assert await idle.ended() == b""

        async def silent(_: Received, talk: Talk) -> None:
            await talk.reader.read()

        stage.primary.script = silent
        answered = await stage.ask("/x", method="POST", body=b"y")
        assert (answered.status, answered.upstream) == (504, "none")


async def test_more_callers_than_allowed_wait_in_the_backlog(tmp_path: Path) -> None:
    async with web_stage(tmp_path, max_connections="2") as stage:
        first, second = await stage.caller(), await stage.caller()
        assert (await first.ask("/x")).status == 200
        assert (await second.ask("/x")).status == 200
        third = await stage.caller()
        await third.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await second.ask("/x")).status == 200
        assert len(stage.primary.requests) == 3
        first.close()
        assert (await third.answer()).status == 200


async def test_one_address_has_so_many_connections_and_hears_why_it_gets_no_more(tmp_path: Path) -> None:
    async with web_stage(tmp_path, max_per_address="2") as stage:
        first, second = await stage.caller(), await stage.caller()
        assert [(await one.ask("/x")).status for one in (first, second)] == [200, 200]
        third = await stage.caller()
        turned_away = await third.answer()
        assert (turned_away.status, turned_away.upstream) == (503, "none")
        assert turned_away.header("Connection") == "close"
        assert turned_away.header("Retry-After")
        assert await third.ended() == b""
        assert (await second.ask("/x")).status == 200
        assert stage.counted("failover_http_turned_away_total", reason="max_per_address") == 1
        first.close()
        async with asyncio.timeout(10):
            while (await (again := await stage.caller()).ask("/x")).status != 200:
                again.close()
        third.close()


async def test_proxies_in_front_of_us_have_as_many_connections_as_there_is_room_for(tmp_path: Path) -> None:
    async with web_stage(tmp_path, max_per_address="1", trusted_proxies=["127.0.0.1"]) as stage:
        callers = [await stage.caller() for _ in range(4)]
        assert [(await one.ask("/x")).status for one in callers] == [200] * 4


async def test_a_crowd_of_strangers_leaves_room_for_the_admitted(tmp_path: Path) -> None:
    async with web_stage(tmp_path, max_connections="16", reserve="2") as stage:
        stage.admitted.clear()
        callers = [await stage.caller() for _ in range(14)]
        assert {(await one.ask("/x")).status for one in callers} == {200}
        assert (await (await stage.caller()).answer()).status == 503
        assert stage.counted("failover_http_turned_away_total", reason="reserve") == 1
        stage.admitted.add("127.0.0.1")
        assert (await (await stage.caller()).ask("/x")).status == 200
