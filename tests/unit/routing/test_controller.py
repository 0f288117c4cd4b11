"""The controller carries commands out in order, survives a restart, and answers the status. Real files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from failover.audit.trail import Trail
from failover.clock import SystemClock, parse_rfc3339, rfc3339
from failover.config.load import parse
from failover.errors import Refused, Unprocessable
from failover.health.checker import traffic_of
from failover.health.passive import LiveTraffic
from failover.health.report import PartReport, Report
from failover.metrics import RouterMetrics
from failover.model import Mode, Part, Phase, Service, UpstreamName, Verdict
from failover.replication.permission import interrupts, isolates, parse_word
from failover.routing.controller import STATE_FILE, TICK_S, TRAIL_FILE, Controller, Hooks
from failover.routing.selection import Kind, choose
from failover.routing.states import Decision, Numbers, Wish

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
CONFIGURATION = """
site: essen
primary:
  web: {url: http://127.0.0.1:8042}
  dicom: {host: 127.0.0.1, port: 4242, ae_title: ORTHANC}
"""


class Router:
    """A controller with its trail, and what it asked of the rest."""

    def __init__(self, folder: Path, policy: str = "hold_down: 0s") -> None:
        self.clock = SystemClock()
        self.folder = folder
        configuration = parse(
            CONFIGURATION + f"state_dir: {folder}\npolicy: {{{policy}}}\n", name="f.yaml", folder=folder
        )
        self.traffic: dict[Any, LiveTraffic] = traffic_of(configuration, self.clock)
        self.registry = CollectorRegistry()
        self.trail = Trail(folder / TRAIL_FILE, self.clock)
        self.controller = Controller(
            configuration, self.traffic, self.trail, RouterMetrics(self.registry), self.clock
        )
        self.numbers: Numbers | None = Numbers(lag_objects=0, lag_s=0.0, owed_older_than_10_s=0, refused=0)
        self.asked = 0
        self.ended: list[UpstreamName] = []
        self.work = 0
        self.broken = False

    async def ask_numbers(self) -> Numbers | None:
        self.asked += 1
        return self.numbers

    def end_work(self, upstream: UpstreamName) -> int:
        self.ended.append(upstream)
        if self.broken:
            raise RuntimeError("a bug")
        left, self.work = self.work, 0
        return left

    def start(self) -> None:
        self.trail.start()
        self.controller.start(
            Hooks(
                ask_numbers=self.ask_numbers,
                in_flight=lambda name, service: self.work if (name, service) == (PRIMARY, Service.WEB) else 0,
                end_work=self.end_work,
            )
        )

    async def stop(self) -> None:
        await self.controller.stop()
        await self.trail.stop()

    def hear(self, name: UpstreamName, verdict: Verdict, *services: Service) -> None:
        for service in services or tuple(Service):
            parts = {Part.REACH: PartReport(verdict, "HEAD / gives 200")}
            self.controller.heard(Report(name, service, verdict, f"reach: {verdict}", parts))

    @property
    def phase(self) -> str:
        return str(self.controller.snapshot()["phase"])

    async def until(self, phase: Phase) -> None:
        assert await self.controller.changed.wait_until(lambda: self.phase == phase, timeout_s=20), self.phase

    async def published(self, phase: Phase) -> None:
        board = self.controller.board
        assert await board.changed.wait_until(
            lambda: board.current.services[Service.WEB].phase is phase, timeout_s=20
        )

    async def until_saved(self, words: str) -> None:
        """Return once the state on disk says `words: true`."""
        file = self.folder / STATE_FILE
        assert await self.controller.changed.wait_until(
            lambda: f'"{words}": true' in file.read_text(), timeout_s=20
        )

    async def ticks(self) -> None:
        """Let the controller tick a few times."""
        for _ in range(3):
            await self.clock.sleep(TICK_S)

    def codes(self) -> list[str]:
        return [event.code for event in self.trail.events(0)]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@asynccontextmanager
async def running(folder: Path, policy: str = "hold_down: 0s") -> AsyncIterator[Router]:
    router = Router(folder, policy)
    router.start()
    try:
        router.hear(PRIMARY, Verdict.UP)
        router.hear(BACKUP, Verdict.UP)
        yield router
    finally:
        await router.stop()


async def test_the_whole_circle(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        router.hear(PRIMARY, Verdict.DOWN, Service.WEB)
        await router.published(Phase.ON_BACKUP)
        assert (tmp_path / STATE_FILE).exists()  # persisted before it was published
        router.numbers = Numbers(lag_objects=2, owed_older_than_10_s=2, refused=0)
        router.controller.replication_heard(router.numbers)
        router.hear(PRIMARY, Verdict.UP, Service.WEB)
        await router.published(Phase.FAILING_BACK)
        assert choose(router.controller.board.current, Service.WEB, Kind.STORE).first is PRIMARY
        router.numbers = Numbers(lag_objects=0, owed_older_than_10_s=0, refused=0)
        router.controller.replication_heard(router.numbers)
        await router.published(Phase.ON_PRIMARY)
        assert router.asked >= 1
        assert not router.controller.board.current.hold_stores
        assert router.codes() == [
            "started",
            "primary_down",
            "primary_down",
            "primary_down_together",
            "primary_up",
            "primary_back",
            "primary_back",
            "debt_paid",
            "debt_paid",
        ]
        assert (
            router.sample("failover_transitions_total", service="web", to="on_primary", reason="debt_paid")
            == 1
        )


async def test_a_suspicion_reaches_traffic_in_the_same_call(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        router.hear(PRIMARY, Verdict.SUSPECT, Service.WEB)
        assert choose(router.controller.board.current, Service.WEB, Kind.READ).first is BACKUP
        router.hear(PRIMARY, Verdict.UP, Service.WEB)
        assert choose(router.controller.board.current, Service.WEB, Kind.READ).first is PRIMARY


async def test_intent_survives_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        lines = await router.controller.set_intent(
            Wish(Mode.FORCED, BACKUP, "upgrade to 7.2", for_s=7200), "ada"
        )
        assert "the mode becomes forced: the backup serves, whatever the health" in lines
        assert choose(router.controller.board.current, Service.DICOM, Kind.STORE).rescue is None
    router = Router(tmp_path)
    # Before it starts, and before any verdict, traffic knows.
    assert router.controller.board.current.forced is BACKUP
    assert router.phase == "on_backup"
    intent = router.controller.snapshot()["intent"]
    assert (intent["upstream"], intent["reason"], intent["actor"]) == ("backup", "upgrade to 7.2", "ada")
    assert intent["until"].endswith("Z")


async def test_a_dry_run_changes_and_records_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        router.controller.replication_heard(Numbers(lag_objects=0, refused=0))
        router.controller.replication_heard(Numbers(lag_objects=12, owed_older_than_10_s=12, refused=0))
        router.work = 3
        await router.controller.set_intent(Wish(Mode.PAUSED, reason="works"), "ada")
        await router.trail.written(timeout_s=10)
        before = router.controller.snapshot(), router.codes(), (tmp_path / STATE_FILE).read_bytes()
        lines = await router.controller.set_intent(
            Wish(Mode.DRAIN, reason="service", for_s=3600), "ada", dry_run=True
        )
        assert lines == [
            "the primary gets no new work; what is under way may end within 1 min",
            "web: on_primary -> on_backup: an operator drains the primary; new work goes to the backup",
            "dicom: on_primary -> on_backup: an operator drains the primary; new work goes to the backup",
            "12 objects are owed to the primary; the debt is not paid until auto",
            "3 requests and associations are at the primary now",
            "no caller, no rescue and no replication touches the primary until auto: probes only",
            "if the backup fails meanwhile there is an alarm, and nothing moves",
            "after 1 h the mode is auto again, with the usual gate",
        ]
        forced = await router.controller.set_intent(Wish(Mode.FORCED, PRIMARY, "now"), "ada", dry_run=True)
        assert forced[2].startswith("12 objects are owed to the primary; the debt goes on being paid")
        assert (router.controller.snapshot(), router.codes(), (tmp_path / STATE_FILE).read_bytes()) == before


async def test_refusals_change_and_record_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        router.hear(BACKUP, Verdict.DOWN)
        before = router.codes()
        for dry_run in (True, False):
            with pytest.raises(Refused, match="--even-if-down"):
                await router.controller.set_intent(Wish(Mode.FORCED, BACKUP, "x"), "ada", dry_run=dry_run)
            with pytest.raises(Unprocessable):
                await router.controller.set_intent(Wish(Mode.PAUSED), "ada", dry_run=dry_run)
            with pytest.raises(Refused):
                await router.controller.decide(Decision.FAILBACK, "x", "ada", dry_run=dry_run)
        assert router.codes() == before


async def test_a_decision_begins_the_manual_way_back(tmp_path: Path) -> None:
    async with running(tmp_path, "hold_down: 0s, failback: manual") as router:
        router.hear(PRIMARY, Verdict.DOWN)
        await router.published(Phase.ON_BACKUP)
        router.hear(PRIMARY, Verdict.UP)
        lines = await router.controller.decide(Decision.FAILBACK, "quiet", "ada", dry_run=True)
        assert lines[0] == "the gated way back begins"
        assert router.phase == "on_backup"
        await router.controller.decide(Decision.FAILBACK, "quiet", "ada")
        assert router.phase == "failing_back"


async def test_an_unwilling_disk_delays_a_failover_by_no_more_than_its_limit(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        (tmp_path / STATE_FILE).mkdir()
        (tmp_path / STATE_FILE / "in the way").touch()
        router.hear(PRIMARY, Verdict.DOWN)
        await router.published(Phase.ON_BACKUP)
        assert "state_not_persisted" in router.codes()
        assert router.sample("failover_state_not_persisted_total") == 1
        (tmp_path / STATE_FILE / "in the way").unlink()
        (tmp_path / STATE_FILE).rmdir()
        assert await router.trail.appended.wait_until(
            lambda: "state_persisted" in router.codes(), timeout_s=20
        )
        assert (tmp_path / STATE_FILE).is_file()


async def test_an_unreadable_state_is_said_and_debt_decides(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_text("{")
    async with running(tmp_path) as router:
        assert "could not be read" in router.trail.events(0)[0].reason
        assert (tmp_path / STATE_FILE).with_suffix(".unreadable").read_text() == "{"
        router.controller.replication_heard(Numbers(lag_objects=7, owed_older_than_10_s=7, refused=0))
        assert router.phase == "on_backup" or router.phase == "failing_back"
        assert await router.trail.appended.wait_until(lambda: "started_owing" in router.codes(), timeout_s=10)


async def test_drain_ends_work_after_its_grace(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        router.work = 2
        await router.controller.set_intent(Wish(Mode.DRAIN, reason="service", grace_s=0.2), "ada")
        assert await router.trail.appended.wait_until(lambda: "grace_over" in router.codes(), timeout_s=20)
        assert await router.controller.changed.wait_until(lambda: router.ended == [PRIMARY], timeout_s=20)
        assert router.controller.snapshot()["intent"]["drain"] == "grace_over"


async def test_the_grace_of_a_drain_goes_on_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        router.work = 1
        await router.controller.set_intent(Wish(Mode.DRAIN, reason="service", grace_s=3600), "ada")
        assert router.controller.snapshot()["intent"]["drain"] == "under_way"
    content = json.loads((tmp_path / STATE_FILE).read_text())
    written = parse_rfc3339(content["drain"]["since"])
    content["drain"]["since"] = rfc3339(written - timedelta(hours=2))
    (tmp_path / STATE_FILE).write_text(json.dumps(content))
    router = Router(tmp_path)
    router.work = 1
    router.start()
    try:  # the machine was off for longer than the grace
        assert await router.trail.appended.wait_until(lambda: "grace_over" in router.codes(), timeout_s=20)
        assert await router.controller.changed.wait_until(lambda: router.ended == [PRIMARY], timeout_s=20)
        await router.until_saved("grace_over")
    finally:
        await router.stop()
    again = Router(tmp_path)
    again.start()
    try:  # and what was told is not told again
        assert again.controller.snapshot()["intent"]["drain"] == "grace_over"
        await again.ticks()
        assert again.codes().count("grace_over") == 1
    finally:
        await again.stop()


async def test_the_replicator_hears_that_the_backup_was_forced_and_rechecks_after_it(tmp_path: Path) -> None:
    """Also with --keep-replicating: a primary that was rolled back meanwhile has lost what nobody deleted."""
    async with running(tmp_path) as router:
        wish = Wish(Mode.FORCED, upstream=BACKUP, reason="upgrade", keep_replicating=True)
        await router.controller.set_intent(wish, "ada")
        forced = parse_word(router.controller.replicator_route())
        assert forced.forced is BACKUP
        assert isolates(forced)
        await router.controller.set_intent(Wish(Mode.AUTO), "ada")
        assert interrupts(forced, parse_word(router.controller.replicator_route()))


async def test_a_bug_in_one_command_does_not_stop_the_next_move(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        router.work, router.broken = 1, True
        await router.controller.set_intent(Wish(Mode.DRAIN, reason="service", grace_s=0.0), "ada")
        assert await router.controller.changed.wait_until(lambda: router.ended == [PRIMARY], timeout_s=20)
        await router.controller.set_intent(Wish(Mode.FORCED, upstream=PRIMARY, reason="back"), "ada")
        await router.published(Phase.ON_PRIMARY)


async def test_the_status_has_what_the_contract_names(tmp_path: Path) -> None:
    router = Router(tmp_path)
    awaited = router.controller.not_ready()
    assert awaited is not None
    assert router.controller.snapshot()["upstreams"]["primary"]["web"]["verdict"] is None
    router.start()
    router.hear(PRIMARY, Verdict.UP)
    router.hear(BACKUP, Verdict.SUSPECT)
    assert router.controller.not_ready() is None
    status = router.controller.snapshot()
    assert set(status) == {
        "site", "mode", "phase", "intent", "services", "upstreams", "in_flight", "failback", "replication",
        "decisions", "troubles",
    }  # fmt: skip
    assert status["site"] == "essen"
    assert status["services"]["web"]["active"] == "primary"
    assert status["upstreams"]["backup"]["dicom"]["up"] is True
    assert status["upstreams"]["backup"]["dicom"]["verdict"] == "suspect"
    assert status["upstreams"]["primary"]["web"]["parts"] == {"reach": "up"}
    assert status["failback"] == {
        "allowed": False,
        "reason": "waiting: how many objects are owed to the primary is not known",
        "hold_down_left_s": 0.0,
        "by_hand": False,
    }
    assert set(status["replication"]) == {
        "lag_objects", "lag_s", "pending_to_backup", "pending_to_primary", "refused", "lost",
        "coverage_ratio", "recheck_done", "vanished",
    }  # fmt: skip
    assert router.sample("failover_upstream_up", upstream="primary", service="web") == 1
    assert router.sample("failover_upstream_suspect", upstream="backup", service="web") == 1
    assert router.sample("failover_active_upstream", service="web", upstream="primary") == 1
    assert router.sample("failover_mode", mode="auto") == 1
    assert router.sample("failover_replication_lag_objects") is None
    assert router.controller.replicator_route() == {
        "mode": "auto",
        "phase": "on_primary",
        "forced": None,
        "keep_replicating": True,
        "primary": {"web": "up", "dicom": "up"},
        "store": {"web": None, "dicom": None},
        "vanished": None,
    }
    await router.stop()
