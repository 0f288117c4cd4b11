"""`failover run`: starts router, archive and replicator on one machine and keeps them running.

It holds the router's listening sockets, so that a killed router refuses nobody. Children sit in sessions of
their own and end when the pipe to them ends. It decides nothing about routing, and loads little.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from failover import shares
from failover.aio import cancel_and_wait, spawn
from failover.app import listeners, logs, process
from failover.app.web_words import name_of
from failover.clock import Clock, SystemClock
from failover.config import Configuration, load
from failover.control import ControlServer, Json, socket_path
from failover.durable import make_folder
from failover.errors import ControlError

_log = structlog.get_logger(__name__)

FIRST_WAIT_S: Final = 0.2
LONGEST_WAIT_S: Final = 30.0
# A child that lived so long has not crashed in a loop: its next restart is quick again.
SETTLED_S: Final = 30.0
# Exit 2: a configuration that cannot work will not work the next time either.
NOT_RESTARTED: Final = 2
# How long a child may take to end, in the order of the stop; together below the 15 s of the contract.
GRACE_S: Final = {"router": 6.0, "replicator": 3.0, "archive": 4.0}


@dataclass
class Child:
    """One process that we keep running."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[int] = ()
    ends_with: str | None = None
    """The child with which it is stopped; None: it has its own place in the order."""
    wanted: bool = True
    running: asyncio.subprocess.Process | None = None
    starts: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def left_alone(self) -> bool:
        return not self.wanted


def restart_wait_s(lived_s: float, last_wait_s: float) -> float:
    """Return how long to wait before a restart: at once after a long life, doubling in a crash loop."""
    if lived_s >= SETTLED_S or last_wait_s == 0.0:
        return FIRST_WAIT_S
    return min(LONGEST_WAIT_S, last_wait_s * 2)


class Supervisor:
    """Keeps `children` running until `stop` is set, then ends them in the order given by `stop_order`.

    Web workers end together with the router, whose callers they share, the demo's stand-in with the archive.
    """

    def __init__(self, children: Sequence[Child], clock: Clock, *, stop_order: Sequence[str]) -> None:
        self.children = {child.name: child for child in children}
        self._clock = clock
        self._stop_order = stop_order
        # The children hold the reading ends: they see its end when we die, however we die.
        self._child_end, self._our_end = os.pipe()

    async def run(self, stop: asyncio.Event) -> None:
        keepers = {
            name: spawn(self._keep(child), name=f"keep {name}") for name, child in self.children.items()
        }
        await stop.wait()
        for name in self._stop_order:
            together = [child for child in self.children.values() if name in (child.name, child.ends_with)]
            await cancel_and_wait(*(keepers[child.name] for child in together))
            await asyncio.gather(*(self.end(child) for child in together))
        os.close(self._our_end)

    async def _keep(self, child: Child) -> None:
        wait_s = 0.0
        while True:
            if child.left_alone():
                child.changed.clear()
                await child.changed.wait()
                continue
            started_s = self._clock.monotonic()
            code = await self._run_once(child)
            lived_s = self._clock.monotonic() - started_s
            if child.left_alone():
                _log.info("left alone", child=child.name, code=code)
                wait_s = 0.0
                continue
            if code == NOT_RESTARTED:
                _log.error("not restarted: exit 2 means its configuration cannot work", child=child.name)
                child.wanted = False
                continue
            wait_s = restart_wait_s(lived_s, wait_s)
            _log.warning("restarted", child=child.name, code=code, lived_s=round(lived_s, 1), wait_s=wait_s)
            await self._clock.sleep(wait_s)

    async def _run_once(self, child: Child) -> int:
        environment = {**os.environ, **child.environment, process.PARENT_PIPE: str(self._child_end)}
        try:
            child.running = await asyncio.create_subprocess_exec(
                *child.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                env=environment,
                pass_fds=(*child.descriptors, self._child_end),
                start_new_session=True,
                preexec_fn=_ignore_hangup,
            )
        except OSError as error:  # no memory, no processes left: as a child that died at once
            _log.error("could not be started", child=child.name, error=error.strerror)
            return 1
        child.starts += 1
        return await child.running.wait()

    async def end(self, child: Child) -> None:
        """End the child: SIGTERM, and SIGKILL when its grace is over. A stopped one is woken first."""
        running = child.running
        if running is None or running.returncode is not None:
            return
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(GRACE_S.get(child.ends_with or child.name, 3.0)):
                await running.wait()
        except TimeoutError:
            _log.error("killed: it did not end in time", child=child.name)
            running.kill()
            await running.wait()

    def facts(self) -> Json:
        """Return for each child its process id (None: it does not run) and how often it started."""
        return {
            name: {
                "pid": child.running.pid
                if child.running is not None and child.running.returncode is None
                else None,
                "starts": child.starts,
                "wanted": child.wanted,
            }
            for name, child in self.children.items()
        }

    def pass_on_hangup(self) -> None:
        """SIGHUP to each child: each reads the configuration again and takes over what it can."""
        for child in self.children.values():
            if child.running is not None and child.running.returncode is None:
                child.running.send_signal(signal.SIGHUP)

    def start(self, name: str) -> None:
        """Let a child run: start it, or let a stopped one go on. Raises ControlError when there is none."""
        self.signal(name, signal.SIGCONT, wanted=True)

    def signal(self, name: str, number: signal.Signals, *, wanted: bool) -> None:
        """Send a signal to a child and say whether it is to run. Raises ControlError when there is none."""
        child = self.children.get(name)
        if child is None:
            raise ControlError(f"there is no {name} here")
        child.wanted = wanted
        child.changed.set()
        if child.running is not None and child.running.returncode is None:
            child.running.send_signal(number)


