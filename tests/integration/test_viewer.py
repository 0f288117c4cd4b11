"""The viewer in a real browser: list, search, picture, window, two sides, and a banner that stays."""

from __future__ import annotations

import asyncio
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from failover.clock import SystemClock
from tests.integration.browser import Page, a_page
from tests.integration.dicomweb_stage import WebStage, a_web_archive
from tests.unit.archive.objects import data_set, part10

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ENTRIES = "document.querySelectorAll('#study-list li').length"
SIDE = "document.querySelector('.pane[data-active]')"
BANNER = f"['name','birth','id'].map(c => {SIDE}.querySelector('.' + c).textContent)"
PLACE = f"{SIDE}.querySelector('.corner-place').textContent"
WINDOW = f"{SIDE}.querySelector('.corner-window').textContent"
COUNT = f"{SIDE}.querySelector('.count').textContent"
NOTE = f"{SIDE}.querySelector('.note-text').textContent"
ALARM = f"{SIDE}.querySelector('.alarm').textContent"
# Whether any pixel of the canvas is seen: a canvas that was cleared is transparent.
SEEN = (
    f"(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v))"
    f"({SIDE}.querySelector('canvas'))"
)
IN_VIEW = (
    "(r => r.top >= 0 && r.left >= 0 && r.bottom <= innerHeight && r.right <= innerWidth && r.height > 20)"
)
NAME = "<b>bold</b>"
SCRIPT = "<img src=x onerror='window.stolen=1'>"


def pick(patient_id: str) -> str:
    return (
        "[...document.querySelectorAll('#study-list button')]"
        f".find(b => b.textContent.includes('{patient_id}')).click()"
    )


async def choose(page: Page, patient_id: str) -> None:
    await page.until(f"{ENTRIES} > 0")
    await page.evaluate(pick(patient_id))
    await page.until(f"{PLACE} !== '' && {SEEN}")


async def press(page: Page, key: str) -> None:
    await page.evaluate(
        f"{SIDE}.querySelector('.stage').dispatchEvent("
        f"new KeyboardEvent('keydown', {{key: {key!r}, bubbles: true, cancelable: true}}))"
    )


