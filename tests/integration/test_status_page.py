"""The status page in a real browser, before a router of the test's own: token, decisions, keyboard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from failover.admin.api import admin_app
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