def _ignore_hangup() -> None:
    """In the child, before it is Python: a SIGHUP that comes before its handler is there must not end it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def command(component: str, config_path: Path) -> list[str]:
    """Return the command line of one of our own processes."""
    return [sys.executable, "-m", "failover", component, "-c", str(config_path)]


def router_children(
    configuration: Configuration, config_path: Path, opened: dict[str, socket.socket]
) -> list[Child]:
    """Return the router and the web workers beside it (`listen.web.workers`)."""
    workers = configuration.listen.web.workers
    environment, descriptors = listeners.bequeath(opened), [one.fileno() for one in opened.values()]
    if workers > 1:
        shared = shares.create(workers)
        environment |= shares.bequeath(shared, 0)
        descriptors.append(shared)
    children = [Child("router", command("router", config_path), environment, descriptors)]
    for number in range(2, workers + 1):
        arguments = [sys.executable, "-m", "failover.app.web_worker", str(config_path), str(number)]
        environment = listeners.bequeath({"web": opened["web"]}) | shares.bequeath(shared, number - 1)
        descriptors = [opened["web"].fileno(), shared]
        children.append(Child(name_of(number), arguments, environment, descriptors, ends_with="router"))
    return children


def run_router(configuration: Configuration, config_path: Path) -> int:
    """Run the router with the web workers beside it, and nothing else, until SIGTERM."""
    opened = listeners.open_all(configuration)
    logs.set_up("supervisor")
    children = router_children(configuration, config_path.absolute(), opened)
    return asyncio.run(_main(configuration, children, _nothing, hangup_ends=False))


def run(config_path: Path) -> int:
    """Run the three processes until SIGTERM; return the exit code. Raises ConfigurationError, PortTaken."""
    configuration = load(config_path)
    return supervise(configuration, config_path, extra=[])


async def _nothing(_: Supervisor) -> None:
    return


def supervise(
    configuration: Configuration,
    config_path: Path,
    *,
    extra: Sequence[Child],
    later: Sequence[str] = (),
    after_start: Callable[[Supervisor], Awaitable[None]] = _nothing,
    hangup_ends: bool = False,
) -> int:
    """Run the three processes and `extra` ones (the demo's stand-in primary) until SIGTERM.

    Those named by `later` begin when `after_start`, which runs once beside them, starts them. `hangup_ends`:
    SIGHUP ends all, as of a terminal that was closed; else it is passed on: the configuration is read again.
    """
    opened = listeners.open_all(configuration)
    logs.set_up("supervisor")
    path = config_path.absolute()
    children = [*extra]
    if configuration.backup == "embedded":
        children.append(Child("archive", command("archive", path)))
        children.append(Child("replicator", command("replicator", path)))
    children += router_children(configuration, path, opened)
    for child in children:
        child.wanted = child.name not in later
    return asyncio.run(_main(configuration, children, after_start, hangup_ends=hangup_ends))


async def _main(
    configuration: Configuration,
    children: Sequence[Child],
    after_start: Callable[[Supervisor], Awaitable[None]],
    *,
    hangup_ends: bool,
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    make_folder(configuration.state_dir)
    supervisor = Supervisor(children, SystemClock(), stop_order=("router", "replicator", "archive"))

    loop.add_signal_handler(signal.SIGHUP, stop.set if hangup_ends else supervisor.pass_on_hangup)

    async def facts(_: Json) -> Json:
        return supervisor.facts()

    async def stop_child(question: Json) -> Json:
        number = signal.SIGSTOP if question.get("how") == "stop" else signal.SIGKILL
        supervisor.signal(str(question["name"]), number, wanted=False)
        return {}

    async def start_child(question: Json) -> Json:
        supervisor.start(str(question["name"]))
        return {}

    control = ControlServer(
        socket_path(configuration.state_dir, "supervisor"),
        {"children": facts, "stop": stop_child, "start": start_child},
    )
    await control.start()

    async def beside() -> None:
        await after_start(supervisor)

    task = spawn(beside(), name="after start")
    await supervisor.run(stop)
    await cancel_and_wait(task)
    await control.stop()
    return 0
