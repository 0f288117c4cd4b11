"""The checker against a real Orthanc:

up, killed, stopped, emptied, hung behind a healthy front, and polite.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from failover.aio import Signal
from failover.app.samples import part10, sample_studies
from failover.clock import SystemClock
from failover.config.load import parse
from failover.dicom.negotiation import VERIFICATION, propose
from failover.dicom.requestor import open_association
from failover.health.checker import Checker, traffic_of
from failover.health.passive import Outcome
from failover.health.report import Report
from failover.metrics import RouterMetrics
from failover.model import Address, AeTitle, DicomPeer, Part, Service, UpstreamName, Verdict
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PRIMARY = UpstreamName.PRIMARY
WITHIN_S = 30.0  # generous: the machine may be busy


@pytest.fixture
def orthanc() -> Iterator[Orthanc]:
    with Orthanc() as peer:
        for instance in sample_studies(date(2026, 1, 1)):
            peer.upload(part10(instance))
        yield peer


class Checked:
    """A checker and the last report on each service."""

    def __init__(self, orthanc: Orthanc, extra: str, folder: Path = Path("/nowhere")) -> None:
        clock = SystemClock()
        configuration = parse(
            f"""
primary:
  web: {{url: "{orthanc.url}"}}
  dicom: {{host: 127.0.0.1, port: {orthanc.dicom_port}, ae_title: {orthanc.ae_title}}}
