"""The trail: numbered, durable, readable after a crash in the middle of a line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from failover.audit.events import KINDS, EventKind, parse_event
from failover.audit.trail import Trail
from failover.clock import SystemClock


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Trail]:
    trail = Trail(path, SystemClock())
    trail.start()
    try:
        yield trail
    finally:
        await trail.stop()


def add(trail: Trail, code: str) -> int:
    return trail.add(EventKind.TRANSITION, code, "a sentence", service="web", from_="a", to="b").id


async def test_entries_are_numbered_and_on_disk_when_written_says_so(tmp_path: Path) -> None:
    path = tmp_path / "state" / "audit.jsonl"
    async with opened(path) as trail:
        assert [add(trail, "one"), add(trail, "two")] == [1, 2]
        assert await trail.written(timeout_s=10)
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [row["code"] for row in rows] == ["one", "two"]
    assert set(rows[0]) == {"id", "time", "kind", "service", "from", "to", "code", "reason", "actor"}
    assert rows[0]["time"].endswith("Z")


async def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as trail:
        add(trail, "one")
    async with opened(path) as trail:
        assert add(trail, "two") == 2
        assert [event.code for event in trail.events(0)] == ["one", "two"]
        assert [event.code for event in trail.events(1)] == ["two"]
        assert trail.events(2) == []


async def test_half_a_line_of_a_crash_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as trail:
        add(trail, "one")
    with path.open("ab") as file:
        file.write(b'{"id": 2, "time": "20')
    async with opened(path) as trail:
        add(trail, "two")
    async with opened(path) as trail:
        assert [(event.id, event.code) for event in trail.events(0)] == [(1, "one"), (2, "two")]


async def test_who_waits_is_woken(tmp_path: Path) -> None:
    async with opened(tmp_path / "audit.jsonl") as trail:
        seen = trail.appended.wait_until(lambda: bool(trail.events(0)), timeout_s=10)
        add(trail, "one")
        assert await seen


async def test_what_cannot_be_written_waits_and_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as trail:
        path.mkdir()  # as good as a full disk
        add(trail, "one")
        assert not await trail.written(timeout_s=0.1)
        assert [event.code for event in trail.events(0)] == ["one"]
        path.rmdir()
        assert await trail.written(timeout_s=10)
    event = parse_event(path.read_bytes())
    assert event is not None
    assert event.code == "one"


def test_no_entry_is_made_of_rubbish() -> None:
    for line in (b"", b"{}", b"[]", b"null", b'{"id": "x"}', b"\xff\xfe"):
        assert parse_event(line) is None


def test_each_kind_is_explained() -> None:
    assert set(KINDS) == set(EventKind)
