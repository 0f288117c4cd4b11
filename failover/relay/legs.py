"""The relay's associations with upstreams: opened within patience, counted, closed.

A leg is one association of ours with an upstream, on behalf of one caller. Which upstream to ask is `offer`
and `routing.selection`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from failover.aio import Recall, Signal
from failover.clock import Clock
from failover.dicom.exchange import Association
from failover.dicom.negotiation import IMPLEMENTATION_CLASS_UID, RELAY_VERSION
from failover.dicom.requestor import open_by
from failover.dicom.units import AssociateRq, UserInformation, comes_again, padded_ae
from failover.errors import AssociationRejected, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from failover.health.passive import LiveTraffic, Outcome
from failover.model import DicomPeer, Part, Service, UpstreamName
from failover.relay.offer import Proposal, Refusal, patience_s
from failover.routing.board import RouteBoard
from failover.routing.selection import Choice, Kind

_log = structlog.get_logger(__name__)
# Openings under way at one upstream; more wait their turn within their patience. Forty callers replayed at
# once overflowed a listen backlog of 5 (DESIGN 4.6).
_OPENINGS: Final = 16
_LOOK_EVERY_S: Final = 0.05  # how often patience is reckoned anew while an AC is awaited


@dataclass(eq=False, slots=True)
class Leg:
    """An open association with an upstream."""

    upstream: UpstreamName
    association: Association
    expelled: bool = False  # the grace of a drain is over: its upstream did not fail
    counted: bool = True  # among the legs in flight
    passed_over: UpstreamName | None = None  # it was asked before, and let our patience run out

    @property
    def alive(self) -> bool:
        return self.association.ended is None and not self.association.releasing


@dataclass(eq=False, slots=True)
class _Opening:
    """A leg that is being opened."""

    upstream: UpstreamName
    choice: Choice
    kind: Kind
    began_s: float
    recall: Recall = field(default_factory=Recall)
    why: str = ""


class Legs:
    """Opens and closes legs, and knows how many are open at each upstream."""

    def __init__(
        self,
        upstreams: Mapping[UpstreamName, DicomPeer],
        board: RouteBoard,
        traffic: Mapping[UpstreamName, LiveTraffic],
        clock: Clock,
        max_pdu_bytes: int,
    ) -> None:
        self._upstreams = upstreams
        self._board = board
        self._traffic = traffic
        self._clock = clock
        self._max_pdu_bytes = max_pdu_bytes
        self._places = {name: asyncio.Semaphore(_OPENINGS) for name in UpstreamName}
        self._open: Counter[UpstreamName] = Counter()
        self._openings: set[_Opening] = set()
        self._looking: asyncio.TimerHandle | None = None
        self._closing: set[Leg] = set()
        self.changed = Signal()

    def in_flight(self, upstream: UpstreamName) -> int:
        """How many legs are open at `upstream`, or being opened."""
        return self._open[upstream]

    async def open(self, upstream: UpstreamName, proposal: Proposal, choice: Choice, kind: Kind) -> Leg:
        """Open a leg within the patience of DESIGN 4.2; given up at once when the route turns elsewhere.

        Raises what `open_association` raises.
        """
        opening = _Opening(upstream, choice, kind, self._clock.monotonic())
        why = self._given_up(opening)
        if why is not None:
            raise UpstreamTimeout(why)
        with opening.recall:
            self._openings.add(opening)
            if self._looking is None:
                self._look_again()
            try:
                return await self._open_now(upstream, proposal)
            finally:
                self._openings.discard(opening)
        raise UpstreamTimeout(opening.why)

    def _look_again(self) -> None:
        """One look for all that are being opened, however many: a timer for each costs more than it saves."""
        self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._looking = None
        for opening in self._openings:
            why = self._given_up(opening)
            if why is not None:
                opening.why = why
                opening.recall.call()
        if self._openings:
            self._look_again()

    def _given_up(self, opening: _Opening) -> str | None:
        """Return why an opening is to end: our patience is over, or the route turned elsewhere."""
        now_s, upstream = self._clock.monotonic(), opening.upstream
        others = self._traffic[upstream].heard_since(now_s - 1.0)
        patience = patience_s(opening.choice, upstream, answers_others=others)
        if now_s - opening.began_s >= patience:
            return "no A-ASSOCIATE-AC within our patience"
        if upstream is opening.choice.first and self._turned_away(upstream, opening.kind):
            return "it became suspect before its A-ASSOCIATE-AC"
        return None

    def _turned_away(self, upstream: UpstreamName, kind: Kind) -> bool:
        now = self._board.choice(Service.DICOM, kind)
        return now.first is not None and now.first is not upstream

    async def _open_now(self, upstream: UpstreamName, proposal: Proposal) -> Leg:
        traffic = self._traffic[upstream]
        peer = self._upstreams.get(upstream)
        if peer is None:
            raise UpstreamUnreachable(f"the {upstream} has no DICOM service")
        self._open[upstream] += 1
        leg: Leg | None = None
        try:
            async with self._places[upstream]:
                token = traffic.began(Part.REACH, "A-ASSOCIATE")
                outcome = Outcome.LEFT
                try:
                    association = await open_by(
                        peer,
                        rq_for(peer, proposal, self._max_pdu_bytes),
                        timeout_s=60.0,  # our patience ends it before
                        clock=self._clock,
                    )
                    outcome = Outcome.ANSWERED
                    leg = Leg(upstream, association)
                    return leg
                except AssociationRejected as error:
                    # Transient: it may be full for all. That counts for nothing but sends probes at once.
                    outcome = Outcome.FAILED if error.transient else Outcome.ANSWERED
                    raise
                except UpstreamError:
                    outcome = Outcome.FAILED
                    raise
                finally:
                    traffic.ended(token, outcome)
        finally:
            if leg is None:
                self._left(upstream)

    def release(self, leg: Leg) -> None:
        """Release a leg in its own time: nobody waits for it."""
        self._closing.add(leg)

        def gone() -> None:
            self._closing.discard(leg)
            self._closed(leg)
            self.changed.fire()

        leg.association.release_unawaited(gone)

    def abort(self, leg: Leg) -> None:
        """A-ABORT, at once. Safe to call twice."""
        leg.association.abort()
        self._closed(leg)

    def expel(self, leg: Leg) -> None:
        """End a leg in the middle of an operation although its upstream is well: a drain's grace is over."""
        leg.expelled = True
        self.abort(leg)

    def _closed(self, leg: Leg) -> None:
        if leg.counted:
            leg.counted = False
            self._left(leg.upstream)

    def _left(self, upstream: UpstreamName) -> None:
        self._open[upstream] -= 1
        self.changed.fire()

    async def wait_closed(self) -> None:
        """Return when each release under way has ended: none takes longer than its own limit."""
        while self._closing:
            await self.changed.wait()


