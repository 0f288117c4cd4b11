"""What operations deploy, together: the demo below the limits of its unit, scraped by a real Prometheus.

Every query of the dashboards and every alert's expression is evaluated on what it scraped.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from failover.app.demo import _PORTS
from failover.control import ask as ask_control
from failover.control import socket_path
from tests.peers.orthanc import Orthanc
from tests.peers.process import Peer, environment, find_program, free_port, wait_for
from tests.system.site import request
from tests.unit.deploy.test_dashboards import DASHBOARDS, load, queries
from tests.unit.deploy.units import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120), pytest.mark.xdist_group("operations")]

# Panels that may be empty in a demo at peace, and why.
MAY_BE_EMPTY = {
    "Phase changes A": "nothing changes its phase",
    "Probes that did not pass A": "every probe passes",
    "Errors by upstream A": "nothing fails",
    "Rescued requests A": "nothing needs to be rescued",
    "Failed and rescued A": "no operation fails",
    "Failed and rescued B": "nothing needs to be rescued",
    "Replicated B": "nothing is owed, so nothing is sent",
    "Replicated D": "no step fails",
    "annotation Phase changes": "nothing changes its phase",
    "annotation Alerts": "no alert fires",
}


class Demo(Peer):
    """`failover demo` below the limits of deploy/systemd/failover.service."""

    def __init__(self) -> None:
        super().__init__("demo")
        self.offset = _free_offset()
        self.web_port, self.dicom_port = _PORTS["web"] + self.offset, _PORTS["dicom"] + self.offset
        self.admin_port = _PORTS["admin"] + self.offset

    def command(self) -> Sequence[str]:
        find_program("systemd-analyze")
        return [
            sys.executable, str(ROOT / "tests/integration/sandbox.py"),
            str(ROOT / "deploy/systemd/failover.service"),
            sys.executable, "-m", "failover", "demo", "--dir", str(self.folder / "demo"),
            "--port-offset", str(self.offset),
        ]  # fmt: skip

    def ready(self) -> bool:
        """All replicated, and a picture was drawn."""
        try:
            if request(self.admin_port, "GET", "/-/ready", timeout_s=5).status != 200:
                return False
            numbers = request(self.admin_port, "GET", "/api/status").json()["replication"]
            return bool(numbers["coverage_ratio"] == 1.0 and numbers["lag_objects"] == 0)
        except (OSError, http.client.HTTPException):
            return False


class Prometheus(Peer):
    """A Prometheus with deploy/prometheus, but scraping `target` every second."""

    def __init__(self, target: int) -> None:
        super().__init__("prometheus")
        self.port = free_port()
        self._target = target

    def command(self) -> Sequence[str]:
        folder = ROOT / "deploy" / "prometheus"
        configuration = yaml.safe_load((folder / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["rule_files"] = [str(folder / "alerts.yml")]
        job = configuration["scrape_configs"][0]
        job |= {"scrape_timeout": "1s", "static_configs": [{"targets": [f"127.0.0.1:{self._target}"]}]}
        del job["authorization"]  # the demo is on loopback and has no token
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        return [
            str(find_program("prometheus")), f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip

    def ready(self) -> bool:
        try:
            return request(self.port, "GET", "/-/ready", timeout_s=5).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query. AssertionError with Prometheus' words when it is none."""
        answer = request(self.port, "GET", "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        content = json.loads(answer.body)
        assert content["status"] == "success", f"{expression}: {content.get('error')}"
        found: list[dict[str, Any]] = content["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        groups = request(self.port, "GET", "/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


def _free_offset() -> int:
    chosen = random.Random()
    while True:
        offset = chosen.randrange(3000, 8800)  # all below those of `free_port`
        try:
            for port in _PORTS.values():
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return offset


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with Demo() as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(demo: Demo) -> Iterator[Prometheus]:
    study = request(demo.web_port, "GET", "/dicom-web/studies?limit=1").json()[0]["0020000D"]["Value"][0]
    with Prometheus(demo.admin_port) as running:

        def has_rates() -> bool:
            # Traffic of each kind goes on, so that each rate has two samples.
            assert request(demo.web_port, "GET", "/dicom-web/studies").status == 200
            path = f"/dicom-web/studies/{study}/rendered"
            assert request(demo.web_port, "GET", path, headers={"accept": "image/jpeg"}).status == 200
            _echo(demo)
            return all(
                running.query(f"rate({name}[10s]) > 0")
                for name in (
                    "failover_http_requests_total", "failover_dicom_operations_total", "failover_probes_total"
                )
            )  # fmt: skip

        wait_for(has_rates, "rates are known")
        yield running


def _echo(demo: Demo) -> None:
    command = [str(find_program("echoscu")), "-aec", "PACS", "127.0.0.1", str(demo.dicom_port)]
    subprocess.run(command, env=environment(), check=True, timeout=30)


def test_failover_runs_below_the_limits_of_its_unit(demo: Demo) -> None:
    page = request(demo.web_port, "GET", "/.failover/")
    assert page.status == 200
    components = request(demo.admin_port, "GET", "/metrics").body.decode()
    for component in ("router", "archive", "replicator"):
        assert f'failover_component_up{{component="{component}"}} 1.0' in components


def test_the_archive_of_a_demo_holds_each_of_its_samples(demo: Demo) -> None:
    def studies(side: str) -> set[str]:
        found = request(_PORTS[side] + demo.offset, "GET", "/dicom-web/studies").json()
        return {one["0020000D"]["Value"][0] for one in found}

    wait_for(lambda: studies("archive_web") == studies("primary_web"), "all samples are in the archive")


@pytest.mark.parametrize("name", [path.name for path in DASHBOARDS])
def test_every_query_of_a_dashboard_gives_data(prometheus: Prometheus, name: str) -> None:
    empty = []
    for where, expression in queries(load(name)):
        ready = (
            expression.replace("$__rate_interval", "10s").replace("$__range", "1m").replace("$instance", ".+")
        )
        assert "$" not in ready, where
        if not prometheus.query(ready):
            empty.append(where)
    assert set(empty) <= set(MAY_BE_EMPTY)


def test_every_rule_evaluates_and_none_fires_in_peace(prometheus: Prometheus) -> None:
    def evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in prometheus.rules())

    wait_for(evaluated, "each rule was evaluated")
    rules = prometheus.rules()
    alerts = [rule for rule in rules if rule["type"] == "alerting"]
    assert len(alerts) > 30
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in alerts if rule["state"] == "firing"] == []


