"""The relay's associations with upstreams: opened within patience, counted, closed.

A leg is one association of ours with an upstream, on behalf of one caller. Which upstream to ask is `offer`
and `routing.selection`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from failover.aio import Signal, cancel_and_wait, spawn
from failover.clock import Clock
from failover.dicom.exchange import Association
from failover.dicom.negotiation import RELAY_VERSION
from failover.dicom.requestor import open_association
from failover.errors import AssociationRejected, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from failover.health.passive import LiveTraffic, Outcome
from failover.model import DicomPeer, Part, Service, UpstreamName
from failover.relay.offer import Proposal, Refusal, patience_s
from failover.routing.board import RouteBoard
from failover.routing.selection import Choice, Kind, choose

_log = structlog.get_logger(__name__)
# Openings under way at one upstream; more wait their turn within their patience. Forty callers replayed at
# once overflowed a listen backlog of 5 (DESIGN 4.6).
_OPENINGS: Final = 16
_LOOK_EVERY_S: Final = 0.1  # how often patience is reckoned anew while an AC is awaited


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
        self._closing: set[asyncio.Task[None]] = set()
        self.changed = Signal()

    def in_flight(self, upstream: UpstreamName) -> int:
        """How many legs are open at `upstream`, or being opened."""
        return self._open[upstream]

    async def open(self, upstream: UpstreamName, proposal: Proposal, choice: Choice, kind: Kind) -> Leg:
        """Open a leg within the patience of DESIGN 4.2; given up at once when the route turns elsewhere.

        Raises what `open_association` raises.
        """
        opening = spawn(self._open_now(upstream, proposal), name=f"relay opening {upstream}")
        began_s = self._clock.monotonic()
        try:
            while not opening.done():
                now_s = self._clock.monotonic()
                others = self._traffic[upstream].heard_since(now_s - 1.0)
                left_s = began_s + patience_s(choice, upstream, answers_others=others) - now_s
                if left_s <= 0:
                    raise UpstreamTimeout("no A-ASSOCIATE-AC within our patience")
                if upstream is choice.first and self._turned_away(upstream, kind):
                    raise UpstreamTimeout("it became suspect before its A-ASSOCIATE-AC")
                await asyncio.wait((opening,), timeout=min(left_s, _LOOK_EVERY_S))
        except BaseException:
            await cancel_and_wait(opening)
            if not opening.cancelled() and isinstance(leg := opening.result(), Leg):
                self.abort(leg)  # it was opened in the very moment in which nobody wanted it any more
            raise
        leg_or_error = opening.result()
        if isinstance(leg_or_error, UpstreamError):
            raise leg_or_error
        return leg_or_error

    def _turned_away(self, upstream: UpstreamName, kind: Kind) -> bool:
        now = choose(self._board.current, Service.DICOM, kind)
        return now.first is not None and now.first is not upstream

    async def _open_now(self, upstream: UpstreamName, proposal: Proposal) -> Leg | UpstreamError:
        traffic = self._traffic[upstream]
        peer = self._upstreams.get(upstream)
        if peer is None:
            return UpstreamUnreachable(f"the {upstream} has no DICOM service")
        self._open[upstream] += 1
        leg: Leg | None = None
        try:
            async with self._places[upstream]:
                token = traffic.began(Part.REACH, "A-ASSOCIATE")
                outcome = Outcome.LEFT
                try:
                    association = await open_association(
                        peer,
                        proposal.calling_bytes,
                        proposal.contexts,
                        timeout_s=60.0,  # our patience ends it before
                        implementation_version=RELAY_VERSION,
                        roles=proposal.roles,
                        extended=proposal.extended,
                        common_extended=proposal.common_extended,
                        identity=proposal.identity,
                        max_pdu_bytes=self._max_pdu_bytes,
                        clock=self._clock,
                    )
                    outcome = Outcome.ANSWERED
                    leg = Leg(upstream, association)
                    return leg
                except AssociationRejected as error:
                    # Transient: it may be full for all. That counts for nothing but sends probes at once.
                    outcome = Outcome.FAILED if error.transient else Outcome.ANSWERED
                    return error
                except UpstreamError as error:
                    outcome = Outcome.FAILED
                    return error
                finally:
                    traffic.ended(token, outcome)
        finally:
            if leg is None:
                self._left(upstream)

    def release(self, leg: Leg) -> None:
        """Release a leg in its own time: nobody waits for it."""
        task = spawn(self._release(leg), name=f"relay releasing {leg.upstream}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _release(self, leg: Leg) -> None:
        try:
            await leg.association.release()
        finally:
            self._closed(leg)

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
        """Return when each release under way has ended."""
        if self._closing:
            await asyncio.wait(self._closing)


def refusal_of(error: UpstreamError) -> Refusal:
    """Return what kind of refusal `error` is."""
    if isinstance(error, AssociationRejected):
        return Refusal.TRANSIENT if error.transient else Refusal.PERMANENT
    if isinstance(error, UpstreamUnreachable):
        return Refusal.UNREACHABLE
    if isinstance(error, UpstreamTimeout):
        return Refusal.TIMED_OUT
    return Refusal.BROKE