async def drag(page: Page, start: tuple[int, int], end: tuple[int, int]) -> None:
    for event, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
        await page.call("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=1)


async def banners_in_view(page: Page) -> bool:
    banners = "[...document.querySelectorAll('.pane:not([hidden]) .banner')]"
    shown = f"{banners}.map(b => {IN_VIEW}(b.getBoundingClientRect()))"
    found: list[bool] = await page.evaluate(shown)
    return bool(found) and all(found)


async def search(page: Page, **fields: str) -> None:
    filled = "".join(f"f.elements.{name}.value = {value!r};" for name, value in fields.items())
    await page.evaluate(f"(f => {{ {filled} f.requestSubmit(); }})(document.getElementById('search'))")


async def test_a_study_is_found_and_read(tmp_path: Path) -> None:
    async with (
        a_web_archive(tmp_path / "archive", has_primary=False) as archive,
        a_page(tmp_path, f"{archive.origin}/.failover/") as page,
    ):
        await page.until(f"{ENTRIES} > 5")
        await choose(page, "DEMO-0002")
        name, *rest = await page.evaluate(BANNER)
        assert name == "Yamada, Tarou山田 太郎やまだ たろう"
        assert rest == ["1962-09-21 (64 y then)", "DEMO-0002"]
        assert (await page.evaluate(COUNT)) == "8 / 16"

        # Scroll with the wheel and by key: another slice, the same banner.
        await page.call("Input.dispatchMouseEvent", type="mouseWheel", x=900, y=400, deltaX=0, deltaY=100)
        await page.until(f"{PLACE}.startsWith('9 / 16')")
        await press(page, "End")
        await page.until(f"{PLACE}.startsWith('16 / 16')")

        # Drag: another window, on real values. Zoom, turn and reset: the banner stays in view.
        before = await page.evaluate(WINDOW)
        assert before.startswith("WW 1600  WL 600")
        await drag(page, (900, 400), (960, 430))
        await page.until(f"{WINDOW} !== {before!r}")
        for key in ("+", "+", "t", "x", "i"):
            await press(page, key)
        await page.until(f"{WINDOW}.includes('inverted')")
        assert await banners_in_view(page)
        await press(page, "r")
        await page.until(f"{WINDOW} === {before!r}")

        # Saved as one file, after it was said whose it is.
        folder = tmp_path / "saved"
        await page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        await press(page, "d")
        link = "document.getElementById('save-link')"
        await page.until(f"!{link}.hidden")
        assert "Yamada, Tarou" in await page.evaluate("document.getElementById('save').textContent")
        await page.evaluate(f"{link}.click()")
        names = await until_saved(folder / "DICOM.zip")
        assert "DICOMDIR" in names
        assert len(names) == 2 + 32
        await page.until("!document.getElementById('save').open")

        # Search: words in any order; the banner stays until another study is chosen.
        await search(page, PatientName="jürgen müller")
        await page.until(
            f"{ENTRIES} > 0 && [...document.querySelectorAll('#study-list li')]"
            ".every(e => e.textContent.includes('Müller'))"
        )
        assert (await page.evaluate(BANNER))[2] == "DEMO-0002"
        await search(page, PatientName="nobody")
        missing = "document.getElementById('list-note').textContent"
        await page.until(f"{missing}.includes('does not mean that it does not exist')")
        assert page.problems == []


async def until_saved(path: Path) -> list[str]:
    """Return the names in the zip archive that the browser saves, once it is whole."""
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(zipfile.is_zipfile, path):
            await SystemClock().sleep(0.05)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return archive.namelist()


async def test_on_a_telephone_the_banner_stays_and_two_fingers_zoom(tmp_path: Path) -> None:
    zoomed = f"parseInt({WINDOW}.match(/(\\d+) %/)[1])"
    async with (
        a_web_archive(tmp_path / "archive", has_primary=False) as archive,
        a_page(tmp_path, f"{archive.origin}/.failover/") as page,
    ):
        await page.call(
            "Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True
        )
        await page.call("Emulation.setTouchEmulationEnabled", enabled=True)
        await choose(page, "DEMO-0001")
        assert await banners_in_view(page)
        before, window = await page.evaluate(zoomed), await page.evaluate(f"{WINDOW}.split('\\n')[0]")
        for apart, event in ((20, "touchStart"), (40, "touchMove"), (60, "touchMove")):
            points = [
                {"x": 200 + side * apart, "y": 450, "id": number} for number, side in enumerate((-1, 1))
            ]
            if event == "touchStart":  # one finger comes before the other
                await page.call("Input.dispatchTouchEvent", type=event, touchPoints=points[:1])
                moved = [points[0] | {"y": 480}]
                await page.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=moved)
            await page.call("Input.dispatchTouchEvent", type=event, touchPoints=points)
        await page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        await page.until(f"{zoomed} > 2 * {before}")
        assert (
            await page.evaluate(f"{WINDOW}.split('\\n')[0]") == window
        )  # the first finger's drag was taken back

        # The list takes the picture's place, not the banner's.
        await page.evaluate("document.getElementById('show-studies').click()")
        assert await banners_in_view(page)
        assert await page.evaluate(f"{SIDE}.querySelector('.stage').getBoundingClientRect().height") == 0
        assert await page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.problems == []


async def test_reports_colour_and_cine(tmp_path: Path) -> None:
    async with (
        a_web_archive(tmp_path / "archive", has_primary=False) as archive,
        a_page(tmp_path, f"{archive.origin}/.failover/") as page,
    ):
        await choose(page, "US Heart")
        assert "Frame 1 of 30" in await page.evaluate(PLACE)
        assert "lossy" in await page.evaluate(f"{SIDE}.querySelector('.notice').textContent")
        await press(page, " ")
        await page.until(f"!{PLACE}.includes('Frame 1 of')")
        await choose(page, "Wound photograph")
        await choose(page, "CT Chest")
        await page.evaluate("[...document.querySelectorAll('#series-list button')][1].click()")
        await page.until(f"{SIDE}.querySelector('.document').textContent.includes('Structured report')")
        assert not await page.evaluate(SEEN)
        assert await banners_in_view(page)
        assert page.problems == []


