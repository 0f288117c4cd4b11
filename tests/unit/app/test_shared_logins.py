"""Logins at two web workers beside a router, all in one loop, on the real private channel."""

from __future__ import annotations

import asyncio
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from failover import shares
from failover.aio import cancel_and_wait, spawn
from failover.app.admission import admission_of
from failover.app.shared_logins import Told, answers
from failover.app.web_words import JOIN
from failover.app.web_worker import WebWorker
from failover.app.web_workers import WebWorkers
from failover.clock import SystemClock
from failover.config import Configuration
from failover.config.load import parse
from failover.control import ControlServer, socket_path
from failover.credentials.password_file import Hash, _scrypt
from failover.metrics import RouterMetrics
from failover.model import Phase, Service, UpstreamName, Verdict
from failover.proxy.admission import Admission
from failover.routing.board import RouteBoard
from tests.fakes.backend import Backend, always, answer
from tests.fakes.callers import Answered, ask
from tests.fakes.identity_provider import FakeProvider
from tests.fakes.logins import SESSION, Logins, basic
from tests.fakes.web_stage import calm_route

CLOCK = SystemClock()
PASSWORD = "correct horse"
FORM = "Content-Type: application/x-www-form-urlencoded"
SEARCH = "/dicom-web/studies"


@dataclass
class Stage:
    folder: Path
    board: RouteBoard
    metrics: RouterMetrics
    primary: Logins
    admission: Admission | None = None
    workers: WebWorkers | None = None
    ports: list[int] = field(default_factory=list)
    theirs: list[WebWorker] = field(default_factory=list)

    async def search(self, worker: int, *lines: str) -> Answered:
        return await ask(self.ports[worker], SEARCH, *lines)

    async def log_in(self, worker: int, password: str) -> Answered:
        body = f"user=anna&password={password.replace(' ', '+')}&to=/".encode()
        return await ask(self.ports[worker], "/.failover/login", FORM, method="POST", body=body)

    async def route(self, phase: Phase) -> None:
        route = calm_route(phase)
        if phase is Phase.ON_BACKUP:
            down = {(UpstreamName.PRIMARY, Service.WEB): Verdict.DOWN}
            route = replace(route, verdicts={**route.verdicts, **down})
        self.board.publish(route)
        assert self.workers is not None
        assert await self.workers.all_heard(timeout_s=20)

    def joined(self, key: bytes) -> bool:
        """Whether both go by the router of `key`."""
        kept = Path(self.folder, "users").read_text().partition(":")[2].strip()
        signed = [
            one._admission and one._admission.sessions and one._admission.sessions._sign("anna", 1, kept)
            for one in self.theirs
        ]
        assert self.admission is not None
        assert self.admission.sessions is not None
        return signed == [self.admission.sessions._sign("anna", 1, kept)] * 2

    def remembered(self) -> list[int]:
        """How many each worker would let in."""
        memories = [one._admission.remembered for one in self.theirs if one._admission is not None]
        return [memory.count for memory in memories if memory is not None]

    @asynccontextmanager
    async def router(self, key: bytes) -> AsyncIterator[None]:
        """The router's side, with `key`, until the block ends: then it is dead."""
        configuration = self.configuration()
        self.admission = admission_of(configuration, CLOCK, self.metrics, key)
        assert self.admission is not None
        logins = partial(Told, self.admission, key)
        self.workers = WebWorkers(3, self.board, {}, self.metrics, CLOCK, logins)
        server = ControlServer(
            socket_path(self.folder, "router"), answers(self.admission), {JOIN: self.workers.serve}
        )
        self.workers.start()
        self.admission.start()
        await server.start()
        try:
            yield
        finally:
            await server.stop()
            await self.admission.stop()
            await self.workers.stop()

    def configuration(self) -> Configuration:
        return parse(self.folder.joinpath("f.yaml").read_text(), name="f.yaml", folder=self.folder)


