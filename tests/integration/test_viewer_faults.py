"""The viewer when something is late, missing or wrong: what it shows is then still true, and it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.integration.browser import Page, a_page
from tests.integration.dicomweb_stage import a_web_archive
from tests.integration.test_viewer import (
    ALARM,
    COUNT,
    ENTRIES,
    NOTE,
    PLACE,
    SEEN,
    SIDE,
    WINDOW,
    choose,
    drag,
    pick,
    press,
    search,
    store,
)
from tests.unit.archive.objects import data_set, uid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

DOCUMENT = f"{SIDE}.querySelector('.document')"
RETRY = f"{SIDE}.querySelector('.retry')"
LIST_NOTE = "document.getElementById('list-note').textContent"
STATE = "document.getElementById('state').textContent"
# Whether a measured line is seen: it is of a yellow that no grey picture has.
LINE_SEEN = (
    f"(c => {{ const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    " for (let i = 0; i < d.length; i += 4) if (d[i] > 200 && d[i + 1] > 180 && d[i + 2] < 140) return true;"
    f" return false; }})({SIDE}.querySelector('canvas'))"
)
# `faults`: [pattern of the URL, what to do]: "hold" until `release()`, or an answer: [status, text, headers].
FAULTS = """(() => {
  const asked = window.fetch;
  let held = [];
  window.faults = [];
  window.extra = {};
  window.fetch = (url, options = {}) => {
    const go = () => asked(url, { ...options, headers: { ...options.headers, ...window.extra } });
    const [, fault] = window.faults.find(([pattern]) => new RegExp(pattern).test(url)) ?? [];
    if (!fault) return go();
    const [status, text, headers] = fault;
    if (fault !== "hold") return Promise.resolve(new Response(text, { status, headers }));
    return new Promise((done, failed) => {
      held.push(() => options.signal?.aborted || done(go()));
      options.signal?.addEventListener("abort", () => failed(new DOMException("", "AbortError")));
    });
  };
  window.release = () => { window.faults = []; held.splice(0).forEach(go => go()); };
})()"""
PDF_CLASS = "1.2.840.10008.5.1.4.1.1.104.1"
BROKEN = '[500, "the disk is on fire"]'


def pdf(study: int, series: int, instance: int, content: bytes) -> Dataset:
    found = data_set(study, series, instance, SOPClassUID=PDF_CLASS, Modality="DOC")
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(found, keyword)
    found.MIMETypeOfEncapsulatedDocument = "application/pdf"
    found.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return found


def picture(study: int, series: int, instance: int, **attributes: object) -> Dataset:
    side = 16
    made = {"Rows": side, "Columns": side, "BitsStored": 12, "HighBit": 11, **attributes}
    frames = int(str(made.get("NumberOfFrames", 1)))
    values = [(x * 200) % 4096 for x in range(side * side)] * frames
    made["PixelData"] = b"".join(value.to_bytes(2, "little") for value in values)
    return data_set(study, series, instance, **made)


async def at_place(page: Page, place: str) -> None:
    await page.until(f"{PLACE}.startsWith('{place}') && {SEEN}")


async def test_every_word_order_is_found_once(tmp_path: Path) -> None:
    """Given sixty people whose two names stand in either order, then two pages show each of them once."""
    everyone = [
        data_set(n, PatientName=("Anna^Maria" if n % 2 else "Maria^Anna"), StudyTime=f"{8 + n // 10:02}0000")
        for n in range(1, 61)
    ]
    identity = (
        "[...document.querySelectorAll('#study-list .facts')].map(e => /ID (P\\d+)/.exec(e.textContent)?.[1])"
        ".filter(Boolean)"
    )
    async with a_web_archive(tmp_path / "archive", filled=False) as archive:
        await store(archive, *everyone)
        async with a_page(tmp_path, f"{archive.origin}/.failover/") as page:
            await page.until(f"{ENTRIES} > 0")
            await search(page, PatientName="anna maria")
            await page.until(
                f"{LIST_NOTE} === '' && document.getElementById('range').textContent === '1 – 50'"
            )
            first = await page.evaluate(identity)
            await page.evaluate("document.getElementById('older').click()")
            await page.until("document.getElementById('range').textContent === '51 – 60'")
            second = await page.evaluate(identity)
            assert sorted(first + second) == sorted(f"P{n}" for n in range(1, 61))
            assert await page.evaluate("document.getElementById('older').disabled")

            # What the archive covers matters through the router: one order found is enough, none is not.
            await page.evaluate(FAULTS)
            await page.evaluate("window.extra = {'X-Failover-Via': 'router'}")
            await search(page, PatientName="anna maria extra")
            await page.until(f"{LIST_NOTE}.includes('The primary, which could know, does not answer')")
            await store(archive, data_set(99, PatientName="Extra^Anna Maria"))
            await search(page, PatientName="anna extra maria")
            await page.until(f"{ENTRIES} === 1 && {LIST_NOTE} === ''")

            # Who may not ask is told what to do; who comes too early is asked to wait, and it is tried alone.
            await page.evaluate("window.faults = [['/studies', [401, '<html>']]]")
            await search(page, PatientName="anna")
            await page.until(f"{LIST_NOTE}.includes('Open the PACS page, sign in there')")
            assert await page.evaluate(ENTRIES) == 0
            busy = "[503, 'Both are busy.', {'Retry-After': '1'}]"
            await page.evaluate(f"window.faults = [['/studies', {busy}]]")
            await search(page, PatientName="anna")
            await page.until(f"{LIST_NOTE}.includes('Both are busy.')")
            await page.evaluate("window.release()")
            await page.until(f"{ENTRIES} === 50")


async def test_what_is_shown_is_named_and_what_failed_does_not_stop_the_rest(tmp_path: Path) -> None:
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [4096, 0, 8])
    lut.add_new("LUTData", "OW", bytes(n // 16 for n in range(4096)))
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    async with a_web_archive(tmp_path / "archive", filled=False) as archive:
        await store(archive, *(picture(1, 1, n, **window) for n in range(1, 13)))
        await store(archive, picture(2, 1, 1, NumberOfFrames=120, **window))
        await store(archive, picture(3, 1, 1, VOILUTSequence=[lut]))
        await store(archive, pdf(4, 1, 1, b"%PDF-1.4 in"), picture(4, 1, 2, **window))
        await store(archive, pdf(5, 1, 1, b"%PDF-1.4 small"), pdf(5, 1, 2, b"%PDF-1.4 " + b"x" * 9000))
        async with a_page(tmp_path, f"{archive.origin}/.failover/") as page:
            await page.until(f"{ENTRIES} === 5")
            await page.evaluate(FAULTS)
            await a_line_is_of_the_slice_that_is_seen(page)
            await a_frame_that_failed_is_played_past_and_tried_again(page)
            await who_comes_back_at_once_is_not_left_waiting(page)
            await a_drag_goes_on_from_the_look_up_table(page)
            await a_document_goes_when_a_picture_is_asked_for(page)
            await both_kinds_of_documents_are_given(page)
            await refusals_are_told(page)
            assert page.problems == []


async def a_line_is_of_the_slice_that_is_seen(page: Page) -> None:
    await page.evaluate(f"window.faults = [['{uid(1, 1, 12)}/frames', 'hold']]")
    await choose(page, "P1")
    await at_place(page, "6 / 12")
    await press(page, "End")
    await page.until(f"{COUNT} === '12 / 12'")
    await press(page, "m")
    await drag(page, (800, 300), (900, 500))
    await page.until(LINE_SEEN)
    assert (await page.evaluate(PLACE)).startswith("6 / 12")
    await page.evaluate("window.release()")
    await at_place(page, "12 / 12")
    assert not await page.evaluate(LINE_SEEN)
    await press(page, "r")
    await press(page, "w")


async def a_frame_that_failed_is_played_past_and_tried_again(page: Page) -> None:
    await page.evaluate(f"window.faults = [['{uid(1, 1, 3)}/frames', {BROKEN}]]")
    await choose(page, "P1")
    await press(page, "Home")
    await at_place(page, "1 / 12")
    await press(page, " ")
    await at_place(page, "5 / 12")
    await press(page, " ")
    for key in ("Home", "ArrowDown", "ArrowDown"):
        await press(page, key)
    await page.until(f"{NOTE}.includes('the disk is on fire')")
    assert not await page.evaluate(SEEN)
    await page.evaluate("window.faults = [['frames', 'hold']]")
    await page.evaluate(f"{RETRY}.click()")
    await page.until(f"{NOTE} === 'Loading…'")
    await page.evaluate("window.release()")
    await at_place(page, "3 / 12")
    assert await page.evaluate(f"{NOTE} === '' && {RETRY}.hidden")


async def who_comes_back_at_once_is_not_left_waiting(page: Page) -> None:
    await page.evaluate("window.faults = [['frames', 'hold']]")
    await page.evaluate(pick("P2"))
    await page.until(f"{COUNT} === '1 / 120' && {NOTE} === 'Loading…'")
    # In one go, as a quick hand does it: what ran for the first frame is ended, and is wanted again.
    stage = f"{SIDE}.querySelector('.stage')"
    keys = "['End', 'Home'].map(key => new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}))"
    await page.evaluate(f"{keys}.forEach(key => {stage}.dispatchEvent(key))")
    await page.evaluate("window.release()")
    await at_place(page, "1 / 120")


async def a_drag_goes_on_from_the_look_up_table(page: Page) -> None:
    await choose(page, "P3")
    assert (await page.evaluate(WINDOW)).startswith("Look-up table of the object")
    await drag(page, (800, 300), (801, 300))
    await page.until(f"{WINDOW}.startsWith('WW')")
    width, level = await page.evaluate(f"{WINDOW}.match(/-?\\d+/g).slice(0, 2).map(Number)")
    assert 4000 < width < 4200, width  # the table's values lie between 0 and 4095
    assert 2000 < level < 2100, level
    # A window whose picture cannot be had: what is seen is the object's own, and is called so.
    await page.evaluate(f"window.faults = [['rendered.window', {BROKEN}]]")
    await drag(page, (800, 300), (900, 300))
    await page.until(f"{WINDOW}.includes('could not be had')")
    assert "Look-up table of the object" in await page.evaluate(WINDOW)
    await page.evaluate("window.release()")


async def a_document_goes_when_a_picture_is_asked_for(page: Page) -> None:
    await page.evaluate("window.faults = [['frames', 'hold']]")
    await page.evaluate(pick("P4"))
    await page.until(f"!{DOCUMENT}.hidden && {COUNT} === '1 / 2'")
    await press(page, "End")
    await page.until(f"{COUNT} === '2 / 2' && {DOCUMENT}.hidden && {NOTE} === 'Loading…'")
    await page.evaluate("window.release()")
    await at_place(page, "2 / 2")


async def both_kinds_of_documents_are_given(page: Page) -> None:
    """PDFs within the header, and behind a link of their own."""
    keep = "(made => { URL.createObjectURL = blob => { window.kept = blob; return made.call(URL, blob); }; })"
    await page.evaluate(f"{keep}(URL.createObjectURL)")
    await page.evaluate(pick("P5"))
    await page.until(f"{DOCUMENT}.textContent.includes('Encapsulated PDF')")
    sizes = []
    for key in ("Home", "End"):
        await press(page, key)
        await page.evaluate("window.kept = null")
        await page.until(f"!!{DOCUMENT}.querySelector('button')")
        await page.evaluate(f"{DOCUMENT}.querySelector('button').click()")
        await page.until(
            f"{DOCUMENT}.querySelector('a')?.textContent === 'Open the document' && !!window.kept"
        )
        assert await page.evaluate("window.kept.type") == "application/pdf"
        assert (await page.evaluate("window.kept.text()")).startswith("%PDF-1.4 ")
        sizes.append(await page.evaluate("window.kept.size"))
        assert await page.evaluate(f"{DOCUMENT}.querySelector('a').href.startsWith('blob:')")
    assert sizes[0] < 20 < 9000 < sizes[1]


async def refusals_are_told(page: Page) -> None:
    """A series that is refused, or not to be had now: said on the side itself, and it can be tried again."""
    await page.evaluate("window.faults = [['metadata', [401, '']]]")
    await page.evaluate(pick("P1"))
    await page.until(f"{NOTE}.includes('answers only those whom it knows')")
    await page.evaluate(
        "window.faults = [['metadata', [503, 'Neither side has it now.', {'Retry-After': '9'}]]]"
    )
    await page.evaluate(f"{RETRY}.click()")
    await page.until(f"{NOTE}.includes('Neither side has it now.')")
    assert await page.evaluate(f"{ALARM} === '' && !({SEEN})")
    await page.evaluate("window.release()")
    await page.evaluate(f"{RETRY}.click()")
    await at_place(page, "6 / 12")


async def test_who_answers_is_told_by_searches_of_now(tmp_path: Path) -> None:
    """Given pictures from one side and searches answered by the other, then searches say who is in use."""
    speak = """(() => {
      const asked = window.fetch;
      window.who = { search: "backup", picture: "primary" };
      window.fetch = async (url, options) => {
        const answer = await asked(url, options);
        const headers = new Headers(answer.headers);
        headers.set("X-Failover-Upstream", /studies\\?/.test(url) ? window.who.search : window.who.picture);
        const isState = /api.state/.test(url);
        const body = isState ? JSON.stringify({ ...await answer.json(), via_router: true }) : answer.body;
        return new Response(body, { status: answer.status, headers });
      };
    })()"""
    look = "document.dispatchEvent(new Event('visibilitychange'))"
    async with a_web_archive(tmp_path / "archive", filled=False) as archive:
        await store(archive, *(picture(1, 1, n) for n in range(1, 4)))
        async with a_page(tmp_path, f"{archive.origin}/.failover/") as page:
            await page.until(f"{ENTRIES} === 1")
            await page.evaluate(speak)
            await page.evaluate(look)
            await page.until(f"{STATE}.includes('answers in place of the primary')")
            await choose(page, "P1")
            who = "import('/.failover/archive.js').then(m => m.answeredBy)"
            assert await page.evaluate(who) == "backup"
            await page.evaluate("window.who = { search: 'primary', picture: 'backup' }")
            await page.evaluate(look)
            await page.until(f"{STATE}.includes('The primary answers now.')")
            await press(page, "End")
            assert await page.evaluate(who) == "primary"
