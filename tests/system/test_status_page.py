"""The status page of a real site in a real browser: it sees the primary die, and forces by a click."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.integration.browser import Page, a_page
from tests.peers.orthanc import Orthanc
from tests.system.site import Site

HEADLINE = "document.querySelector('#headline h1')?.textContent ?? ''"
EVENTS = "document.getElementById('events').textContent"
REASON = "night shift: <b>images</b> are black"


def text_of(element: str) -> str:
    return f"(document.getElementById('{element}')?.textContent ?? '')"


async def click(page: Page, selector: str) -> None:
    """Click as a hand does: at the middle of what can be seen."""
    await page.evaluate(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
    x, y = await page.evaluate(
        f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
        f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
    )
    for kind in ("mousePressed", "mouseReleased"):
        await page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


async def test_the_page_tells_a_failover_and_carries_an_intent(
    site: Site, orthanc: Orthanc, tmp_path: Path
) -> None:
    async with a_page(tmp_path, f"http://127.0.0.1:{site.admin_port}/") as page:
        await page.until(f"{HEADLINE}.startsWith('The primary answers')")
        assert await page.evaluate("document.querySelectorAll('.flow .way.taken').length") == 2

        # Force the backup: the consequences are repeated, nothing happens without a reason.
        await click(page, "button[data-mode=forced]")
        await page.until(f"{text_of('would')}.includes('the mode becomes forced: the backup serves')")
        assert await page.evaluate("document.getElementById('intent-confirm').disabled")
        assert await page.evaluate("document.activeElement.id") == "reason"
        await page.call("Input.insertText", text=REASON)
        await page.until("!document.getElementById('intent-confirm').disabled")
        assert (await asyncio.to_thread(site.status))["mode"] == "auto"
        await click(page, "#intent-confirm")
        await page.until(f"{HEADLINE}.startsWith('Traffic is forced to the backup')")
        await page.until(f"{EVENTS}.includes({json.dumps(REASON)})")
        await page.until(f"{text_of('mode')}.includes({json.dumps(REASON)})")
        assert (await asyncio.to_thread(site.status))["intent"]["actor"] == "status page"

        # And back, from the banner.
        await click(page, "#mode button")
        await page.until("document.getElementById('mode').hidden")
        await asyncio.to_thread(
            site.wait_until, lambda status: status["phase"] == "on_primary", "it is back on the primary"
        )

        # The primary dies: the page says so by itself.
        orthanc.kill()
        await page.until("document.querySelector('#primary .verdict.down') !== null")
        await page.until("document.querySelector('#primary .role').textContent === '✕ does not answer'")
        await page.until(f"/^The primary is down; the backup answers since .*\\d\\.$/.test({HEADLINE})")
        await page.until("document.title.includes('backup')")

        # The router dies: what is shown is never taken for fresh.
        await asyncio.to_thread(site.stop)
        await page.until("!document.getElementById('lost').hidden")
        assert "No contact with the router since" in await page.evaluate(text_of("lost"))
        assert await page.evaluate("document.getElementById('main').classList.contains('old')")
    assert not [
        problem
        for problem in page.problems
        if "ERR_CONNECTION" not in problem and "ERR_INCOMPLETE" not in problem
    ]