@asynccontextmanager
async def stage(folder: Path, more: str = "") -> AsyncIterator[Stage]:
    salt = bytes(16)
    cheap = Hash(10, 1, 1, salt, _scrypt(PASSWORD, salt, 10, 1, 1, 32))
    (folder / "users").write_text(f"anna:{cheap}\n")
    (folder / "users").chmod(0o600)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(60))
        primary, backup = await Backend("primary").start(), await Backend("backup").start()
        stack.push_async_callback(primary.kill)
        stack.push_async_callback(backup.kill)
        made = Stage(folder, RouteBoard(calm_route()), RouterMetrics(CollectorRegistry()), Logins())
        primary.script = made.primary
        backup.script = always(answer(b'["the archive"]', "200 OK", "Content-Type: application/dicom+json"))
        (folder / "f.yaml").write_text(
            f"state_dir: {folder}\nprimary: {{web: {{url: 'http://127.0.0.1:{primary.port}'}}}}\n"
            f"archive: {{web: {{port: {backup.port}}}}}\nlisten: {{web: {{workers: 3}}}}\n"
            f"access: {{web: {{addresses: [10.9.9.9], password_file: users, remembered: {{}}, {more}}}}}\n"
        )
        for number in (2, 3):
            sock = socket.create_server(("127.0.0.1", 0))
            worker = WebWorker(made.configuration(), f"web-{number}", CLOCK, shares.alone())
            serving = spawn(worker.serve(sock), name=f"web-{number}")
            stack.push_async_callback(cancel_and_wait, serving)
            stack.push_async_callback(worker.stop)
            made.ports.append(sock.getsockname()[1])
            made.theirs.append(worker)
        yield made


async def redirected(s: Stage, provider: FakeProvider, worker: int) -> tuple[str, str]:
    """Begin a login at one worker and log in at the provider; return the way back, and the cookie."""
    there = await ask(s.ports[worker], "/.failover/oidc/login?to=/a", "Host: pacs.example")
    assert there.status == 303, there.body
    way = urlsplit(there.header("location") or "")
    back = await ask(provider.port, f"{way.path}?{way.query}", f"Host: {way.netloc}")
    cookie = (there.header("set-cookie") or "").partition(";")[0]
    return (back.header("location") or "").removeprefix("http://pacs.example"), f"Cookie: {cookie}"


async def test_a_login_at_the_provider_begins_at_one_worker_and_ends_once_at_another(tmp_path: Path) -> None:
    provider = await FakeProvider().start()
    oidc = f"oidc: {{issuer: '{provider.issuer}', client_id: failover, public_url: 'http://pacs.example'}}"
    try:
        async with stage(tmp_path, oidc) as s, s.router(b"k" * 32):
            await until(lambda: s.joined(b"k" * 32))
            await s.route(Phase.ON_BACKUP)
            back, cookie = await redirected(s, provider, 0)
            done = await ask(s.ports[1], back, "Host: pacs.example", cookie)
            assert (done.status, done.header("location")) == (303, "/a")
            again = [await ask(port, back, "Host: pacs.example", cookie) for port in s.ports]
            assert [one.status for one in again] == [400, 400]
            session = next(v.partition(";")[0] for k, v in done.headers if "failover-session" in v)
            for worker in (0, 1):
                assert (await s.search(worker)).status == 401
                seen = await s.search(worker, f"Cookie: {session}")
                assert (seen.status, seen.upstream) == (200, "backup")
            count = s.metrics.registry.get_sample_value
            assert count("failover_logins_total", {"result": "accepted"}) == 1
            assert count("failover_logins_total", {"result": "refused"}) == 2
        # The router is dead: who is logged in goes on, and nobody new gets in.
        second = await asyncio.to_thread(tempfile.mkdtemp, dir=tmp_path)
        async with stage(Path(second), oidc) as s:
            async with s.router(b"k" * 32):
                await until(lambda: s.joined(b"k" * 32))
                await s.route(Phase.ON_BACKUP)
                back, cookie = await redirected(s, provider, 0)
            assert (await s.search(1, f"Cookie: {session}")).status == 200
            begun = await ask(s.ports[0], "/.failover/oidc/login?to=/a", "Host: pacs.example")
            ended = await ask(s.ports[0], back, "Host: pacs.example", cookie)
            assert [(one.status, one.header("set-cookie")) for one in (begun, ended)] == [(503, None)] * 2
    finally:
        await provider.stop()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await CLOCK.sleep(0.005)


