"""The replicator assembled from a configuration: clients, inventory, loops and control methods.

`app/replicator.py` makes one, starts it and stops it. With a foreign backup there is nothing to fill by us.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, generate_latest

from failover.aio import cancel_and_wait, spawn
from failover.clients.dicomweb import DicomwebClient
from failover.clients.dimse_bulk import DimseBulk
from failover.clock import Clock
from failover.config.schema import Configuration
from failover.control import ControlServer, Handler, Json, ask, socket_path
from failover.metrics import ReplicatorMetrics
from failover.replication.archive_side import ArchiveSide
from failover.replication.dicom_way import DicomWay
from failover.replication.fetch import Fetcher
from failover.replication.inventory import Inventory
from failover.replication.lookout import Lookout
from failover.replication.orders import Orders
from failover.replication.payback import Payback
from failover.replication.recheck import Recheck
from failover.replication.ways import Way
from failover.replication.web_way import WebWay
from failover.replication.worker import Worker

_log = structlog.get_logger(__name__)
# Studies fetched at the same time. Orthanc has few threads, and callers come first.
_FETCHERS: Final = 2


class ReplicationService:
    """The whole replicator. Needs `configuration.primary` and the embedded archive as the backup."""

    def __init__(self, configuration: Configuration, clock: Clock) -> None:
        self._configuration, self._clock = configuration, clock
        self._metrics = ReplicatorMetrics(CollectorRegistry())
        self._tasks: list[asyncio.Task[None]] = []
        self._web: DicomwebClient | None = None
        self._dimse: DimseBulk | None = None
        self._inventory: Inventory | None = None
        self._orders: Orders | None = None
        self._worker: Worker | None = None
        self._recheck: Recheck | None = None
        self._lookout: Lookout | None = None
        self._control = ControlServer(socket_path(configuration.state_dir, "replicator"), self.handlers())

    async def start(self) -> None:
        """Open the inventory, answer on the control socket `replicator`, begin to work."""
        state = self._configuration.state_dir
        archive = ArchiveSide(socket_path(state, "archive"))
        self._inventory = Inventory(state / "inventory.sqlite")
        handover = self._configuration.archive.data_dir / "handover"
        router = socket_path(state, "router")

        async def ask_route() -> Json:
            return await ask(router, "route", timeout_s=2.0)

        fetcher = Fetcher(archive, handover, self._metrics, self._clock)
        fetcher.clear()
        self._orders = orders = Orders(self._ways(archive), ask_route, self._clock)
        self._recheck = recheck = Recheck(
            orders,
            archive,
            self._inventory,
            self._clock,
            recheck_s=self._configuration.replication.recheck,
        )
        self._lookout = lookout = Lookout(
            orders,
            archive,
            self._inventory,
            recheck,
            self._metrics,
            self._clock,
            poll_every_s=self._configuration.replication.poll_every,
            window_length=self._configuration.window_days,
        )
        payback = Payback(archive, self._inventory, self._metrics, self._clock)
        self._worker = worker = Worker(
            orders,
            lookout,
            recheck,
            archive,
            self._inventory,
            fetcher,
            payback,
            self._metrics,
            self._clock,
        )
        await self._control.start()
        if not orders.ways:
            _log.warning("nothing to do: the primary has neither DICOMweb nor DICOM")
            return
        self._tasks = [
            spawn(orders.hear(), name="hear the router"),
            spawn(lookout.look(), name="look for studies"),
            spawn(worker.pay(), name="pay back"),
            spawn(worker.renew(), name="renew proofs"),
            *(spawn(worker.fetch(), name=f"fetch {n}") for n in range(_FETCHERS)),
        ]

    def change(self, configuration: Configuration) -> list[str]:
        """Take over rhythm, window and recheck; return what could not be: nothing."""
        assert self._recheck is not None
        assert self._lookout is not None
        replication = configuration.replication
        self._recheck.recheck_s = replication.recheck
        self._lookout.change(poll_every_s=replication.poll_every, window_length=configuration.window_days)
        return []

    async def stop(self) -> None:
        """1. no more questions, 2. no more work, 3. close what was open. What was half done is done again."""
        await self._control.stop()
        if self._dimse is not None:
            await self._dimse.close()
        await cancel_and_wait(*self._tasks)
        if self._web is not None:
            await self._web.close()
        if self._inventory is not None:
            self._inventory.close()

    def _ways(self, archive: ArchiveSide) -> list[Way]:
        configuration = self._configuration
        primary = configuration.primary
        assert primary is not None, "the configuration was checked: only the archive can do without a primary"
        ways: list[Way] = []
        if primary.web is not None and primary.dicomweb_path is not None:
            base_url = str(primary.web.url).rstrip("/") + primary.dicomweb_path
            self._web = DicomwebClient(base_url, tls=primary.web.client_tls)
            ways.append(WebWay(self._web))
        if primary.dicom is not None:
            calling_ae = configuration.listen.dicom.ae_title
            self._dimse = DimseBulk(primary.dicom.peer, calling_ae)
            ways.append(
                DicomWay(self._dimse, calling_ae, configuration.archive.dicom.ae_title, archive.expect_move)
            )
        return ways

    # -- control methods

    def handlers(self) -> dict[str, Handler]:
        """`numbers` and `metrics` for the router's status and /metrics; `hear`: an operator has spoken;
        `owed.progress` and `vanished.list` for the list of what is owed, `studies.shown` for what is split.
        """
        return {
            "numbers": self._answer_numbers,
            "metrics": self._answer_metrics,
            "hear": self._answer_hear,
            "owed.progress": self._answer_progress,
            "vanished.list": self._answer_vanished,
            "studies.shown": self._answer_shown,
        }

    async def _answer_hear(self, _params: Json) -> Json:
        """Ask the router for its word at once; answer when nothing of before it is still being sent."""
        assert self._orders is not None
        assert self._worker is not None
        await self._orders.hear_now()
        await self._worker.nothing_under_way()
        return {"allowed": self._orders.allowed.reason}

    async def _answer_numbers(self, _params: Json) -> Json:
        assert self._worker is not None
        return self._worker.numbers()

    async def _answer_progress(self, params: Json) -> Json:
        assert self._worker is not None
        return self._worker.owed_progress([str(uid) for uid in params.get("sop_instance_uids") or []])

    async def _answer_vanished(self, params: Json) -> Json:
        assert self._inventory is not None
        reckoning = self._inventory.reckoning
        page = reckoning.vanished_page(int(params.get("limit", 100)), str(params.get("after") or ""))
        return {"objects": page, "count": reckoning.vanished_objects()}

    async def _answer_shown(self, params: Json) -> Json:
        assert self._inventory is not None
        shown = self._inventory.shown([str(uid) for uid in params.get("study_instance_uids") or []])
        return {
            "studies": {
                uid: {"instances": instances, "missing": missing}
                for uid, (instances, missing) in shown.items()
            }
        }

    async def _answer_metrics(self, _params: Json) -> Json:
        return {"text": generate_latest(self._metrics.registry).decode()}
