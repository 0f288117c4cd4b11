"""What the router, the archive and the replicator have in common as processes: start, signals, end.

A process ends by SIGTERM, SIGINT, or when the pipe to its supervisor ends (the supervisor was killed).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from failover.app import logs
from failover.config import Configuration, load

_log = structlog.get_logger(__name__)
PARENT_PIPE: Final = "FAILOVER_PARENT_PIPE"

Serve = Callable[[Configuration, asyncio.Event], Awaitable[int]]


def run(component: str, config_path: Path, serve: Serve, *, archive_alone: bool = False) -> int:
    """Load the configuration and run `serve(configuration, stop)` until it returns; return its exit code.

    Raises ConfigurationError and PortTaken, for the command line to print.
    """
    configuration = load(config_path, archive_alone=archive_alone)
    logs.set_up(component)
    # What we write holds patients' data: for our own user alone.
    os.umask(0o077)
    return _runner(_main(component, configuration, serve))


def _runner(main: Awaitable[int]) -> int:
    async def wrapped() -> int:
        return await main

    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.run(wrapped())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(wrapped())


async def _main(component: str, configuration: Configuration, serve: Serve) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _watch_parent(loop, stop)
    _log.info("started", site=configuration.site, pid=os.getpid())
    code = await serve(configuration, stop)
    _log.info("stopped", code=code)
    return code


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