async def test_a_session_of_one_worker_is_valid_at_each(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, s.router(b"k" * 32):
        await until(lambda: s.joined(b"k" * 32))
        await s.route(Phase.ON_BACKUP)
        assert (await s.search(1)).status == 401
        done = await s.log_in(0, PASSWORD)
        assert done.status == 303
        found = re.match(r"failover-session=[\w.-]+", done.header("set-cookie") or "")
        assert found is not None
        for worker in (0, 1):
            seen = await s.search(worker, f"Cookie: {found[0]}")
            assert (seen.status, seen.upstream) == (200, "backup")


async def test_tries_at_all_workers_are_counted_together(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, s.router(b"k" * 32):
        await until(lambda: s.joined(b"k" * 32))
        for number in range(10):
            assert (await s.log_in(number % 2, "wrong password")).status == 401
        assert [(await s.log_in(worker, PASSWORD)).status for worker in (0, 1)] == [429, 429]
        count = s.metrics.registry.get_sample_value
        assert count("failover_logins_total", {"result": "refused"}) == 10
        assert count("failover_logins_total", {"result": "too_often"}) == 2


async def test_a_machine_with_an_old_password_has_tried_once(tmp_path: Path) -> None:
    old = f"Authorization: {basic('anna', 'wrong password')}"
    async with stage(tmp_path) as s, s.router(b"k" * 32):
        await until(lambda: s.joined(b"k" * 32))
        await s.route(Phase.ON_BACKUP)
        assert [(await s.search(worker, old)).status for worker in (0, 1, 0, 1)] == [401] * 4
        count = s.metrics.registry.get_sample_value
        assert count("failover_logins_total", {"result": "refused"}) == 1


async def test_whom_the_primary_let_in_at_one_is_let_in_and_refused_at_all(tmp_path: Path) -> None:
    cookie = f"Cookie: {SESSION}"
    async with stage(tmp_path) as s, s.router(b"k" * 32):
        await until(lambda: s.joined(b"k" * 32))
        assert [(await s.search(0, shown)).status for shown in (cookie, "Cookie: A=0123456789ABCDEF01")] == [
            200, 401,
        ]  # fmt: skip
        await until(lambda: s.remembered() == [1, 1])
        await s.route(Phase.ON_BACKUP)
        for worker in (0, 1):
            seen = await s.search(worker, cookie)
            assert (seen.status, seen.upstream) == (200, "backup")
            assert (await s.search(worker, "Cookie: A=0123456789ABCDEF01")).status == 401
        await s.route(Phase.ON_PRIMARY)
        s.primary.sessions.clear()
        assert (await s.search(1, cookie)).status == 401
        await until(lambda: s.remembered() == [0, 0])
        await s.route(Phase.ON_BACKUP)
        assert [(await s.search(worker, cookie)).status for worker in (0, 1)] == [401, 401]


async def test_without_the_router_sessions_go_on_and_nobody_logs_in_and_a_new_one_has_its_own_key(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as s:
        async with s.router(b"k" * 32):
            await until(lambda: s.joined(b"k" * 32))
            await s.route(Phase.ON_BACKUP)
            given = (await s.log_in(0, PASSWORD)).header("set-cookie") or ""
            cookie = f"Cookie: {given.partition(';')[0]}"
        assert (await s.search(1, cookie)).status == 200
        refused = await s.log_in(1, PASSWORD)
        assert (refused.status, b"Try again" in refused.body) == (503, True)
        async with s.router(b"n" * 32):  # a disk that was full kept no key
            await until(lambda: s.joined(b"n" * 32))
            assert (await s.search(1, cookie)).status == 401
            assert (await s.log_in(1, PASSWORD)).status == 303
