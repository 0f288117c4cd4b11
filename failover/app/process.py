"""What the router, the archive and the replicator have in common as processes: start, signals, end.

A process ends by SIGTERM, SIGINT, or when the pipe to its supervisor ends (the supervisor was killed).
SIGHUP, and the method `reload` of its control socket, read the configuration again.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from failover.aio import cancel_and_wait, spawn
from failover.app import logs
from failover.app.reload import Reloader
from failover.config import Configuration, load
from failover.control import ControlServer, Json, socket_path
from failover.durable import make_folder

_log = structlog.get_logger(__name__)
PARENT_PIPE: Final = "FAILOVER_PARENT_PIPE"
# Some MB of garbage, at most, wait to be found.
YOUNG_OBJECTS: Final = 20_000

Serve = Callable[[Configuration, asyncio.Event, Reloader], Awaitable[int]]


def reload_socket(state_dir: Path, component: str) -> Path:
    """Return where a process answers `reload`, besides what it answers as router, archive or replicator."""
    return socket_path(state_dir, f"{component}-process")


def run(component: str, config_path: Path, serve: Serve, *, archive_alone: bool = False) -> int:
    """Load the configuration and run `serve(configuration, stop, reloader)` until it returns; its exit code.

    Raises ConfigurationError and PortTaken, for the command line to print.
    """
    configuration = load(config_path, archive_alone=archive_alone)
    logs.set_up(component)
    # What we write holds patients' data: for our own user alone.
    os.umask(0o077)
    return _runner(_main(component, config_path, configuration, serve, archive_alone))


def settle() -> None:
    """All is set up: make the collector of cycles look seldom, and not at what stays.

    It looks through what is young whenever 700 objects more were made than given back. That many belong to
    the requests under way when 256 callers wait, so it looked in vain at each turn.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def _runner(main: Awaitable[int]) -> int:
    async def wrapped() -> int:
        return await main

    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.run(wrapped())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(wrapped())


async def _main(
    component: str, config_path: Path, configuration: Configuration, serve: Serve, archive_alone: bool
) -> int:
    stop = asyncio.Event()
    hung_up = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    _watch_parent(loop, stop)
    _log.info("started", site=configuration.site, pid=os.getpid())
    reloader = Reloader(component, config_path, configuration, archive_alone=archive_alone)

    async def reload(question: Json) -> Json:
        return (await reloader.reload(dry_run=bool(question.get("dry_run")))).as_json()

    make_folder(configuration.state_dir)
    control = ControlServer(reload_socket(configuration.state_dir, component), {"reload": reload})
    await control.start()
    reloading = spawn(_reload_at_hangup(reloader, hung_up), name="reload")
    try:
        code = await serve(configuration, stop, reloader)
    finally:
        await cancel_and_wait(reloading)
        await control.stop()
    _log.info("stopped", code=code)
    return code


async def _reload_at_hangup(reloader: Reloader, hung_up: asyncio.Event) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        await reloader.reload()


def _watch_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    descriptor = os.environ.pop(PARENT_PIPE, "")
    if not descriptor:
        return
    pipe = int(descriptor)
    os.set_blocking(pipe, False)

    def ended() -> None:
        # Nobody ever writes into it: readable means that its other end is gone.
        loop.remove_reader(pipe)
        _log.warning("the supervisor is gone")
        stop.set()

    loop.add_reader(pipe, ended)
