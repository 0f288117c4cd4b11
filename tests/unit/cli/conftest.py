"""A running admin listener in a thread of its own, and the command line in this one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from failover.admin.api import admin_app
from failover.cli import make_app
from failover.config.schema import ListenAdmin
from tests.fakes.operations import FakeOperations

TOKEN = "0123456789abcdef0123"


class Running:
    """A fake router that listens; `act` runs something in its loop."""

    def __init__(self, listen: ListenAdmin) -> None:
        self.port = 0
        self._listen = listen
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), daemon=True
        )
        self._thread.start()
        assert self._ready.wait(20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def act(self, action: Callable[[FakeOperations], object]) -> None:
        """Do something to the router, as if it happened there; returns when it is done."""
        done = threading.Event()

        def run() -> None:
            action(self.operations)
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(20)

    def stop(self) -> None:
        if self._end is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self.operations = FakeOperations()
        self._end = asyncio.Event()
        runner = web.AppRunner(admin_app(self.operations, self._listen), access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()


@pytest.fixture
def router() -> Iterator[Running]:
    running = Running(ListenAdmin())
    yield running
    running.stop()


@pytest.fixture
def locked_router(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "tokens").write_text(f"alice {TOKEN}\n")
    running = Running(ListenAdmin(token_file=tmp_path / "tokens"))
    yield running
    running.stop()


@pytest.fixture
def failover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run one command in an empty folder, with an environment of its own."""
    for name in ("FAILOVER_ADMIN", "FAILOVER_CONFIG", "FAILOVER_TOKEN_FILE", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "nightshift")
    app = make_app()

    def run(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=environment, catch_exceptions=False)

    return run