def rq_for(peer: DicomPeer, proposal: Proposal, max_pdu_bytes: int) -> AssociateRq:
    """Return the RQ by which `peer` is asked, made once of a proposal that comes again."""
    derived = proposal.derived
    if derived is None:
        return _rq_for(peer, proposal, max_pdu_bytes)
    known: AssociateRq | None = derived.find("rq", peer)
    if known is None or known.user.max_pdu_bytes != max_pdu_bytes:
        known = _rq_for(peer, proposal, max_pdu_bytes)
        comes_again(known)
        derived.keep("rq", known, peer)
    return known


def _rq_for(peer: DicomPeer, proposal: Proposal, max_pdu_bytes: int) -> AssociateRq:
    user = UserInformation(
        max_pdu_bytes=max_pdu_bytes,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version=RELAY_VERSION,
        roles=proposal.roles,
        extended=proposal.extended,
        common_extended=proposal.common_extended,
        identity=proposal.identity,
    )
    return AssociateRq(
        called_bytes=padded_ae(peer.ae_title),
        calling_bytes=proposal.calling_bytes,
        contexts=proposal.contexts,
        user=user,
    )


def refusal_of(error: UpstreamError) -> Refusal:
    """Return what kind of refusal `error` is."""
    if isinstance(error, AssociationRejected):
        return Refusal.TRANSIENT if error.transient else Refusal.PERMANENT
    if isinstance(error, UpstreamUnreachable):
        return Refusal.UNREACHABLE
    if isinstance(error, UpstreamTimeout):
        return Refusal.TIMED_OUT
    return Refusal.BROKE