async def test_two_sides_and_two_patients(tmp_path: Path) -> None:
    """Given one patient on each side, then each has a banner and the mixture is said."""
    mixed = "document.getElementById('mixed')"
    async with (
        a_web_archive(tmp_path / "archive", has_primary=False) as archive,
        a_page(tmp_path, f"{archive.origin}/.failover/") as page,
    ):
        await choose(page, "DEMO-0001")
        await press(page, "c")
        assert (await page.evaluate(BANNER))[0] == "No patient selected"
        await choose(page, "DEMO-0002")
        assert "TWO DIFFERENT PATIENTS" in await page.evaluate(f"{mixed}.textContent")
        assert await page.evaluate(f"{IN_VIEW}({mixed}.getBoundingClientRect())")
        ids = "[...document.querySelectorAll('.pane .id')].map(e => e.textContent)"
        assert await page.evaluate(ids) == ["DEMO-0001", "DEMO-0002"]
        assert await banners_in_view(page)
        await choose(page, "CT Chest, prior")
        assert await page.evaluate(ids) == ["DEMO-0001", "DEMO-0001"]
        assert await page.evaluate(f"{mixed}.hidden")
        assert page.problems == []


async def test_a_late_answer_is_thrown_away(tmp_path: Path) -> None:
    """Given a slow answer for one patient, when another is chosen meanwhile, then only that one is seen."""
    hold = """(() => {
      const asked = window.fetch; window.held = [];
      window.fetch = (url, options) => !/metadata|frames/.test(url) ? asked(url, options)
        : new Promise(go => window.held.push(() => go(asked(url, { ...options, signal: undefined }))));
      window.release = () => { window.fetch = asked; window.held.splice(0).forEach(go => go()); };
    })()"""
    async with (
        a_web_archive(tmp_path / "archive", has_primary=False) as archive,
        a_page(tmp_path, f"{archive.origin}/.failover/") as page,
    ):
        await choose(page, "DEMO-0001")
        await page.evaluate(hold)
        # The picture goes with the choice itself, not with the answer.
        assert await page.evaluate(f"({pick('DEMO-0002')}, {SEEN})") is False
        assert (await page.evaluate(BANNER))[2] == "DEMO-0002"
        await page.until("window.held.length > 0")
        await page.evaluate(pick("DEMO-0003"))
        await page.until("window.held.length > 1")
        await page.evaluate("window.release()")
        await page.until(f"{PLACE}.includes('/ 16') && {SEEN}")
        assert (await page.evaluate(BANNER))[2] == "DEMO-0003"
        assert "CT · Axial" in await page.evaluate(f"{SIDE}.querySelector('.corner-series').textContent")


async def test_images_of_another_patient_are_not_shown(tmp_path: Path) -> None:
    """Given headers that name another patient than the study, then no picture, and a loud sentence."""
    lie = """(() => {
      const asked = window.fetch;
      window.fetch = async (url, options) => {
        const answer = await asked(url, options);
        if (!/metadata/.test(url)) return answer;
        return new Response((await answer.text()).replaceAll('DEMO-0002', 'DEMO-0009'), { status: 200 });
      };
    })()"""
    async with (
        a_web_archive(tmp_path / "archive", has_primary=False) as archive,
        a_page(tmp_path, f"{archive.origin}/.failover/") as page,
    ):
        await page.until(f"{ENTRIES} > 5")
        await page.evaluate(lie)
        await page.evaluate(pick("DEMO-0002"))
        await page.until(f"{ALARM}.includes('not of the patient named above')")
        assert not await page.evaluate(SEEN)


async def test_debt_and_window_are_always_shown_and_names_are_text(tmp_path: Path) -> None:
    async with a_web_archive(tmp_path / "archive", filled=False) as archive:
        await store(archive, data_set(1, PatientName=NAME, StudyDescription=SCRIPT, SeriesDescription=SCRIPT))
        async with a_page(tmp_path, f"{archive.origin}/.failover/") as page:
            await page.until(f"{ENTRIES} > 0")
            await page.evaluate(pick("P1"))
            await page.until("document.querySelectorAll('#series-list li').length > 0")
            assert (await page.evaluate(BANNER))[0] == NAME
            assert SCRIPT in await page.evaluate(f"{SIDE}.querySelector('.study-text').textContent")
            assert SCRIPT in await page.evaluate("document.getElementById('series-list').textContent")
            assert await page.evaluate("window.stolen === undefined")
            assert (
                await page.evaluate("document.querySelectorAll('b img, .name b, #study-list img').length")
                == 0
            )
            said = await page.evaluate("document.getElementById('state').textContent")
            assert "No day is covered completely" in said
            assert "1 object is not yet on the primary" in said
            assert await page.evaluate("document.title") == "failover viewer"


