"""Issue B, point 2: a primary that is neither up nor down. The whole router sees it, and callers do not.

The primary answers its health page throughout where it can: only its searches tell. "Packets dropped" is
played by a backlog that is full: the kernel drops each SYN, as a firewall does. (`make bench-failover` drops
real packets in a namespace.)
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from failover.app import listeners
from failover.app.router import Router
from failover.clock import SystemClock
from failover.config.load import parse
from failover.model import Phase, Service, UpstreamName, Verdict
from tests.fakes.backend import Backend, Received, Script, Talk, answer
from tests.fakes.callers import Answered, RawCaller, ask
from tests.peers.process import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

PRIMARY = UpstreamName.PRIMARY
JSON = "Content-Type: application/dicom+json"
STUDIES = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{n}"]}} for n in range(5)]
SEARCH = "/dicom-web/studies"


async def pacs(received: Received, talk: Talk) -> None:
    """A health page, and a search that finds five studies."""
    url = urlsplit(received.target)
    if url.path != SEARCH:
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return
    wanted = parse_qs(url.query).get("StudyInstanceUID")
    found = [one for one in STUDIES if wanted is None or one["0020000D"]["Value"] == wanted]
    await talk.send(answer(json.dumps(found).encode(), "200 OK", JSON))


async def fails_but_for_its_health_page(received: Received, talk: Talk) -> None:
    if received.target == "/":
        await pacs(received, talk)
    else:
        await talk.send(answer(b"broken", "500 Internal Server Error"))


async def never_answers(_: Received, talk: Talk) -> None:
    await talk.reader.read()


async def is_ten_seconds_slow(received: Received, talk: Talk) -> None:
    try:
        await asyncio.wait_for(talk.reader.read(), 10)
    except TimeoutError:
        await pacs(received, talk)


async def shows_another_page(received: Received, talk: Talk) -> None:
    await talk.send(answer(b"<html>maintenance</html>", "200 OK", "Content-Type: text/html"))


async def has_an_empty_database(received: Received, talk: Talk) -> None:
    if received.target == "/":
        await pacs(received, talk)
    else:
        await talk.send(answer(b"[]", "200 OK", JSON))


@dataclass
class Site:
    router: Router
    primary: Backend
    port: int

    async def search(self) -> Answered:
        return await ask(self.port, SEARCH)

    def verdict(self) -> Verdict | None:
        return self.router._controller.board.current.verdicts.get((PRIMARY, Service.WEB))

    def phase(self) -> Phase:
        return self.router._controller.board.current.services[Service.WEB].phase


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    primary, backup = await Backend("primary", pacs).start(), await Backend("backup", pacs).start()
    web, dicom, admin = free_port(), free_port(), free_port()
    configuration = parse(
        f"state_dir: {folder}\n"
        f"primary: {{web: {{url: 'http://127.0.0.1:{primary.port}'}}}}\n"
        f"backup: {{web: {{url: 'http://127.0.0.1:{backup.port}'}}}}\n"
        f"listen: {{web: {{port: {web}}}, dicom: {{port: {dicom}}}, admin: {{port: {admin}}}}}\n"
        "health: {interval: 300ms, fast_interval: 100ms, search_interval: 300ms, frame: false}\n"
        "policy: {fail_after: 1s}\n",
        name="failover.yaml",
        folder=folder,
    )
    router = Router(configuration, SystemClock())
    await router.start(listeners.open_all(configuration))
    try:
        here = Site(router, primary, web)
        await until(here, lambda: here.verdict() is Verdict.UP)
        async with asyncio.timeout(30):
            while not known(primary):
                await here.search()
        yield here
    finally:
        await router.stop()
        await primary.kill()
        await backup.kill()


def known(primary: Backend) -> bool:
    """Whether the probe has begun to ask for a study that it knows."""
    return any("StudyInstanceUID" in one.target for one in primary.requests)


async def until(here: Site, holds: Callable[[], bool]) -> None:
    board = here.router._controller.board
    async with asyncio.timeout(30):
        while not holds():
            await board.changed.wait()


@pytest.mark.parametrize("grey", [fails_but_for_its_health_page, never_answers, is_ten_seconds_slow])
async def test_no_search_fails_and_the_route_moves(tmp_path: Path, grey: Script) -> None:
    async with site(tmp_path) as here:
        here.primary.script = grey
        async with asyncio.timeout(60):
            while here.phase() is not Phase.ON_BACKUP:
                found = await here.search()
                assert (found.status, json.loads(found.body)) == (200, STUDIES)
        assert (await here.search()).upstream == "backup"


@pytest.mark.parametrize("grey", [shows_another_page, has_an_empty_database])
async def test_what_only_its_content_gives_away_moves_the_route(tmp_path: Path, grey: Script) -> None:
    """Until a probe has seen it such an answer goes on: it is a good one for all that a status says."""
    async with site(tmp_path) as here:
        here.primary.script = grey
        await until(here, lambda: here.phase() is Phase.ON_BACKUP)
        found = await here.search()
        assert (found.upstream, json.loads(found.body)) == ("backup", STUDIES)


async def test_dropped_packets_move_the_route_and_fail_no_search(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await here.primary.kill()
        with socket.socket() as hole:
            hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            hole.bind(("127.0.0.1", here.primary.port))
            hole.listen(0)
            waiting = [socket.socket() for _ in range(4)]
            for one in waiting:  # they fill the backlog, and are never accepted
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", here.primary.port))
            async with asyncio.timeout(60):
                while here.phase() is not Phase.ON_BACKUP:
                    found = await here.search()
                    assert (found.status, json.loads(found.body)) == (200, STUDIES)
            for one in waiting:
                one.close()


async def test_one_caller_whose_every_request_earns_a_500_moves_nothing(tmp_path: Path) -> None:
    async def hates_one(received: Received, talk: Talk) -> None:
        if "curse" in received.target:
            await talk.send(answer(b"no", "500 Internal Server Error"))
        else:
            await pacs(received, talk)

    async with site(tmp_path) as here:
        here.primary.script = hates_one
        board = here.router._controller.board
        seen = board.current
        cursed = await RawCaller(here.port).open()
        for _ in range(300):
            assert (await cursed.ask(f"{SEARCH}/curse")).status in (200, 500)
            assert (await cursed.ask("/curse", method="POST", body=b"x")).status == 500
            assert board.current.services == seen.services
            assert here.verdict() is Verdict.UP
        assert (await here.search()).upstream == "primary"
        cursed.close()
