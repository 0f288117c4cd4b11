"""Faults of a primary: how each begins, lasts and ends. What callers make of them is for the rows."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from failover.clock import SystemClock
from tests.bench.outage.content import Content
from tests.bench.outage.stage import Namespace, Primary
from tests.system.site import Site

FAULT_S: Final = 8.0
_clock = SystemClock()
Fault = Callable[["World"], Awaitable[None]]


@dataclass
class World:
    primary: Primary
    namespace: Namespace
    content: Content
    site: Site | None = None
    """The product's, while it is its turn."""

    async def sleep(self, seconds: float) -> None:
        await _clock.sleep(seconds)

    async def restart(self) -> None:
        await asyncio.to_thread(self.primary.start)


async def killed(world: World) -> None:
    await asyncio.to_thread(world.primary.kill)
    await world.sleep(FAULT_S)
    await world.restart()


async def stopped(world: World) -> None:
    world.primary.send(signal.SIGSTOP)
    await world.sleep(FAULT_S)
    world.primary.send(signal.SIGCONT)


async def dropped(world: World) -> None:
    world.namespace.drop_packets()
    await world.sleep(FAULT_S)
    world.namespace.pass_packets()


def behaves(mode: str) -> Fault:
    async def fault(world: World) -> None:
        world.primary.behave(mode)
        await world.sleep(FAULT_S)
        world.primary.behave("well")

    return fault


async def flaps(world: World) -> None:
    for _ in range(4):
        await asyncio.to_thread(world.primary.kill)
        await world.sleep(2.0)
        await world.restart()
        await world.sleep(2.0)


async def stopped_shortly(world: World) -> None:
    for pause_s in (25.0, 5.0):
        world.primary.send(signal.SIGSTOP)
        await world.sleep(1.5)
        world.primary.send(signal.SIGCONT)
        await world.sleep(pause_s)


async def lost_shortly(world: World) -> None:
    for _ in range(3):
        world.namespace.drop_packets()
        await world.sleep(0.3)
        world.namespace.pass_packets()
        await world.sleep(3.0)


async def router_stopped(world: World) -> None:
    assert world.site is not None
    children = await asyncio.to_thread(world.site.children)
    pid = int(children["router"]["pid"])
    os.kill(pid, signal.SIGSTOP)
    await world.sleep(5.0)
    os.kill(pid, signal.SIGCONT)


async def nothing(world: World) -> None:
    await world.sleep(FAULT_S)
