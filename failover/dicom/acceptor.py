"""The acceptor: listens, reads A-ASSOCIATE-RQs under caps, answers them, serves each association in a task.

Whom to admit, what to accept and what the messages mean is handed in. Doors stay open: half-open, dripping
and idle peers are reaped, the oldest half-open one makes room for a new one, and a reserve is kept for AE
titles that the owner knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from failover.aio import Recall, Signal, cancel_and_wait, spawn
from failover.clock import Clock
from failover.dicom.association import State
from failover.dicom.connection import Connection
from failover.dicom.exchange import Association
from failover.dicom.negotiation import (
    LOCAL_LIMIT_EXCEEDED,
    TEMPORARY_CONGESTION,
    Acceptance,
    Rejection,
    acceptance_ac,
    contexts_in_force,
)
from failover.dicom.sockets import set_options
from failover.dicom.turned_away import Cause, TurnedAway
from failover.dicom.units import AssociateRq, ContextResult
from failover.doors import Door, HandshakeLimits, Handshakes
from failover.errors import AssociationEnded, whence
from failover.seldom import Seldom
from failover.tls import ServerIdentity

_log = structlog.get_logger(__name__)
_REAP_EVERY_S: Final = 0.25
_PDU_TIMEOUT_S: Final = 60.0  # one PDU may take so long: 64 KiB at 1 KiB/s; a slower peer is dripping
_TO_ASK_S: Final = 0.5  # a connection so young is no attack yet: its RQ may wait in our own queue
_YOUNG: Final = 3  # with those that are young so many times what is allowed, and no more
_IDLE_AT_STOP_S: Final = 1.0
_BACKLOG: Final = 512

Answer = Sequence[ContextResult] | Acceptance | Rejection
Admit = Callable[[AssociateRq, str], Rejection | None]
Accept = Callable[[AssociateRq], Answer | Awaitable[Answer]]
Serve = Callable[[Association], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What peers may take. At a limit of associations the RQ gets RJ transient, local limit exceeded."""

    artim_s: float = 10.0  # for the RQ, and for the peer's close at the end; then the connection is closed
    idle_timeout_s: float = 600.0  # an association on which it is the peer's turn for so long is aborted
    max_associations: int = 200
    max_per_address: int = 50  # also of half-open connections: beyond it the oldest of them is closed
    max_per_ae_title: int = 50
    reserve: int = 10  # of max_associations, for known AE titles alone
    max_pdu_bytes: int = 65536


