"""The DICOM relay: callers open associations with us, we open ours with the upstream that is chosen.

It admits callers, offers their A-ASSOCIATE-RQ, and runs a `Session` for each association that an upstream has
really accepted. Health and choice come from the board; nothing here decides them.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from failover.addresses import is_within
from failover.aio import cancel_and_wait, spawn
from failover.clock import Clock
from failover.config.schema import DicomCallers, ListenDicom
from failover.dicom.acceptor import Acceptor, Limits
from failover.dicom.exchange import Association
from failover.dicom.negotiation import (
    CALLED_AE_NOT_RECOGNIZED,
    CALLING_AE_NOT_RECOGNIZED,
    TEMPORARY_CONGESTION,
    Acceptance,
    Rejection,
)
from failover.dicom.turned_away import Cause
from failover.dicom.units import AssociateRq
from failover.errors import AssociationRejected, UpstreamError
from failover.health.passive import LiveTraffic
from failover.metrics import RouterMetrics
from failover.model import AeTitle, DicomPeer, Service, UpstreamName
from failover.relay.copies import Copies
from failover.relay.flight import CallerLeft
from failover.relay.legs import Leg, Legs, refusal_of
from failover.relay.object_statuses import ObjectStatuses
from failover.relay.offer import (
    AGAIN_EVERY_S,
    NEITHER_S,
    OfferTo,
    PassOn,
    Refusal,
    caller_answer,
    first_proposal,
    kind_of,
    later_proposal,
    next_offer,
    rejection_of,
)
from failover.relay.serving import serve_caller
from failover.relay.session import Session
from failover.routing.board import RouteBoard
from failover.spool import Spool
from failover.tls import ServerIdentity

_log = structlog.get_logger(__name__)


class Relay:
    """The listener on `listen.dicom`. Also what its sessions share (`session.Surroundings`)."""

    def __init__(
        self,
        listen: ListenDicom,
        callers: DicomCallers,
        upstreams: Mapping[UpstreamName, DicomPeer],
        board: RouteBoard,
        traffic: Mapping[UpstreamName, LiveTraffic],
        metrics: RouterMetrics,
        clock: Clock,
        spool: Spool | None = None,
        copies: Copies | None = None,
        identity: ServerIdentity | None = None,
    ) -> None:
        """`callers`: access.dicom; None means any. Without a `spool`, instances are kept below the system's
        folder for temporary files. Without `copies`, none is made. `identity`: for the TLS port."""
        self.board = board
        self.traffic = dict(traffic)
        self.metrics = metrics
        self.clock = clock
        self.spool = spool or Spool(Path(tempfile.gettempdir()) / "failover-spool")
        self.copies = copies
        self.object_statuses = ObjectStatuses()
        self.legs = Legs(upstreams, board, self.traffic, clock, listen.max_pdu_bytes)
        self.last_store_on_backup_s: float | None = None  # monotonic
        self._listen = listen
        self._identity = identity
        self._callers = callers
        self._sessions: set[Session] = set()
        self._acceptor = Acceptor(
            _limits(listen),
            self._admit,
            self._offer,
            self._serve,
            clock,
            known_ae_titles=_known(callers),
            name="relay",
            turned_away=self._over_limit,
            failed=self._failed,
            unserved=self._unserved,
        )
        self._watcher: asyncio.Task[None] | None = None

    async def start(self, sock: socket.socket | None, tls_sock: socket.socket | None = None) -> None:
        """Accept callers on `sock`, and those who speak TLS on `tls_sock`."""
        self._watcher = spawn(self._watch_route(), name="relay route watcher")
        if sock is not None:
            await self._acceptor.start(sock)
        if tls_sock is not None:
            assert self._identity is not None, "a TLS port needs a certificate"
            self._acceptor.start_tls(tls_sock, self._identity)

    def change(self, listen: ListenDicom, callers: DicomCallers) -> None:
        """Go by these limits and callers from the next association on."""
        self._listen, self._callers = listen, callers
        self._acceptor.change(_limits(listen), _known(callers))

    async def stop(self, grace_s: float) -> None:
        """1. accept nothing new; 2. let associations end for `grace_s`; 3. A-ABORT the rest."""
        await self._acceptor.stop(grace_s)
        await self.legs.wait_closed()
        if self.copies is not None:
            await self.copies.stop()
        await cancel_and_wait(self._watcher)

    def in_flight(self, upstream: UpstreamName) -> int:
        """How many associations of ours are open at `upstream`."""
        return self.legs.in_flight(upstream)

    def end_work(self, upstream: UpstreamName) -> int:
        """End each association of ours at `upstream`: the grace of a drain is over.

        Operations that may be repeated go on at the other one, others end with a failure status; no caller
        loses its association. Returns how many were ended.
        """
        return sum(session.end_at(upstream) for session in [*self._sessions])

    @property
    def acceptor(self) -> Acceptor:
        return self._acceptor

    def store_kept(self, upstream: UpstreamName) -> None:
        """A C-STORE was acknowledged by `upstream`."""
        if upstream is UpstreamName.BACKUP:
            self.last_store_on_backup_s = self.clock.monotonic()

    # -- opening ------------------------------------------------------------------------------------

    def _admit(self, rq: AssociateRq, host: str) -> Rejection | None:
        """Turn away who asks for another AE title, and whom `access.dicom` does not name."""
        if rq.called_ae != self._listen.ae_title:
            rejection = replace(CALLED_AE_NOT_RECOGNIZED, sentence="listen.dicom.ae_title is another")
        elif isinstance(self._callers, dict) and not is_within(
            host, self._callers.get(AeTitle(rq.calling_ae), [])
        ):
            rejection = replace(CALLING_AE_NOT_RECOGNIZED, sentence="access.dicom does not name this caller")
        else:
            return None
        self.metrics.dicom_associations.labels("none", "rejected").inc()
        return rejection

    def _over_limit(self, cause: Cause) -> None:
        if cause is not Cause.HALF_OPEN:  # that was no association yet
            self.metrics.dicom_associations.labels("none", "over_limit").inc()

    def _failed(self) -> None:
        self.metrics.dicom_associations.labels("none", "failed").inc()

    def _unserved(self, companion: object) -> None:
        """A fault of ours came between the opening of a leg and its session."""
        if isinstance(companion, Leg):
            self.legs.abort(companion)

    async def _offer(self, rq: AssociateRq) -> Acceptance | Rejection:
        """Offer an association in rounds until an upstream answers it, at most NEITHER_S."""
        kind, proposal = kind_of(rq), first_proposal(rq)
        began_s = self.clock.monotonic()
        tried: dict[UpstreamName, Refusal] = {}
        rejections: dict[UpstreamName, Rejection] = {}
        while True:
            choice = self.board.choice(Service.DICOM, kind)
            match next_offer(choice, tried):
                case OfferTo(upstream):
                    try:
                        leg = await self.legs.open(upstream, proposal, choice, kind)
                    except UpstreamError as error:
                        tried[upstream] = refusal_of(error)
                        if isinstance(error, AssociationRejected):
                            rejections[upstream] = rejection_of(error.result, error.source, error.reason)
                        _log.info("association not taken", upstream=str(upstream), why=str(error))
                        continue
                    if upstream is not choice.first:
                        if choice.first is not None and tried.get(choice.first) is Refusal.TIMED_OUT:
                            leg.passed_over = choice.first
                        self.metrics.dicom_moved.labels("association").inc()
                    self.metrics.dicom_associations.labels(str(upstream), "accepted").inc()
                    return caller_answer(leg.association.answer, leg)
                case PassOn(upstream):
                    self.metrics.dicom_associations.labels(str(upstream), "refused_by_upstream").inc()
                    return rejections[upstream]
                case _:
                    if self.clock.monotonic() - began_s > NEITHER_S:
                        self.metrics.dicom_associations.labels("none", "rejected").inc()
                        return TEMPORARY_CONGESTION
                    await self.clock.sleep(AGAIN_EVERY_S)
                    tried.clear()

    # -- serving ------------------------------------------------------------------------------------

    async def _serve(self, caller: Association) -> None:
        leg = caller.companion
        assert isinstance(leg, Leg)
        rq = caller.request
        try:
            session = Session(caller, leg, later_proposal(rq, caller.answer), kind_of(rq), self)
        except Exception:
            self._unserved(leg)
            raise
        self._sessions.add(session)
        self.metrics.dicom_open.inc()
        try:
            await serve_caller(session)
            session.drop_leg()
        except CallerLeft as left:
            _log.info("caller left", calling=rq.calling_ae, why=str(left))
            self.metrics.dicom_associations.labels(str(leg.upstream), "aborted").inc()
        finally:
            session.abort_leg()
            self._sessions.discard(session)
            self.metrics.dicom_open.dec()

    async def _watch_route(self) -> None:
        while True:
            await self.board.changed.wait()
            for session in [*self._sessions]:
                session.nudge()


def _limits(listen: ListenDicom) -> Limits:
    return Limits(
        artim_s=listen.artim,
        idle_timeout_s=listen.idle_timeout,
        max_associations=listen.max_associations,
        max_per_address=listen.max_per_address,
        max_per_ae_title=listen.max_per_ae_title,
        reserve=listen.reserve,
        max_pdu_bytes=listen.max_pdu_bytes,
    )


def _known(callers: DicomCallers) -> Sequence[str]:
    return list(callers) if isinstance(callers, dict) else ()