async def store(archive: WebStage, *objects: Dataset) -> None:
    status, answer = await archive.store(*(part10(one) for one in objects))
    assert status == 200, answer


async def test_rules_without_a_page(tmp_path: Path) -> None:
    """Names, windows, letters and lengths, asked of the modules themselves."""
    async with (
        a_web_archive(tmp_path / "archive", filled=False) as archive,
        a_page(tmp_path, f"{archive.origin}/.failover/") as page,
    ):
        await page.until("document.getElementById('state')?.textContent.includes('covered')")

        async def of(module: str, expression: str) -> Any:
            return await page.evaluate(f"import('/.failover/{module}.js').then(m => {expression})")

        assert await of("dicom", "m.nameGroup('O\\'Brien^Siobhán^^Dr')") == "O'Brien, Siobhán (Dr)"
        assert await of("dicom", "m.nameKeys('jürgen müller')") == ["*jürgen*müller*", "*müller*jürgen*"]
        assert await of("dicom", "m.age('19560314', '20261124')") == "70 y"
        # PS3.3 C.11.2.1.2.1: centre 2048, width 4096 takes 0 to 0 and 4095 to the most.
        wide = "{centre: 2048, width: 4096}"
        assert await of("windowing", f"[-5, 0, 2048, 4095].map(v => m.greyAt(v, {wide}))") == [0, 0, 127, 255]
        grey = "{allocated: 16, stored: 12, high: 11, signed: true, float: 0}"
        bits = f"[...m.storedValues(new Uint8Array([0xff, 0x0f, 0x01, 0xf0]), {grey}, 2)]"
        assert await of("windowing", bits) == [-1, 1]
        axial = "{'00200037': {Value: [1, 0, 0, 0, 1, 0]}, '00280030': {Value: [0.5, 0.25]}}"
        letters = "m.edgeLetters({}, 1, {{quarters: {}, mirrored: {}}})"
        plain = {"top": "A", "right": "L", "bottom": "P", "left": "R"}
        turned = {"top": "R", "right": "A", "bottom": "L", "left": "P"}
        mirrored = {"top": "A", "right": "R", "bottom": "P", "left": "L"}
        assert await of("geometry", letters.format(axial, 0, "false")) == plain
        assert await of("geometry", letters.format(axial, 1, "false")) == turned
        assert await of("geometry", letters.format(axial, 0, "true")) == mirrored
        assert await of("geometry", f"m.lengthOf({axial}, 1, [0, 0], [40, 0])") == "10.0 mm"
        assert "px" in await of("geometry", "m.lengthOf({}, 1, [0, 0], [3, 4])")
        # PS3.3 10.7.1.3: of a projection a length is one at the detector, unless it was calibrated.
        across, detector = "'00280030': {Value: [0.5, 0.5]}", "'00181164': {Value: [0.5, 0.5]}"
        how = "'00280A02': {Value: ['FIDUCIAL']}"
        for header, said in (
            (detector, "10.0 mm at detector"),
            (f"{across}, {detector}", "10.0 mm at detector"),
            (f"{across.replace('0.5', '0.4')}, {detector}", "8.0 mm calibrated (how is not told)"),
            (f"{across}, {detector}, {how}", "10.0 mm calibrated (fiducial)"),
            (f"{across}, '00080060': {{Value: ['DX']}}", "10.0 mm (in which plane is not told)"),
            (f"{across}, '00080060': {{Value: ['MR']}}", "10.0 mm"),
        ):
            assert await of("geometry", f"m.lengthOf({{{header}}}, 1, [0, 0], [20, 0])") == said
        assert len(await of("dicom", "m.nameKeys('a b c')")) == 6
