"""The archive put together: index, instances, ledger, janitor, DICOM side, web side, control socket.

`app/archive.py` makes one, starts it on listening sockets, stops it. The web side's application is handed in
by `web_app`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from failover.aio import cancel_and_wait, spawn
from failover.archive.commitments import Commitments
from failover.archive.compressor import Compressor
from failover.archive.damaged import Damaged
from failover.archive.dicomweb.at_once import Site
from failover.archive.expected import ExpectedMoves
from failover.archive.handlers import Handlers
from failover.archive.index import Index
from failover.archive.instances import Instances
from failover.archive.janitor import Janitor
from failover.archive.ledger import Ledger
from failover.archive.opening import open_index
from failover.archive.reserve import Reserve
from failover.archive.retention import Policy
from failover.archive.scp import Scp
from failover.archive.scrubber import Scrubber
from failover.archive.troubles import Troubles
from failover.clock import Clock
from failover.config.schema import Configuration, DicomCallers
from failover.control import ControlServer, socket_path
from failover.dicom.acceptor import Limits
from failover.metrics import ArchiveMetrics

# How long associations and requests may take to end at a stop; the supervisor kills after 4 s.
GRACE_S: Final = 2.0
# A search for a list of UIDs has long request lines; the router lets heads of 64 KiB pass.
MAX_LINE_BYTES: Final = 65536

WebApp = Callable[
    [Index, Instances, ExpectedMoves, Ledger, Configuration, ArchiveMetrics, Clock], web.Application
]


class ArchiveService:
    """The whole archive. `start` once, `stop` once."""

    def __init__(self, configuration: Configuration, web_app: WebApp, clock: Clock) -> None:
        """Open the index. Raises StateUnreadable when it is none of ours."""
        archive = configuration.archive
        owes = configuration.primary is not None
        self._metrics = ArchiveMetrics(CollectorRegistry())
        self._troubles = Troubles(self._metrics)
        self._index = open_index(archive.data_dir, has_primary=owes)
        self._reserve = Reserve(archive.data_dir)
        self._instances = Instances(
            archive.data_dir,
            self._index,
            self._metrics,
            clock,
            owes=owes,
            min_free_bytes=archive.retention.min_free_bytes,
        )
        ledger = Ledger(self._index, clock)
        damaged = Damaged(archive.data_dir, self._index, self._metrics, clock, self._troubles)
        expected = ExpectedMoves(clock)
        self._janitor = Janitor(
            archive.data_dir, self._index, _policy(configuration), self._metrics, clock, self._troubles
        )
        self._compressor: Compressor | None = None
        if owes:
            self._compressor = Compressor(
                archive.data_dir,
                self._index,
                self._instances,
                damaged,
                archive.compression,
                archive.compression_by_modality,
                self._metrics,
                clock,
            )
        self._scrubber = Scrubber(self._index, damaged, archive.scrub, self._metrics, clock)
        self._commitments = Commitments(
            self._index,
            archive.move_destinations,
            self._metrics,
            clock,
            by_primary=owes and archive.commitment == "primary",
            wait_s=archive.commitment_wait,
        )
        handlers = Handlers(
            self._index,
            self._instances,
            ledger,
            expected,
            self._commitments,
            self._janitor,
            self._metrics,
            self._troubles,
            clock,
        )
        self._scp = Scp(
            archive.dicom,
            _callers(configuration),
            archive.move_destinations,
            self._index,
            self._instances,
            expected,
            self._commitments,
            self._metrics,
            clock,
            calls_out_as=configuration.listen.dicom.ae_title,
            fails_outside_window=archive.outside_window == "fail",
            limits=_limits(configuration),
        )
        self._web = web.AppRunner(
            web_app(self._index, self._instances, expected, ledger, configuration, self._metrics, clock),
            access_log=None,
            shutdown_timeout=GRACE_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )
        self._control = ControlServer(
            socket_path(configuration.state_dir, "archive"),
            {**handlers.methods(), "copy.expect": expected.expect_copies},
        )
        self._turns: list[asyncio.Task[None]] = []

    async def start(self, dicom: socket.socket, web_socket: socket.socket) -> None:
        """Remove what a kill has left, then serve."""
        await asyncio.to_thread(self._janitor.at_start)
        await self._control.start()
        await self._web.setup()
        await Site(self._web, web_socket).start()
        await self._scp.start(dicom)
        self._turns.append(spawn(self._instances.recover(), name="recovery"))
        self._turns.append(spawn(self._janitor.run(), name="janitor"))
        self._turns.append(spawn(self._commitments.run(), name="commitments"))
        if self._compressor is not None:
            self._turns.append(spawn(self._compressor.run(), name="compressor"))
        self._turns.append(spawn(self._scrubber.run(), name="scrubber"))
        self._turns.append(spawn(self._janitor.look_through_index(), name="look through index"))

    def change(self, configuration: Configuration) -> list[str]:
        """Take over retention, C-MOVE destinations and DICOM callers; return what could not be: nothing."""
        self._janitor.change(_policy(configuration))
        self._instances.min_free_bytes = configuration.archive.retention.min_free_bytes
        self._scp.change(_callers(configuration), configuration.archive.move_destinations)
        return []

    async def stop(self) -> None:
        """End in order: those who store first, what is stored last."""
        await asyncio.gather(  # 1. no new work; what is under way ends, and is durable or was never there
            self._scp.stop(GRACE_S), self._web.cleanup()
        )
        for turns in self._turns:
            await cancel_and_wait(turns)
        if self._compressor is not None:
            await self._compressor.close()
        await self._control.stop()  # 2. nobody asks any more
        await asyncio.to_thread(self._close)  # 3. nobody writes any more

    def _close(self) -> None:
        self._instances.close()
        self._index.close()
        self._reserve.keep(also_in_need=True)


def _policy(configuration: Configuration) -> Policy:
    retention = configuration.archive.retention
    return Policy(
        days=retention.days,
        max_bytes=retention.max_bytes,
        min_free_bytes=retention.min_free_bytes,
        needs_proof=configuration.primary is not None,
    )


def _callers(configuration: Configuration) -> DicomCallers:
    access = configuration.archive.access
    return (None if access is None else access.dicom) or "any"  # left out: then we listen on loopback alone


# Associations of the router's own when it is full: two of probes (DESIGN 4.1), those for copies, some more.
_OF_THE_ROUTER: Final = 16


def _limits(configuration: Configuration) -> Limits:
    """Return what peers may take: the router comes for all of its callers, from one address, so the bounds
    for each of them are the router's; and the archive's own port has places besides."""
    listen = configuration.listen.dicom
    places = listen.max_associations + max(listen.max_per_address, _OF_THE_ROUTER)
    return Limits(
        artim_s=listen.artim,
        idle_timeout_s=listen.idle_timeout,
        max_associations=places,
        max_per_address=places,
        max_per_ae_title=places,
        reserve=0,
        max_pdu_bytes=listen.max_pdu_bytes,
    )
