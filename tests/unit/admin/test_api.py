"""The admin listener on a real socket: routes, guards, tokens, the stream, and that no trace gets out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout
from aiohttp.test_utils import TestServer

from failover.admin.api import admin_app
from failover.admin.headline import with_headline
from failover.admin.questions import OwedQuestion, OwedState, QuarantineQuestion, SplitQuestion
from failover.admin.requests import ProtectionRequest
from failover.config.schema import ListenAdmin
from failover.errors import ControlUnreachable
from tests.fakes.operations import FakeOperations, calm_status

TOKEN = "0123456789abcdef0123"
FORCE = {"mode": "forced", "upstream": "backup", "reason": "images are black"}


class Door:
    """A running admin listener and a caller of it."""

    def __init__(self, operations: FakeOperations, url: str, session: ClientSession) -> None:
        self.operations = operations
        self.url = url
        self.session = session

    async def ask(self, method: str, path: str, **kwargs: Any) -> tuple[int, Any]:
        """Return status and JSON, or text where it is none."""
        async with self.session.request(method, self.url + path, **kwargs) as response:
            text = await response.text()
            self.headers = response.headers
            return response.status, json.loads(text) if response.content_type == "application/json" else text


async def _open(listen: ListenAdmin) -> AsyncIterator[Door]:
    operations = FakeOperations()
    server = TestServer(admin_app(operations, listen), host="127.0.0.1")
    await server.start_server()
    async with ClientSession(timeout=ClientTimeout(total=20)) as session:
        yield Door(operations, str(server.make_url("")).rstrip("/"), session)
    await server.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async for opened in _open(ListenAdmin()):
        yield opened


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[Door]:
    (tmp_path / "tokens").write_text(f"alice {TOKEN}\n")
    async for opened in _open(ListenAdmin(token_file=tmp_path / "tokens")):
        yield opened


async def test_the_status(door: Door) -> None:
    status, answer = await door.ask("GET", "/api/status")
    assert status == 200
    assert answer == with_headline(calm_status())
    assert (answer["level"], answer["headline"]) == (
        "calm",
        "The primary answers and the backup is ready.",
    )


async def test_force_and_auto(door: Door) -> None:
    status, answer = await door.ask(
        "PUT", "/api/route", json=FORCE, headers={"X-Failover-Actor": "j%C3%BCrgen"}
    )
    assert status == 200
    assert (answer["mode"], answer["phase"], answer["intent"]["actor"]) == ("forced", "on_backup", "jürgen")
    status, answer = await door.ask("PUT", "/api/route", json={"mode": "auto"})
    assert (status, answer["mode"]) == (200, "auto")
    status, events = await door.ask("GET", "/api/events?since=1")
    assert (status, [event["code"] for event in events]) == (200, ["auto"])
    assert len((await door.ask("GET", "/api/events"))[1]) == 2


async def test_a_dry_run_says_and_does_nothing(door: Door) -> None:
    status, answer = await door.ask("PUT", "/api/route", json={**FORCE, "dry_run": True})
    assert status == 200
    assert "web and DICOM would be answered by the backup" in answer["would"]
    assert door.operations.trail == []
    assert (await door.ask("GET", "/api/status"))[1]["mode"] == "auto"


async def test_a_refusal_is_409(door: Door) -> None:
    door.operations.now["upstreams"]["backup"]["web"]["verdict"] = "down"
    status, answer = await door.ask("PUT", "/api/route", json=FORCE)
    assert (status, answer) == (
        409,
        {"error": "the backup is down; with even_if_down it is done all the same"},
    )
    assert (await door.ask("PUT", "/api/route", json={**FORCE, "even_if_down": True}))[0] == 200


async def test_decisions(door: Door) -> None:
    status, _ = await door.ask("POST", "/api/decisions", json={"decision": "failback", "reason": "checked"})
    assert status == 200
    assert door.operations.trail[0]["code"] == "failback"
    assert (await door.ask("POST", "/api/decisions", json={"decision": "failback"}))[0] == 422


@pytest.mark.parametrize(
    ("method", "path", "kwargs", "expected"),
    [
        ("PUT", "/api/route", {"json": {"mode": "forced", "upstream": "backup", "reason": ""}}, 422),
        ("PUT", "/api/route", {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("PUT", "/api/route", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ("PUT", "/api/route", {"json": {"reason": "x" * 100_000}}, 413),
        ("GET", "/api/route", {}, 405),
        ("DELETE", "/api/status", {"headers": {"Content-Type": "application/json"}}, 405),
        ("GET", "/api/nothing", {}, 404),
        ("GET", "/../etc/passwd", {}, 404),
        ("GET", "/api/events?since=x", {}, 400),
        ("GET", "/api/events?since=-1", {}, 400),
        ("GET", "/api/status", {"headers": {"Host": "evil.example"}}, 421),
        ("GET", "/api/status", {"headers": {"Origin": "https://evil.example"}}, 403),
        ("OPTIONS", "/api/route", {"headers": {"Origin": "https://evil.example"}}, 403),
        ("PUT", "/api/route", {"json": FORCE, "headers": {"Origin": "http://127.0.0.1:1"}}, 403),
        ("PUT", "/api/route", {"json": FORCE, "headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
    ],
)
async def test_what_is_not_answered(
    door: Door, method: str, path: str, kwargs: dict[str, Any], expected: int
) -> None:
    status, answer = await door.ask(method, path, **kwargs)
    assert status == expected
    assert list(answer) == ["error"]
    assert door.operations.trail == []


async def test_no_trace_gets_out(door: Door) -> None:
    door.operations.breaks = ZeroDivisionError("secret detail")
    status, answer = await door.ask("GET", "/api/status")
    assert (status, answer) == (500, {"error": "internal error: ZeroDivisionError"})
    door.operations.breaks = ControlUnreachable("archive does not answer")
    assert await door.ask("GET", "/api/status") == (503, {"error": "archive does not answer"})


async def test_health_readiness_metrics(door: Door) -> None:
    assert await door.ask("GET", "/-/healthy") == (200, "ok\n")
    assert await door.ask("GET", "/-/ready") == (200, "ready\n")
    door.operations.awaited = "waiting: no verdict on the primary yet"
    assert await door.ask("GET", "/-/ready") == (503, "waiting: no verdict on the primary yet\n")
    status, text = await door.ask("GET", "/metrics")
    assert status == 200
    assert "failover_mode 1.0" in text
    assert door.headers["Content-Type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize("path", ["/api/status", "/api/events", "/api/stream", "/metrics", "/api/nothing"])
async def test_facts_need_the_token(locked: Door, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        status, _ = await locked.ask("GET", path, headers=headers)
        assert status == 401
        assert locked.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await locked.ask("GET", f"{path}?token={TOKEN}"))[0] == 401


async def test_the_token_names_who_acts(locked: Door) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Failover-Actor": "mallory"}
    status, answer = await locked.ask("PUT", "/api/route", json=FORCE, headers=headers)
    assert (status, answer["intent"]["actor"]) == (200, "alice")
    assert (await locked.ask("PUT", "/api/route", json={"mode": "auto"}))[0] == 401


@pytest.mark.parametrize(
    "path", ["/-/healthy", "/-/ready", "/", "/page.js", "/view.js", "/page.css", "/icon.svg"]
)
async def test_what_holds_no_fact_needs_no_token(locked: Door, path: str) -> None:
    assert (await locked.ask("GET", path))[0] == 200
    policy = locked.headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert locked.headers["X-Frame-Options"] == "DENY"
    assert locked.headers["Cache-Control"] == "no-store"
    assert locked.headers["Server"] == "failover"


async def test_the_stream_tells_each_change_and_each_event_once(door: Door) -> None:
    door.operations.happen("started", reason="first")
    async with door.session.get(f"{door.url}/api/stream") as response:
        assert response.content_type == "application/x-ndjson"
        first = json.loads(await response.content.readline())
        assert [event["reason"] for event in first["events"]] == ["first"]
        assert first["status"]["mode"] == "auto"
        await door.ask("PUT", "/api/route", json=FORCE)
        seen: list[str] = []
        while not seen:
            line = json.loads(await response.content.readline())
            seen += [event["reason"] for event in line["events"]]
        assert seen == ["images are black"]
        assert line["status"]["mode"] == "forced"
        beat = json.loads(await response.content.readline())
        assert beat["events"] == []


async def test_a_stream_goes_on_where_it_was(door: Door) -> None:
    for reason in ("one", "two", "three"):
        door.operations.happen("alarm", reason=reason)
    async with door.session.get(f"{door.url}/api/stream?since=2") as response:
        line = json.loads(await response.content.readline())
        assert [event["reason"] for event in line["events"]] == ["three"]


async def test_watchers_end_when_the_router_does() -> None:
    operations = FakeOperations()
    server = TestServer(admin_app(operations, ListenAdmin()), host="127.0.0.1")
    await server.start_server()
    async with ClientSession() as session, session.get(server.make_url("/api/stream")) as response:
        await response.content.readline()
        async with asyncio.timeout(10):
            await server.close()
            await response.content.read()


async def test_what_is_owed_is_asked_for_by_state_and_page(door: Door) -> None:
    entry = {"sop_instance_uid": "1.2.3", "state": "refused"}
    door.operations.owed_pages["1.2"] = {"objects": [entry], "next": None}
    assert await door.ask("GET", "/api/owed?state=refused&limit=5&after=1.2") == (
        200,
        {"objects": [entry], "next": None},
    )
    assert (await door.ask("GET", "/api/owed"))[0] == 200
    assert (await door.ask("GET", "/api/quarantine?after=7"))[0] == 200
    assert await door.ask("GET", "/api/split?limit=3&after=1.2") == (200, {"studies": [], "next": None})
    assert door.operations.questions == [
        OwedQuestion(OwedState.REFUSED, 5, "1.2"),
        OwedQuestion(None, 100, None),
        QuarantineQuestion(100, 7),
        SplitQuestion(3, "1.2"),
    ]


async def test_the_plan_and_what_is_protected_from_it(door: Door) -> None:
    assert await door.ask("GET", "/api/archive/plan?limit=3") == (200, {"studies": []})
    asked = {"patient_id": "P1", "protected": True, "reason": "a lawsuit"}
    assert await door.ask("POST", "/api/archive/protection", json=asked) == (200, {"studies": 1})
    assert door.operations.protections[0][0] == ProtectionRequest(True, "a lawsuit", None, "P1")
    for wrong in (
        {"protected": True, "reason": "x"},
        {"patient_id": "P1", "study_instance_uid": "1.2", "protected": True, "reason": "x"},
        {"patient_id": "P1", "protected": True, "reason": ""},
        {"patient_id": "P" * 65, "protected": True, "reason": "x"},
        {"patient_id": "P1", "protected": "yes", "reason": "x"},
        {"patient_id": "P1", "reason": "left out, it would end a protection"},
    ):
        assert (await door.ask("POST", "/api/archive/protection", json=wrong))[0] == 422, wrong


@pytest.mark.parametrize(
    "question",
    [
        "archive/plan?after=1",
        "archive/plan?limit=0",
        "owed?state=lost",
        "owed?limit=0",
        "owed?limit=1001",
        "owed?limit=-1",
        "owed?limit=1&limit=2",
        "owed?after=1.2%27",
        "owed?after=" + "1" * 65,
        "owed?sate=owed",
        "split?after=x",
        "split?state=owed",
        "quarantine?after=1.2",
        "quarantine?limit=101",
        "quarantine?state=owed",
    ],
)
async def test_a_list_asked_for_wrongly_is_a_sentence(door: Door, question: str) -> None:
    status, answer = await door.ask("GET", f"/api/{question}")
    assert status == 400
    assert answer["error"]
    assert door.operations.questions == []


async def test_lists_want_the_token_and_an_archive_that_answers(locked: Door, door: Door) -> None:
    for path in ("/api/owed", "/api/split", "/api/quarantine"):
        assert (await locked.ask("GET", path))[0] == 401
    assert locked.operations.questions == []
    door.operations.breaks = ControlUnreachable("the archive does not answer")
    assert await door.ask("GET", "/api/owed") == (503, {"error": "the archive does not answer"})
