"""TLS where connections are accepted: handshakes under limits, and a clear end for those who speak plain.

Who accepts from the socket, and what is spoken after the handshake, is for others: the proxy accepts by
itself and hands each connection to `Handshakes`; `Door` accepts for those who need nothing more. A protocol
is made when its handshake is done, so nothing behind a door sees a byte of who cannot speak TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from failover.aio import cancel_and_wait, spawn
from failover.tls import ServerIdentity

_log = structlog.get_logger(__name__)

_HANDSHAKE: Final = 0x16  # RFC 8446 5.1: the content type with which a ClientHello begins
# Accepted at one wake-up, so that a flood does not starve those who are being served.
_ACCEPTS: Final = 64
# No descriptors left: tried again after this.
_RETRY_S: Final = 0.25
# How long we wait for the peer's close_notify, or for one who spoke plain to read why; then it is dropped.
_GOODBYE_S: Final = 2.0
_UNREAD_BYTES: Final = 65536
# Lines of the log about those who did not get in: so many in so many seconds; a flood must not fill the disk.
_TOLD: Final = 10
_TELL_EVERY_S: Final = 10.0

Make = Callable[[], asyncio.BaseProtocol]


@dataclass(frozen=True, slots=True)
class HandshakeLimits:
    """What those may take who have not shown yet that they speak TLS. Beyond it the oldest one goes.

    An honest caller has done its handshake in a few round trips, long before it is the oldest.
    """

    timeout_s: float = 10.0
    most: int = 200
    most_per_address: int = 50


class Handshakes:
    """The handshakes under way at one listener."""

    def __init__(self, identity: ServerIdentity, limits: HandshakeLimits, *, to_plain: bytes = b"") -> None:
        """`to_plain` is what one hears who speaks without TLS, before its connection is closed."""
        self._identity = identity
        self._limits = limits
        self._to_plain = to_plain
        self._tasks: dict[asyncio.Task[None], str] = {}  # and the address; oldest first
        self._of_address: Counter[str] = Counter()
        self.failed = 0
        self._told = 0
        self._told_since_s = float("-inf")

    @property
    def under_way(self) -> int:
        return len(self._tasks)

    def begin(self, accepted: socket.socket, make: Make) -> None:
        """Do the handshake on `accepted`; then the protocol that `make` returns has the connection."""
        host = _host(accepted)
        limits = self._limits
        if self._of_address[host] >= limits.most_per_address:
            self._drop(next(task for task, other in self._tasks.items() if other == host))
        elif len(self._tasks) >= limits.most:
            self._drop(next(iter(self._tasks)))
        task = spawn(self._shake(accepted, host, make), name=f"{self._identity.listener} handshake")
        self._tasks[task] = host
        self._of_address[host] += 1
        task.add_done_callback(self._done)

    async def stop(self) -> None:
        await cancel_and_wait(*self._tasks)

    def _drop(self, task: asyncio.Task[None]) -> None:
        self._done(task)
        task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        host = self._tasks.pop(task, None)
        if host is None:
            return
        self._of_address[host] -= 1
        if not self._of_address[host]:
            del self._of_address[host]

    async def _shake(self, accepted: socket.socket, host: str, make: Make) -> None:
        handed_over = False
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                first = await _first_byte(accepted)
                if first is None:
                    return  # it came and went: a TCP check
                if first != _HANDSHAKE:
                    self._tell(host, "spoke without TLS")
                    await _goodbye(accepted, self._to_plain)
                    return
                handed_over = True  # from here on the transport closes the socket
                await asyncio.get_running_loop().connect_accepted_socket(
                    make,
                    accepted,
                    ssl=self._identity.context,
                    ssl_handshake_timeout=self._limits.timeout_s,
                    ssl_shutdown_timeout=_GOODBYE_S,
                )
        except ssl.SSLError as error:
            self._tell(host, (error.reason or "handshake failed").replace("_", " ").lower())
        except TimeoutError:
            self._tell(host, "no handshake in time")
        except OSError as error:
            self._tell(host, error.strerror or "connection lost")
        finally:
            if not handed_over:
                accepted.close()

    def _tell(self, host: str, why: str) -> None:
        self.failed += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._told_since_s >= _TELL_EVERY_S:
            self._told_since_s, self._told = now_s, 0
        self._told += 1
        if self._told <= _TOLD:
            _log.info("no TLS", listener=self._identity.listener, peer=host, why=why, failed=self.failed)


class Door:
    """Accepts on one listening socket, with or without TLS, until `close`."""

    def __init__(self, sock: socket.socket, make: Make, handshakes: Handshakes | None = None) -> None:
        self._sock = sock
        self._make = make
        self._handshakes = handshakes
        self._again: asyncio.TimerHandle | None = None
        self._open = False

    def open(self) -> None:
        """Accept from now on."""
        self._sock.setblocking(False)
        self._open = True
        self._on()

    def close(self) -> None:
        """Accept nothing more. Whoever waits in the backlog is the next process's."""
        if self._open:
            self._open = False
            self._off()
            self._sock.close()

    async def stop(self) -> None:
        """Close, and end the handshakes under way."""
        self.close()
        if self._handshakes is not None:
            await self._handshakes.stop()

    def _on(self) -> None:
        self._again = None
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def _off(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            if not self._open:
                return
            try:
                accepted, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("cannot accept", error=error.strerror)
                self._off()
                self._again = asyncio.get_running_loop().call_later(_RETRY_S, self._on)
                return
            accepted.setblocking(False)
            if self._handshakes is not None:
                self._handshakes.begin(accepted, self._make)
            else:
                spawn(_connect(accepted, self._make), name="accept")


async def _connect(accepted: socket.socket, make: Make) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(make, accepted)
    except OSError:
        accepted.close()


async def _first_byte(sock: socket.socket) -> int | None:
    """Look at what the peer begins with and leave it there; None when it left instead."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            seen = sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(sock.fileno(), _wake, readable)
            try:
                await readable
            finally:
                loop.remove_reader(sock.fileno())
            continue
        return seen[0] if seen else None


async def _goodbye(sock: socket.socket, words: bytes) -> None:
    """Say `words` and close so that they arrive: closing with bytes unread would send a reset after them."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_GOODBYE_S):
            if words:
                await loop.sock_sendall(sock, words)
            sock.shutdown(socket.SHUT_WR)
            unread = 0
            while unread < _UNREAD_BYTES:
                data = await loop.sock_recv(sock, 4096)
                if not data:
                    return
                unread += len(data)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _host(sock: socket.socket) -> str:
    try:
        peer = sock.getpeername()
    except OSError:
        return ""
    return str(peer[0]) if isinstance(peer, tuple) else ""
