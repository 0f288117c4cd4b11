"""The viewer in a real browser: list, search, image, window, and a banner that stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.browser import Page, a_page
from tests.integration.dicomweb_stage import a_web_archive
from tests.unit.archive.objects import data_set, part10

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ENTRIES = "document.querySelectorAll('#study-list li').length"
SHOWN = "(e => e.complete && e.naturalWidth > 0 && e.src)(document.getElementById('image'))"
BANNER = "['patient-name','patient-birth','patient-id'].map(i => document.getElementById(i).textContent)"
NAME = "<b>bold</b>"
SCRIPT = "<img src=x onerror='window.stolen=1'>"


def type_of(event: str, x: int, y: int, **more: object) -> dict[str, object]:
    return {"type": event, "x": x, "y": y, "button": "left", "clickCount": 1, **more}


async def choose(page: Page, patient_id: str) -> None:
    await page.until(f"{ENTRIES} > 0")
    await page.evaluate(
        "[...document.querySelectorAll('#study-list button')]"
        f".find(b => b.textContent.includes('{patient_id}')).click()"
    )
    await page.until(SHOWN)


async def test_a_study_is_found_and_read(tmp_path: Path) -> None:
    async with (
        a_web_archive(tmp_path / "archive", has_primary=False) as archive,
        a_page(tmp_path, f"{archive.origin}/.failover/") as page,
    ):
        await page.until(f"{ENTRIES} > 5")
        await choose(page, "DEMO-0002")
        assert "山田" in (await page.evaluate(BANNER))[0]
        assert (await page.evaluate(BANNER))[1:] == ["1962-09-21", "DEMO-0002"]

        # Scroll: another slice, another picture, the same banner.
        before = await page.until(SHOWN)
        await page.call("Input.dispatchMouseEvent", type="mouseWheel", x=900, y=400, deltaX=0, deltaY=100)
        await page.until(f"{SHOWN} !== {before!r} && {SHOWN}")
        assert (await page.evaluate(BANNER))[2] == "DEMO-0002"

        # Drag: another window.
        for event, x, y in (
            ("mousePressed", 900, 400),
            ("mouseMoved", 960, 430),
            ("mouseReleased", 960, 430),
        ):
            await page.call("Input.dispatchMouseEvent", **type_of(event, x, y))
        await page.until(f"{SHOWN} && document.getElementById('image').src.includes('window=')")

        # Search: only the one asked for; the banner stays until another study is chosen.
        await page.evaluate(
            "(f => { f.elements.PatientName.value = 'müller'; f.requestSubmit(); })"
            "(document.getElementById('search'))"
        )
        await page.until(
            "[...document.querySelectorAll('#study-list li')].length > 0 &&"
            " [...document.querySelectorAll('#study-list li')].every(e => e.textContent.includes('Müller'))"
        )
        assert (await page.evaluate(BANNER))[2] == "DEMO-0002"
        in_view = "(r => r.top >= 0 && r.bottom <= innerHeight && r.height > 0)"
        assert await page.evaluate(f"{in_view}(document.getElementById('banner').getBoundingClientRect())")
        assert "all studies" in await page.evaluate("document.getElementById('state').textContent")
        assert page.problems == []


async def test_debt_and_window_are_always_shown_and_names_are_text(tmp_path: Path) -> None:
    async with a_web_archive(tmp_path / "archive", filled=False) as archive:
        status, _ = await archive.store(part10(data_set(1, PatientName=NAME, StudyDescription=SCRIPT)))
        assert status == 200
        async with a_page(tmp_path, f"{archive.origin}/.failover/") as page:
            await choose(page, "P1")
            assert (await page.evaluate(BANNER))[0] == NAME
            assert SCRIPT in await page.evaluate("document.getElementById('study-text').textContent")
            assert await page.evaluate("window.stolen === undefined")
            marked = ", ".join(
                f"#{place} {tag}" for place in ("study-list", "banner") for tag in ("img", "b")
            )
            assert await page.evaluate(f"document.querySelectorAll('{marked}').length") == 0
            said = await page.evaluate("document.getElementById('state').textContent")
            assert "no day is covered completely" in said
            assert "not yet on the primary" in said
            assert await page.evaluate("document.title") == "failover viewer"
