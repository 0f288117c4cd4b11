"""Checker and controller together on two real Orthancs: kill the primary, bring it back, pay the debt."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from failover.app.samples import part10, sample_studies
from failover.audit.trail import Trail
from failover.clock import SystemClock
from failover.config.load import parse
from failover.health.checker import Checker, traffic_of
from failover.health.passive import Outcome
from failover.metrics import RouterMetrics
from failover.model import Part, Phase, Service, UpstreamName, Verdict
from failover.routing.controller import TRAIL_FILE, Controller, Hooks
from failover.routing.selection import Kind, choose
from failover.routing.states import Numbers
from tests.peers.orthanc import Orthanc

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
WITHIN_S = 40.0


def side(peer: Orthanc) -> str:
    return (
        f'{{web: {{url: "{peer.url}"}}, '
        f"dicom: {{host: 127.0.0.1, port: {peer.dicom_port}, ae_title: {peer.ae_title}}}}}"
    )


async def test_there_and_back_again(tmp_path: Path) -> None:
    with Orthanc() as primary, Orthanc(ae_title="SECOND") as backup:
        for instance in sample_studies(date(2026, 1, 1)):
            primary.upload(part10(instance))
        clock = SystemClock()
        configuration = parse(
            f"state_dir: {tmp_path}\nprimary: {side(primary)}\nbackup: {side(backup)}\n"
            "policy: {fail_after: 1s, hold_down: 500ms}\nhealth: {dicom: {interval: 500ms}}\n",
            name="failover.yaml",
            folder=tmp_path,
        )
        metrics = RouterMetrics(CollectorRegistry())
        traffic = traffic_of(configuration, clock)
        trail = Trail(tmp_path / TRAIL_FILE, clock)
        controller = Controller(configuration, traffic, trail, metrics, clock)
        checker = Checker(configuration, traffic, metrics, clock, controller.heard)
        owed = 3

        async def ask_numbers() -> Numbers:
            return Numbers(lag_objects=owed, owed_older_than_10_s=owed, refused=0)

        async def until(holds: Callable[[], bool]) -> None:
            # The numbers are told anew each time: without them for 5 s the gate is closed.
            for _ in range(int(WITHIN_S)):
                controller.replication_heard(await ask_numbers())
                if await controller.changed.wait_until(holds, timeout_s=1.0):
                    return
            raise AssertionError(controller.snapshot())

        def all_in(phase: Phase) -> bool:
            return all(controller.board.current.services[service].phase is phase for service in Service)

        trail.start()
        controller.start(Hooks(ask_numbers=ask_numbers, nothing_to_prove=checker.nothing_to_prove))
        controller.replication_heard(Numbers(lag_objects=0, refused=0))
        checker.start()
        try:
            await until(lambda: controller.not_ready() is None)
            assert all_in(Phase.ON_PRIMARY)

            primary.kill()
            live = traffic[PRIMARY, Service.WEB]
            live.ended(live.began(Part.QUERY, "qido"), Outcome.FAILED)
            await until(lambda: choose(controller.board.current, Service.WEB, Kind.READ).first is BACKUP)
            await until(lambda: all_in(Phase.ON_BACKUP))

            primary.start()
            await until(lambda: all_in(Phase.FAILING_BACK))
            assert choose(controller.board.current, Service.DICOM, Kind.STORE).first is PRIMARY
            assert controller.snapshot()["failback"]["reason"] == (
                "waiting: 3 objects are not proven on the primary"
            )
            owed = 0
            await until(lambda: all_in(Phase.ON_PRIMARY))
            codes = [event.code for event in trail.events(0)]
            assert "primary_back" in codes
            assert "debt_paid" in codes
            assert controller.snapshot()["upstreams"]["primary"]["web"]["verdict"] == Verdict.UP
        finally:
            await checker.stop()
            await controller.stop()
            await trail.stop()
