"""`make ohif`: OHIF in a headless Chromium before the router, with the primary and after its death.

Lists, filters, opens CT, MR, ultrasound, a multi-frame loop and a photograph, uploads a study of an image and
a PDF and opens both; what was uploaded before the death is there after it. Prints a line for each scene and
leaves a screenshot of it. Ends with 1 at the first scene that does not hold, or where anything was refused
that OHIF asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from failover.clock import SystemClock
from tests.integration.browser import HEADLESS, Page, a_page
from tests.ohif.objects import write_uploads
from tests.ohif.server import DICOMWEB, Viewer, a_viewer

WITHIN_S: Final = 300.0
# Without a graphics card OHIF's WebGL is computed.
FLAGS: Final = (
    *(flag for flag in HEADLESS if flag != "--disable-gpu"),
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
)  # fmt: skip
TEXT: Final = "(document.body?.innerText ?? '')"
# How many of the canvas's pixels are neither black nor all alike.
DRAWN: Final = """[...document.querySelectorAll('canvas.cornerstone-canvas')].some(c => {
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  const seen = new Set();
  for (let i = 0; i < d.length; i += 4) seen.add(d[i]);
  return seen.size > 16;
})"""
_FRAME: Final = 'object[type="application/pdf"], object[data^=blob], iframe[src^=blob]'
PDF: Final = f"""(found => !!found && fetch(found.data ?? found.src).then(a => a.text())
  .then(text => text.startsWith("%PDF")))(document.querySelector({_FRAME!r}))"""
SKIP: Final = (
    "[...document.querySelectorAll('button, span, div')].find(e => e.textContent === 'Skip all')?.click()"
)
OPENED: Final = ("CT Chest", "MR Head", "US Abdomen", "US Heart", "Wound photograph")


@dataclass
class Stage:
    page: Page
    viewer: Viewer
    shots: Path

    async def until(self, condition: str, what: str) -> None:
        async def lacks() -> str:
            return "" if await self.page.evaluate(condition) else what

        try:
            await until_nothing(lacks)
        except SystemExit as error:
            await self.page.screenshot(self.shots / "failed.png")
            raise SystemExit(f"{error} (see {self.shots / 'failed.png'})") from None

    async def show(self, path: str) -> None:
        """Open a page of OHIF and wait until it has begun."""
        await self.page.call("Page.navigate", url=self.viewer.origin + path)
        await self.until(
            "(document.querySelector('#root')?.innerHTML.length ?? 0) > 0", f"the start of {path}"
        )

    async def held(self, name: str, sentence: str, condition: str | None = None) -> None:
        """Leave a screenshot, before and after which `condition` held; say that the scene did."""
        clock = SystemClock()
        end_s = clock.monotonic() + WITHIN_S
        while True:
            if condition is not None:
                await self.until(condition, name)
            await self.page.screenshot(self.shots / f"{name.replace(' ', '-').replace('/', '-').lower()}.png")
            if condition is None or await self.page.evaluate(condition):
                break
            assert clock.monotonic() < end_s, f"{name}: it does not stay"
        if self.viewer.refused:
            raise SystemExit(f"{name}: refused: {self.viewer.refused}")
        say(f"  {name}: {sentence}")

    async def search(self, question: str) -> list[dict[str, Any]]:
        return await studies(self.viewer.target, question)


async def until_nothing(lacks: Callable[[], Awaitable[str]]) -> None:
    """Return once nothing lacks any more. Raises SystemExit, which says what does."""
    clock = SystemClock()
    end_s = clock.monotonic() + WITHIN_S
    while said := await lacks():
        if clock.monotonic() > end_s:
            raise SystemExit(f"not within {WITHIN_S:g} s: {said}")
        await clock.sleep(0.2)


async def studies(origin: str, question: str) -> list[dict[str, Any]]:
    url = f"{origin}{DICOMWEB}/studies?{question}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        # 503: nothing matches here, and the days that the archive covers do not hold all that may.
        found: list[dict[str, Any]] = (
            [] if answer.status in (204, 503) else await answer.json(content_type=None)
        )
        return found


def say(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


async def read(stage: Stage, when: str) -> None:
    """List, filter, open one study of each kind."""
    held = await stage.search("limit=101")
    stage.viewer.upstreams.clear()
    await stage.show("/")
    await stage.until(f"/{len(held)}\\s+Studies/.test({TEXT})", f"a list of {len(held)} studies")
    await stage.held(f"list {when}", f"{len(held)} studies")
    await stage.show(f"/?patientName={quote('müller')}")
    of_name = len(await stage.search(f"PatientName={quote('*müller*')}"))
    assert 0 < of_name < len(held)
    told = f"/(^|\\D){of_name}\\s+Studies/.test({TEXT}) && {TEXT}.includes('Müller, Jürgen')"
    await stage.until(told, "a filtered list")
    await stage.held(f"filter {when}", f"{of_name} of one name")
    for description in OPENED:
        (study,) = [one for one in held if one["00081030"]["Value"][0] == description]
        await stage.show(f"/viewer?StudyInstanceUIDs={study['0020000D']['Value'][0]}")
        await stage.until(f"({SKIP}, {DRAWN})", f"a picture of {description}")
        await stage.until(f"({SKIP}, !{TEXT}.includes('Skip all'))", "no tour")
        await stage.held(f"{description} {when}", "a picture", DRAWN)
    say(f"  answered by {dict(stage.viewer.upstreams)}")


async def upload(stage: Stage, folder: Path, patient: str, when: str) -> None:
    files = write_uploads(folder, patient)
    await stage.show("/")
    button = "[...document.querySelectorAll('*')].filter(e => e.textContent.trim() === 'Upload').pop()"
    await stage.until(f"!!{button}", "an upload button")
    await stage.page.evaluate(f"{button}.click()")
    await stage.until("!!document.querySelector('input[type=file]')", "a place for files")
    root = await stage.page.call("DOM.getDocument")
    field = await stage.page.call(
        "DOM.querySelector", nodeId=root["root"]["nodeId"], selector="input[type=file]"
    )
    await stage.page.call(
        "DOM.setFileInputFiles", nodeId=field["nodeId"], files=[str(file) for file in files]
    )
    question = f"PatientID={patient}&includefield=00201208"

    async def lacks() -> str:
        return "" if await stage.search(question) else "the uploaded study"

    await until_nothing(lacks)
    await stage.until(f"/(2 of 2|100)/.test({TEXT})", "that both objects were taken")
    (study,) = await stage.search(question)
    await stage.held(f"upload {when}", f"{study['00201208']['Value'][0]} objects of a new study")


async def see_uploaded(stage: Stage, patient: str, when: str) -> None:
    (study,) = await stage.search(f"PatientID={patient}")
    await stage.show(f"/viewer?StudyInstanceUIDs={study['0020000D']['Value'][0]}")
    await stage.until(f"({SKIP}, {DRAWN})", "the uploaded picture")
    await stage.until(f"({SKIP}, !{TEXT}.includes('Skip all'))", "no tour")
    entry = "[...document.querySelectorAll('[data-cy=\"study-browser-thumbnail-no-image\"]')].pop()"
    await stage.until(f"!!{entry}", "the PDF's entry")
    twice = f"(e => e.dispatchEvent(new MouseEvent('dblclick', {{bubbles: true}})))({entry})"
    await stage.page.evaluate(twice)
    await stage.until(PDF, "the PDF")
    await stage.held(f"uploaded as {patient} {when}", "a picture and a PDF", PDF)


@asynccontextmanager
async def a_demo(folder: Path, offset: int) -> AsyncIterator[list[str]]:
    """Run `failover demo` with its ports moved by `offset`; give the command to tell it more."""
    command = [sys.executable, "-m", "failover", "demo"]
    more = ["--dir", str(folder / "demo")]

    async def lacks() -> str:
        said = await asyncio.to_thread((folder / "demo.log").read_text, errors="replace")
        return "" if "It runs." in said else "a demo that runs"

    with (folder / "demo.log").open("wb") as log:
        demo = await asyncio.create_subprocess_exec(
            *command, *more, "--port-offset", str(offset), stdout=log, stderr=log
        )
        try:
            await until_nothing(lacks)
            yield [*command, *more]
        finally:
            demo.terminate()
            await demo.wait()


async def status(offset: int) -> dict[str, Any] | None:
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{9470 + offset}/api/status") as answer,
        ):
            told: dict[str, Any] = await answer.json()
            return told
    except aiohttp.ClientError:
        return None


async def until_status(offset: int, what: str, **wanted: Any) -> None:
    async def lacks() -> str:
        now = await status(offset)
        facts = {} if now is None else {"phase": now["phase"], **now["replication"]}
        holds = all(facts.get(name) == value for name, value in wanted.items())
        return "" if holds else f"{what}: {json.dumps(facts)}"

    await until_nothing(lacks)


async def until_replicated(offset: int) -> None:
    async def lacks() -> str:
        primary, backup = [
            {one["0020000D"]["Value"][0] for one in await studies(f"http://127.0.0.1:{port + offset}", "")}
            for port in (8042, 8043)
        ]
        return "" if primary == backup else f"the archive has {len(backup)} studies of {len(primary)}"

    await until_nothing(lacks)
    await until_status(offset, "all is replicated", lag_objects=0, coverage_ratio=1.0)


async def main(pages: Path, shots: Path, offset: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with a_demo(folder, offset) as demo:
            await until_replicated(offset)
            async with (
                a_viewer(pages, f"http://127.0.0.1:{8080 + offset}") as viewer,
                a_page(folder, "about:blank", FLAGS) as page,
            ):
                stage = Stage(page, viewer, shots)
                say("the primary answers, through the router")
                await read(stage, "primary")
                await upload(stage, folder, "BEFORE", "primary")
                await see_uploaded(stage, "BEFORE", "primary")
                await until_replicated(offset)
                stop = await asyncio.create_subprocess_exec(*demo[:4], "stop-primary", *demo[4:])
                assert await stop.wait() == 0
                await until_status(offset, "a failover", phase="on_backup")
                say("the primary is dead: the archive answers, through the router")
                await read(stage, "backup")
                await see_uploaded(stage, "BEFORE", "backup")
                await upload(stage, folder, "AFTER", "backup")
                await see_uploaded(stage, "AFTER", "backup")
                assert set(viewer.upstreams) == {"backup"}, viewer.upstreams
                if page.problems:
                    say(f"  the console says: {page.problems[:5]}")
    say(f"screenshots: {shots}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=Path, help="OHIF's dist folder")
    parser.add_argument("--shots", type=Path, default=Path(tempfile.gettempdir()) / "failover-ohif")
    parser.add_argument("--port-offset", type=int, default=700)
    given = parser.parse_args()
    given.shots.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(given.pages, given.shots, given.port_offset))
