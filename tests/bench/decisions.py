"""How long a decision of the router takes until every web worker goes by it: median, 99th of 100, longest.

We are the router's part of it (`app.web_workers`), the three workers are the real processes on the real
private channel. Timed is from the publishing of a route to the last worker's word that its proxy goes by it,
which has the way back in it: a request is decided anew somewhat earlier. Once at rest, once under the load of
a busy house. Workers whose processors are all taken hear as late as they run.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from failover.app import listeners
from failover.app.supervisor import router_children
from failover.app.web_words import JOIN
from failover.app.web_workers import WebWorkers
from failover.clock import SystemClock
from failover.config import Configuration, load
from failover.control import ControlServer, socket_path
from failover.health.passive import LiveTraffic
from failover.metrics import RouterMetrics
from failover.model import Phase, UpstreamName
from failover.routing.board import RouteBoard
from tests.bench import web
from tests.bench.report import Row, Suite
from tests.fakes.web_stage import calm_route
from tests.peers.process import free_port

BESIDE: Final = 3
_CONNECTIONS: Final = 32
# Each connection rests so long after an answer: some 300 requests a second together.
_REST: Final = "function delay() return 100 end"
# Between two decisions: the workers are asleep again, as they are before a real one.
_BETWEEN_S: Final = 0.02
_MUST_MS: Final = 50.0


def _configuration(folder: Path, primary: int, backup: int) -> tuple[Configuration, Path]:
    file = folder / "failover.yaml"
    file.write_text(
        f"state_dir: ./state\nprimary: {{web: {{url: 'http://127.0.0.1:{primary}'}}}}\n"
        f"archive: {{web: {{port: {backup}}}}}\n"
        f"listen: {{web: {{port: {free_port()}, workers: {BESIDE + 1}, access_log: 0}},"
        f" dicom: {{port: {free_port()}}}, admin: {{port: {free_port()}}}}}\n"
    )
    return load(file), file


@contextmanager
def _workers(configuration: Configuration, file: Path) -> Iterator[None]:
    """The processes beside the router, as the supervisor starts them."""
    opened = listeners.open_all(configuration)
    running = []
    try:
        for child in router_children(configuration, file, opened)[1:]:
            process = subprocess.Popen(
                child.arguments,
                env={**os.environ, **child.environment},
                pass_fds=child.descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            running.append(process)
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(30)
        for sock in opened.values():
            sock.close()


async def _measure(configuration: Configuration, folder: Path, count: int) -> dict[str, list[float]]:
    """Return the milliseconds of `count` decisions at rest and under load."""
    clock, board = SystemClock(), RouteBoard(calm_route())
    traffic = {name: LiveTraffic(clock) for name in UpstreamName}
    workers = WebWorkers(BESIDE + 1, board, traffic, RouterMetrics(CollectorRegistry()), clock)
    server = ControlServer(socket_path(configuration.state_dir, "router"), {}, {JOIN: workers.serve})
    workers.start()
    await server.start()
    # The second phase differs from the first in all that a request looks at.
    routes = [calm_route(), calm_route(Phase.ON_BACKUP)]

    async def decide(times: int) -> list[float]:
        took_ms = []
        for number in range(times):
            began_s = clock.monotonic()
            board.publish(routes[(number + 1) % 2])
            if not await workers.all_heard(timeout_s=10):
                raise RuntimeError("a web worker has not heard of a decision within 10 s")
            took_ms.append((clock.monotonic() - began_s) * 1e3)
            await clock.sleep(_BETWEEN_S)
        return took_ms

    try:
        if not await workers.all_heard(timeout_s=30):
            raise RuntimeError("the web workers have not joined")
        found = {"at rest": await decide(count)}
        seconds = round(count * _BETWEEN_S * 4) + 2
        busy = asyncio.to_thread(
            web.load, configuration.listen.web.port, "/dicom-web/studies",
            connections=_CONNECTIONS, seconds=seconds, folder=folder, script=_REST,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            loaded = group.create_task(busy)
            await clock.sleep(1.0)
            found["under load"] = await decide(count)
            seen = await loaded
        found["requests a second"] = [seen.requests / seconds]
        if seen.errors or not seen.requests:
            raise RuntimeError(f"{seen.errors} of {seen.requests} requests failed")
        return found
    finally:
        await server.stop()
        await workers.stop()


def run(quick: bool) -> Suite:
    count = 20 if quick else 200
    machine = f"load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} processors before it began"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="decisions-")))
        ports = [stack.enter_context(web.origin(folder / name)) for name in ("primary", "backup")]
        configuration, file = _configuration(folder, *ports)
        stack.enter_context(_workers(configuration, file))
        found = asyncio.run(_measure(configuration, folder, count))
    rows, rate = [], found.pop("requests a second")[0]
    for when, took_ms in found.items():
        figures = {
            "median": statistics.median(took_ms),
            "99th of 100": statistics.quantiles(took_ms, n=100, method="inclusive")[98],
            "longest": max(took_ms),
        }
        for name, figure in figures.items():
            row = Row(f"a decision until {BESIDE} workers go by it, {when}, {name}", "ms", "must")
            row.add("failover", figure)
            row.add("must", _MUST_MS)
            rows.append(row)
    note = f"{count} decisions each; load: {rate:.0f} requests/s on {_CONNECTIONS} connections"
    return Suite("decisions", rows, [note, machine])