backup:
  web: {{url: "http://127.0.0.1:{free_port()}"}}
{extra}
""",
            name="failover.yaml",
            folder=folder,
        )
        self.traffic = traffic_of(configuration, clock)
        self.registry = CollectorRegistry()
        self.reports: dict[Service, Report] = {}
        self.row: list[tuple[Service, Verdict | None]] = []
        self.changed = Signal()
        self.checker = Checker(configuration, self.traffic, RouterMetrics(self.registry), clock, self._tell)

    def _tell(self, report: Report) -> None:
        if report.upstream is PRIMARY:
            before = self.reports.get(report.service)
            self.reports[report.service] = report
            if before is None or before.verdict is not report.verdict:
                self.row.append((report.service, report.verdict))
            self.changed.fire()

    async def until(self, holds: Callable[[], bool]) -> None:
        assert await self.changed.wait_until(holds, timeout_s=WITHIN_S), self.reports

    async def probed(self, holds: Callable[[], bool]) -> None:
        """Wait for probes that changed no report."""
        await asyncio.to_thread(wait_for, holds, "probes", timeout_s=WITHIN_S)

    def verdict(self, service: Service) -> Verdict | None:
        report = self.reports.get(service)
        return None if report is None else report.verdict

    async def both(self, verdict: Verdict) -> None:
        await self.until(lambda: all(self.verdict(service) is verdict for service in Service))

    def passed(self, service: Service, part: Part) -> float:
        labels = {"upstream": PRIMARY, "service": service, "part": part, "result": "passed"}
        return self.registry.get_sample_value("failover_probes_total", labels) or 0.0


@asynccontextmanager
async def checked(orthanc: Orthanc, extra: str = "") -> AsyncIterator[Checked]:
    checking = Checked(orthanc, extra)
    checking.checker.start()
    try:
        await checking.both(Verdict.UP)
        yield checking
    finally:
        await checking.checker.stop()


async def test_up_with_each_part_then_killed_then_back(orthanc: Orthanc) -> None:
    async with checked(orthanc, "policy: {fail_after: 2s}") as checking:
        web, dicom = checking.reports[Service.WEB], checking.reports[Service.DICOM]
        assert web.reason == "good: reach, query, retrieve"
        assert {part: str(report.verdict) for part, report in web.parts.items()} == {
            Part.REACH: "up", Part.QUERY: "up", Part.RETRIEVE: "up", Part.STORE: "up",
        }  # fmt: skip
        assert web.parts[Part.RETRIEVE].reason == "WADO-RS frame arrives"
        assert dicom.reason == "good: reach, query"
        orthanc.kill()
        # Callers notice first; they are what makes it fast.
        for service in Service:
            traffic = checking.traffic[PRIMARY, service]
            traffic.ended(traffic.began(Part.QUERY, "search"), Outcome.FAILED)
        await checking.both(Verdict.SUSPECT)
        await checking.both(Verdict.DOWN)
        assert "connection refused" in checking.reports[Service.WEB].reason
        orthanc.start()
        await checking.both(Verdict.UP)


async def test_known_studies_are_searched_by_both_services(orthanc: Orthanc) -> None:
    async with checked(orthanc, "health: {search_interval: 200ms}") as checking:
        await checking.until(
            lambda: all(
                "finds a known study" in checking.reports[service].parts[Part.QUERY].reason
                for service in Service
            )
        )


async def test_an_emptied_database_is_seen(orthanc: Orthanc) -> None:
    async with checked(orthanc, "health: {search_interval: 200ms}\npolicy: {fail_after: 1s}") as checking:
        await checking.probed(lambda: checking.passed(Service.WEB, Part.QUERY) >= 2)
        await checking.probed(lambda: checking.passed(Service.DICOM, Part.QUERY) >= 2)
        for study in orthanc.json("/studies"):
            orthanc.request("DELETE", f"/studies/{study}")
        await checking.both(Verdict.DOWN)
        assert "finds none of 3 known studies" in checking.reports[Service.WEB].reason
        assert "finds none of 3 known studies" in checking.reports[Service.DICOM].reason


async def test_a_database_emptied_while_nobody_looked_is_seen_at_the_start(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    extra = f"state_dir: {tmp_path}\nhealth: {{search_interval: 200ms}}"
    before = Checked(orthanc, extra, tmp_path)
    before.checker.start()
    await before.both(Verdict.UP)
    await before.checker.stop()
    for study in orthanc.json("/studies"):
        orthanc.request("DELETE", f"/studies/{study}")
    after = Checked(orthanc, extra, tmp_path)
    after.checker.start()
    try:
        await after.both(Verdict.DOWN)
        assert all("finds none of 3 known studies" in after.reports[service].reason for service in Service)
        assert not any(verdict is Verdict.UP for _, verdict in after.row)
    finally:
        await after.checker.stop()


async def test_stopped_under_traffic_is_suspect_and_bridged(orthanc: Orthanc) -> None:
    async with checked(orthanc) as checking:
        orthanc.stop()
        try:
            traffic = checking.traffic[PRIMARY, Service.WEB]
            tokens = [traffic.began(Part.QUERY, "qido") for _ in range(4)]
            await checking.until(lambda: checking.verdict(Service.WEB) is Verdict.SUSPECT)
        finally:
            orthanc.cont()
        for token in tokens:
            traffic.ended(token, Outcome.LEFT)
        await checking.until(lambda: checking.verdict(Service.WEB) is Verdict.UP)
        assert (Service.WEB, Verdict.DOWN) not in checking.row


async def test_probes_leave_nothing_and_hold_no_association(orthanc: Orthanc) -> None:
    before = orthanc.json("/statistics")
    async with checked(
        orthanc, "health: {search_interval: 200ms, frame_interval: 200ms, dicom: {interval: 200ms}}"
    ) as checking:
        await checking.probed(lambda: checking.passed(Service.DICOM, Part.REACH) >= 10)
        await checking.probed(lambda: checking.passed(Service.WEB, Part.RETRIEVE) >= 10)
    assert orthanc.json("/statistics") == before


async def test_idle_associations_that_fill_its_threads_are_no_suspicion(orthanc: Orthanc) -> None:
    async with checked(orthanc, "health: {dicom: {interval: 500ms}}") as checking:
        peer = DicomPeer(Address("127.0.0.1", orthanc.dicom_port), AeTitle(orthanc.ae_title))
        idle = [
            await open_association(peer, "CT1", propose([VERIFICATION]), timeout_s=WITHIN_S) for _ in range(4)
        ]
        traffic = checking.traffic[PRIMARY, Service.DICOM]
        tokens = [traffic.began(Part.QUERY, "C-FIND") for _ in range(4)]
        before = checking.passed(Service.DICOM, Part.REACH)
        await checking.probed(lambda: checking.passed(Service.DICOM, Part.REACH) >= before + 4)
        for token in tokens:
            traffic.ended(token, Outcome.LEFT)
        for association in idle:
            association.abort("the test is over")
        assert (Service.DICOM, Verdict.DOWN) not in checking.row
