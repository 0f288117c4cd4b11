"""The status page in a real browser, before a router of the test's own: token, decisions, keyboard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from failover.admin.api import admin_app
from failover.admin.questions import OwedQuestion, OwedState
from failover.admin.requests import Json
from failover.config.schema import ListenAdmin
from tests.fakes.operations import FakeOperations
from tests.integration.browser import Page, a_page

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TOKEN = "0123456789abcdef0123"
HEADLINE = "(document.querySelector('#headline h1')?.textContent ?? '')"


@asynccontextmanager
async def a_router(listen: ListenAdmin, operations: FakeOperations) -> AsyncIterator[str]:
    server = TestServer(admin_app(operations, listen), host="127.0.0.1")
    await server.start_server()
    try:
        yield str(server.make_url("/"))
    finally:
        await server.close()


async def press(page: Page, key: str) -> None:
    more = {"text": "\r"} if key == "Enter" else {}
    code = {"Enter": 13, "Escape": 27, "Tab": 9}[key]
    for kind in ("keyDown", "keyUp"):
        await page.call(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more
        )


async def test_the_token_is_asked_for_and_stays_in_the_tab(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"alice {TOKEN}\n")
    operations = FakeOperations()
    async with (
        a_router(ListenAdmin(token_file=tmp_path / "tokens"), operations) as url,
        a_page(tmp_path, url) as page,
    ):
        for typed in ("wrong", TOKEN):
            await page.until("document.getElementById('token-dialog')?.open")
            await page.until("document.activeElement.id === 'token'")
            await page.call("Input.insertText", text=typed)
            await press(page, "Enter")
            await page.until(
                f"{HEADLINE} !== '' || /not know/.test(document.getElementById('token-title').textContent)"
            )
        await page.until(f"{HEADLINE} === 'The primary answers and the backup is ready.'")
        assert await page.evaluate("location.href") == url
        assert await page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        assert await page.evaluate("Object.values(sessionStorage)") == [TOKEN]


async def test_a_decision_is_offered_only_when_there_is_one_and_taken_by_keyboard(tmp_path: Path) -> None:
    operations = FakeOperations()
    async with a_router(ListenAdmin(), operations) as url, a_page(tmp_path, url) as page:
        await page.until(f"{HEADLINE} !== ''")
        assert await page.evaluate("document.getElementById('decide').hidden")
        operations.now["decisions"] = ["refused"]
        operations.changed.fire()
        await page.until("!document.getElementById('decide').hidden")

        # Escape leaves it, and the focus goes back to where it was.
        await page.evaluate("document.getElementById('decide').focus()")
        await press(page, "Enter")
        await page.until("document.getElementById('intent').open")
        await press(page, "Escape")
        await page.until("!document.getElementById('intent').open")
        assert await page.evaluate("document.activeElement.id") == "decide"
        assert operations.trail == []

        await press(page, "Enter")
        would = "document.getElementById('would').textContent"
        await page.until(f"{would}.includes('decision refused would be recorded')")
        await page.until("document.activeElement.id === 'reason'")
        await page.call("Input.insertText", text="the vendor knows")
        await page.until("!document.getElementById('intent-confirm').disabled")
        await press(page, "Enter")
        await page.until("document.getElementById('events').textContent.includes('the vendor knows')")
        assert [(event["kind"], event["code"]) for event in operations.trail] == [("decision", "refused")]


async def test_a_silent_router_is_never_taken_for_a_calm_one(tmp_path: Path) -> None:
    operations = FakeOperations()
    async with a_page(tmp_path, "about:blank") as page:
        async with a_router(ListenAdmin(), operations) as url:
            await page.call("Page.navigate", url=url)
            await page.until(f"{HEADLINE} !== ''")
            assert await page.evaluate("document.getElementById('lost').hidden")
        await page.until("!document.getElementById('lost').hidden")
        sign = "getComputedStyle(document.querySelector('#headline .sign')).display"
        assert await page.evaluate(sign) == "none"
        assert "✕ no contact" in await page.evaluate("document.title")


async def test_what_is_owed_is_listed_when_someone_opens_it(tmp_path: Path) -> None:
    def entry(number: int) -> Json:
        return {
            "sop_instance_uid": f"1.2.3.{number}{'.12345' * 9}",
            "study_instance_uid": "1.2.3",
            "state": "owed",
            "since": "2026-01-01T03:04:05.000Z",
            "last_status": "<b>0xA700</b>",
            "times_sent": 2,
            "next_attempt": None,
        }

    operations = FakeOperations()
    operations.owed_pages[None] = {
        "objects": [entry(1)],
        "next": "1.2.3.1",
        "sending": "the primary is drained",
    }
    operations.owed_pages["1.2.3.1"] = {"objects": [entry(2)], "next": None, "sending": "allowed"}
    rows = "document.querySelectorAll('#owed-rows tr').length"
    async with a_router(ListenAdmin(), operations) as url, a_page(tmp_path, url) as page:
        await page.until(f"{HEADLINE} !== ''")
        assert operations.questions == [], "nobody has opened it"
        await page.evaluate("document.querySelector('#owed summary').click()")
        await page.until(f"{rows} === 1")
        said = await page.evaluate("document.getElementById('owed').innerText")
        for words in ("<b>0xA700</b>", "1.2.3.1", "Nothing is sent now: the primary is drained."):
            assert words in said
        await page.call(
            "Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True
        )
        assert await page.evaluate("document.documentElement.scrollWidth") == 390
        await page.evaluate("document.getElementById('owed-more').click()")
        await page.until(f"{rows} === 2")
        assert await page.evaluate("document.getElementById('owed-more').hidden")
        operations.owed_pages.clear()
        await page.evaluate(
            "(s => { s.value = 'refused'; s.dispatchEvent(new Event('change')); })"
            "(document.getElementById('owed-state'))"
        )
        await page.until("/refused nothing/.test(document.getElementById('owed-said').textContent)")
        assert operations.questions[-1] == OwedQuestion(OwedState.REFUSED, 50, None)