class Acceptor:
    """A DICOM listener.

    `admit(rq, peer_host)` says who may come in. `accept(rq)` answers: results for each context, an
    `Acceptance`, or a `Rejection`; it may be a coroutine function, and is cancelled when the requestor goes
    away meanwhile. If it returned an acceptance, `serve` is called, even when the requestor has gone.
    `serve(association)` returns when `receive` has returned None; what it raises aborts the association.
    """

    def __init__(
        self,
        limits: Limits,
        admit: Admit,
        accept: Accept,
        serve: Serve,
        clock: Clock,
        *,
        known_ae_titles: Collection[str] = (),
        name: str = "acceptor",
        turned_away: Callable[[Cause], None] | None = None,
        failed: Callable[[], None] | None = None,
        unserved: Callable[[object], None] | None = None,
    ) -> None:
        """`turned_away` is told of each association refused for want of room, `failed` of each one that a
        fault of ours ended, `unserved` of the companion of an acceptance that such a fault made void."""
        self._limits = limits
        self._admit, self._accept, self._serve = admit, accept, serve
        self._clock = clock
        self._known = frozenset(known_ae_titles)
        self._name = name
        self._turned_away = TurnedAway(name, clock, turned_away)
        self._failed = failed
        self._unserved = unserved
        self._rejections, self._faults = Seldom(clock), Seldom(clock)
        self._late, self._broken = Seldom(clock), Seldom(clock)
        self._server: asyncio.Server | None = None
        self._door: Door | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._half_open: dict[Connection, float] = {}  # since when: no association yet, or no longer
        self._open: dict[Connection, Association | None] = {}  # counted; None: being answered
        self._of_address: Counter[str] = Counter()
        self._of_ae_title: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.changed = Signal()  # fires when an association begins or ends

    async def start(self, sock: socket.socket) -> None:
        """Accept on `sock`, which listens already or is bound."""
        set_options(sock)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=sock, backlog=_BACKLOG)
        self._begin_reaping()

    def start_tls(self, sock: socket.socket, identity: ServerIdentity) -> None:
        """Accept on `sock`, which listens already, those who speak DICOM TLS (PS3.15 B.12)."""
        set_options(sock)
        limits = HandshakeLimits(
            self._limits.artim_s, self._limits.max_associations, self._limits.max_per_address
        )
        self._door = Door(sock, self._connection, Handshakes(identity, limits))
        self._door.open()
        self._begin_reaping()

    def _begin_reaping(self) -> None:
        if self._reaper is None:
            self._reaper = spawn(self._reap(), name=f"{self._name} reaper")

    def change(self, limits: Limits, known_ae_titles: Collection[str]) -> None:
        """Go by these from the next association on; those that are open stay."""
        self._limits = limits
        self._known = frozenset(known_ae_titles)

    @property
    def associations(self) -> int:
        """How many associations are open or being answered."""
        return len(self._open)

    @property
    def connections(self) -> int:
        """How many TCP connections are open."""
        return len(self._open) + len(self._half_open)

    async def stop(self, grace_s: float) -> None:
        """1. accept nothing new; 2. let operations end for `grace_s`; 3. A-ABORT the rest.

        An association that is idle has nothing to end: it is aborted after a second.
        """
        self._stopping = True
        if self._server is not None:
            self._server.close()
        if self._door is not None:
            await self._door.stop()
        for connection in [*self._half_open]:
            connection.close()
        deadline_s = self._clock.monotonic() + grace_s
        while self._open and (now_s := self._clock.monotonic()) < deadline_s:
            for connection, association in [*self._open.items()]:
                if association is not None and association.stalled_s(now_s) > _IDLE_AT_STOP_S:
                    connection.abort("shutting down, and idle")
            left_s = min(_REAP_EVERY_S, deadline_s - now_s)
            await self.changed.wait_until(lambda: not self._open, timeout_s=left_s)
        if self._open:
            _log.warning("associations aborted at shutdown", count=len(self._open), acceptor=self._name)
        for connection in [*self._open]:
            connection.abort("shutting down")
        await cancel_and_wait(*self._tasks)
        for connection in [*self._open, *self._half_open]:
            connection.close()
        await cancel_and_wait(self._reaper)

    # -- one connection -----------------------------------------------------------------------------

    def _connection(self) -> Connection:
        return Connection(
            requestor=False,
            max_pdu_bytes=self._limits.max_pdu_bytes,
            clock=self._clock,
            artim_s=self._limits.artim_s,
            opened=self._opened,
            closed=self._closed,
            failed=self._fault,
            broke=self._note_broken,
        )

    def _opened(self, connection: Connection) -> None:
        if self._stopping:
            connection.drop()
            return
        self._half_open[connection] = self._clock.monotonic()
        self._make_room()
        task = spawn(self._run(connection), name=f"{self._name} {connection.peer_host}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _make_room(self) -> None:
        """Close the oldest half-open connections when there are too many: an honest requestor sends its RQ at
        once and is no longer among them when its turn comes.

        Of a flood hundreds are accepted before a byte is read or an RQ answered: who has only just come, and
        waits for us, stays, up to more of them.
        """
        of_host: dict[str, list[Connection]] = {}
        for connection in self._half_open:
            of_host.setdefault(connection.peer_host, []).append(connection)
        for same in of_host.values():
            self._trim(same, self._limits.max_per_address)
        self._trim([*self._half_open], self._limits.max_associations)  # those just closed count no more

    def _trim(self, many: list[Connection], allowed: int) -> None:
        """Close the oldest of these half-open connections until there are no more than `allowed`."""
        surplus = len(many) - allowed
        if surplus <= 0:
            return
        young_since_s = self._clock.monotonic() - _TO_ASK_S
        for place, connection in enumerate(many[:surplus]):
            is_young = connection.awaits_us and self._half_open[connection] > young_since_s
            if not is_young or len(many) - place > _YOUNG * allowed:
                self._drop_half_open(connection)

    def _drop_half_open(self, connection: Connection) -> None:
        if self._half_open.pop(connection, None) is None:
            return
        self._turned_away.note(Cause.HALF_OPEN, connection.peer_host)
        connection.end("too many half-open connections")
        connection.drop()

    def _closed(self, connection: Connection) -> None:
        self._half_open.pop(connection, None)

    async def _run(self, connection: Connection) -> None:
        """Run one association from its RQ to its end. A fault of ours ends it at once, and no other."""
        try:
            await self._run_to_end(connection)
        except AssociationEnded:
            pass  # before there was an association
        except Exception as error:
            self._fault(error)
            connection.fail_inside()

    def _fault(self, error: Exception) -> None:
        """Count and log a fault in our own code: where it happened, and nothing of what peers sent."""
        if self._failed is not None:
            self._failed()
        where = whence(error)
        count = self._faults.due(where)
        if count:
            _log.error(
                "failed inside", acceptor=self._name, error=type(error).__name__, where=where, count=count
            )

    async def _run_to_end(self, connection: Connection) -> None:
        rq = await connection.handshake()
        assert isinstance(rq, AssociateRq)
        if connection.ended is not None:
            return
        rejection = self._admit(rq, connection.peer_host)
        if rejection is not None:
            self._reject(connection, rq, rejection)
            return
        cause = self._over_limit(rq, connection.peer_host)
        if cause is not None:
            self._turned_away.note(cause, connection.peer_host, rq.calling_ae)
            connection.send_rj(LOCAL_LIMIT_EXCEEDED)
            return
        self._half_open.pop(connection, None)
        self._open[connection] = None
        self._of_address[connection.peer_host] += 1
        self._of_ae_title[rq.calling_ae] += 1
        self.changed.fire()
        try:
            await self._answer_and_serve(connection, rq)
        finally:
            del self._open[connection]
            _count_down(self._of_address, connection.peer_host)
            _count_down(self._of_ae_title, rq.calling_ae)
            if not connection.is_gone:
                self._half_open[connection] = (
                    self._clock.monotonic()
                )  # waits for the peer's close, at most ARTIM
            self.changed.fire()

    async def _answer_and_serve(self, connection: Connection, rq: AssociateRq) -> None:
        answer = await self._answer(connection, rq)
        if answer is None:
            return
        if isinstance(answer, Rejection):
            self._reject(connection, rq, answer)
            return
        acceptance = answer if isinstance(answer, Acceptance) else Acceptance(answer)
        try:
            ac = acceptance_ac(rq, acceptance, self._limits.max_pdu_bytes)
            contexts = contexts_in_force(rq, ac)
            association = Association(connection, rq, ac, contexts, companion=acceptance.companion)
            self._open[connection] = association
            with contextlib.suppress(AssociationEnded):  # `serve` will hear it at its first word
                connection.send_ac(ac)
        except Exception:
            if self._unserved is not None:
                self._unserved(acceptance.companion)
            raise
        try:
            await self._serve(association)
        except AssociationEnded as ended:
            _log.info("association ended", acceptor=self._name, calling=rq.calling_ae, why=str(ended))
        except asyncio.CancelledError:
            connection.abort("shutting down")
            raise
        if connection.released:
            connection.respond_release()
        elif connection.machine.state is State.ESTABLISHED:
            connection.abort("the service ended")

    async def _answer(self, connection: Connection, rq: AssociateRq) -> Answer | None:
        """Return the owner's answer, None when the requestor went away before it."""
        answer = self._accept(rq)
        if not inspect.isawaitable(answer):
            return answer
        with Recall() as leaving:
            connection.when_ended = leaving.call
            try:
                return await answer
            except Exception as error:
                self._fault(error)  # not the requestor's: it may try again
                return TEMPORARY_CONGESTION
            finally:
                connection.when_ended = None
        return None

    def _reject(self, connection: Connection, rq: AssociateRq, rejection: Rejection) -> None:
        count = self._rejections.due(f"{rq.calling_ae} {rejection.sentence}")
        if count:
            _log.warning(
                "association rejected",
                acceptor=self._name,
                peer=connection.peer_host,
                calling=rq.calling_ae,
                called=rq.called_ae,
                why=rejection.sentence,
                count=count,
            )
        connection.send_rj(rejection)

    def _over_limit(self, rq: AssociateRq, host: str) -> Cause | None:
        limits = self._limits
        if self._stopping:
            return Cause.STOPPING
        if len(self._open) >= limits.max_associations:
            return Cause.MAX_ASSOCIATIONS
        stranger = bool(self._known) and rq.calling_ae not in self._known
        if stranger and len(self._open) >= limits.max_associations - limits.reserve:
            return Cause.RESERVE
        if self._of_address[host] >= limits.max_per_address:
            return Cause.MAX_PER_ADDRESS
        if self._of_ae_title[rq.calling_ae] >= limits.max_per_ae_title:
            return Cause.MAX_PER_AE_TITLE
        return None

    # -- reaping ------------------------------------------------------------------------------------

    async def _reap(self) -> None:
        """End what stands still: ARTIM, a PDU that drips, an association on which the peer is silent."""
        while True:
            await self._clock.sleep(_REAP_EVERY_S)
            await asyncio.sleep(0)  # what came while our own loop stood still is read before it is missed
            now = self._clock.monotonic()
            self._make_room()
            for connection in [*self._half_open, *self._open]:
                deadline = connection.artim_deadline_s
                if deadline is not None and now >= deadline:
                    if connection.machine.state is State.AWAITING_RQ:
                        self._note_late(connection.peer_host)
                    connection.expire_artim()
                    connection.drop()
            for connection, association in [*self._open.items()]:
                if connection.unfinished_s(now) > _PDU_TIMEOUT_S:
                    connection.abort("a PDU took too long")
                elif association and association.stalled_s(now) > self._limits.idle_timeout_s:
                    _log.info("idle association aborted", acceptor=self._name, peer=connection.peer_host)
                    connection.abort("idle for too long")

    def _note_broken(self, connection: Connection, why: str) -> None:
        count = self._broken.due(connection.peer_host)
        if count:
            _log.warning(
                "peer broke the protocol",
                acceptor=self._name,
                peer=connection.peer_host,
                why=why,
                count=count,
            )

    def _note_late(self, host: str) -> None:
        count = self._late.due(host)
        if count:
            _log.warning("no A-ASSOCIATE-RQ within ARTIM", acceptor=self._name, peer=host, count=count)


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
