"""What a probe is, and the two of `reach` without HTTP: opening a connection, C-ECHO.

A probe asks once and answers with a sentence, or raises UpstreamError with one. It knows no limit, no
rhythm and no verdict: `watch` does. Sentences name no UID and no patient, and do not change while nothing
changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from failover.errors import UpstreamUnreachable
from failover.model import Address, Part
from failover.tls import failure


class Probe(Protocol):
    """One test that we send."""

    @property
    def part(self) -> Part: ...

    @property
    def name(self) -> str:
        """What it does, for reasons and `failover check`: "HEAD /", "C-ECHO"."""

    async def ask(self) -> str:
        """Ask once. Returns why it passed; raises UpstreamError. Cancelled, it leaves no connection open."""


class TcpProbe:
    """Opening a connection is enough."""

    part = Part.REACH

    def __init__(self, address: Address) -> None:
        self._address = address
        self.name = "TCP"

    async def ask(self) -> str:
        try:
            _, writer = await asyncio.open_connection(self._address.host, self._address.port)
        except OSError as error:
            raise UpstreamUnreachable(failure(error)) from error
        writer.close()
        return "a connection opens"


class EchoProbe:
    """C-ECHO in a fresh association:

    a kept one would hold a slot of the PACS and not see that none is left.
    """

    part = Part.REACH
    name = "C-ECHO"

    def __init__(self, echo: Callable[[], Awaitable[None]]) -> None:
        self._echo = echo

    async def ask(self) -> str:
        await self._echo()
        return "C-ECHO succeeds"