def test_an_alert_fires_when_the_mode_is_not_auto(demo: Demo, prometheus: Prometheus) -> None:
    body = json.dumps({"mode": "paused", "reason": "to see it"}).encode()
    asked = request(demo.admin_port, "PUT", "/api/route", body, {"content-type": "application/json"})
    assert asked.status == 200
    wait_for(
        lambda: bool(prometheus.query('ALERTS{alertname="FailoverModeNotAuto",mode="paused"}')),
        "FailoverModeNotAuto is pending",
    )
    body = json.dumps({"mode": "auto"}).encode()
    request(demo.admin_port, "PUT", "/api/route", body, {"content-type": "application/json"})


def test_renewing_the_processes_one_by_one_refuses_no_caller(demo: Demo) -> None:
    """The upgrade of docs/deploy.md: SIGTERM to each; the supervisor starts another."""
    good: list[int] = []
    failed: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                answer = request(demo.web_port, "GET", "/dicom-web/studies?limit=2", timeout_s=30)
                if answer.status == 200:
                    good.append(answer.status)
                else:
                    failed.append(str(answer.status))
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for part in ("replicator", "archive", "router"):
            _renew(demo, part)
        seen = len(good)
        wait_for(lambda: len(good) > seen + 10, "callers go on")
    finally:
        ended.set()
        for caller in callers:
            caller.join(40)
    assert failed == []


def _renew(demo: Demo, part: str) -> None:
    control = socket_path(demo.folder / "demo" / "state", "supervisor")

    def pid() -> int | None:
        found: int | None = asyncio.run(ask_control(control, "children"))[part]["pid"]
        return found

    old = pid()
    assert old is not None
    os.kill(old, signal.SIGTERM)
    wait_for(lambda: pid() not in (None, old), f"another {part} runs")
    wait_for(demo.ready, f"the new {part} answers")


def test_the_memory_of_the_whole_is_far_below_the_units_limit(demo: Demo) -> None:
    everything = [psutil.Process(demo.pid), *psutil.Process(demo.pid).children(recursive=True)]
    resident = sum(process.memory_full_info().pss for process in everything)
    assert resident < 1.2 * 2**30


def test_an_orthanc_starts_with_the_settings_of_the_composition() -> None:
    settings = json.loads((ROOT / "deploy/compose/orthanc.json").read_text(encoding="utf-8"))
    here = {"HttpPort", "DicomPort", "StorageDirectory", "IndexDirectory", "Plugins", "RemoteAccessAllowed"}
    with Orthanc(extra={key: value for key, value in settings.items() if key not in here}) as orthanc:
        assert orthanc.json("/system")["DicomAet"] == settings["DicomAet"]
        assert orthanc.json("/dicom-web/studies") == []


def test_the_sandbox_shuts_what_the_unit_shuts(tmp_path: Path) -> None:
    unit = ROOT / "deploy/systemd/failover.service"
    sandbox = [sys.executable, str(ROOT / "tests/integration/sandbox.py"), str(unit)]
    chroot = [sys.executable, "-c", f"import os; os.chroot({str(tmp_path)!r})"]
    answer = subprocess.run([*sandbox, *chroot], capture_output=True, text=True, timeout=30, check=False)
    assert "PermissionError" in answer.stderr
