"""The dashboards: valid, without overlaps, asking only for metrics that exist, by labels that they have."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.unit.deploy.expressions import groupings_in, known_series, series_in
from tests.unit.deploy.units import ROOT

GRAFANA = ROOT / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
# From Prometheus itself, not from us.
FOREIGN = {"up": frozenset({"job", "instance"})}


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "dashboards" / name).read_text(encoding="utf-8"))
    return found


def queries(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (where, expression) of every query, those of the annotations too."""
    found = [
        (f"{panel['title']} {target['refId']}", target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    return found + [(f"annotation {one['name']}", one["expr"]) for one in dashboard["annotations"]["list"]]


@pytest.fixture(params=[path.name for path in DASHBOARDS])
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def test_it_has_what_grafana_wants(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["uid"]
    assert dashboard["title"]
    assert "id" not in dashboard  # Grafana gives it
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"]
            assert panel["targets"]
    assert variables == {"datasource", "instance"}


def test_panels_have_their_own_ids_and_places(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_it_asks_for_metrics_that_exist(dashboard: dict[str, Any]) -> None:
    known = known_series() | FOREIGN
    for where, expression in queries(dashboard):
        if expression.startswith("ALERTS"):
            continue
        labels: set[str] = {"job", "instance"}
        read = series_in(expression)
        assert read, where
        for name, used in read:
            assert name in known, f"{where}: {name}"
            assert used <= known[name] | {"job", "instance"}, f"{where}: {name} {used}"
            labels |= known[name]
        assert groupings_in(expression) <= labels, where


def test_what_is_measured_is_shown(dashboard: dict[str, Any]) -> None:
    shown = {name for _, expression in queries(dashboard) for name, _ in series_in(expression)}
    for metric in (
        "failover_phase", "failover_mode", "failover_upstream_up", "failover_upstream_suspect",
        "failover_http_requests_total", "failover_http_request_duration_seconds_bucket",
        "failover_http_moved_total", "failover_http_in_flight", "failover_dicom_operations_total",
        "failover_dicom_associations_total", "failover_replication_lag_objects",
        "failover_replication_lag_seconds", "failover_replication_pending", "failover_coverage_ratio",
        "failover_archive_bytes", "failover_probe_duration_seconds_bucket", "failover_transitions_total",
    ):  # fmt: skip
        assert metric in shown, metric


def test_the_provisioning_leads_to_it() -> None:
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/failover.yaml").read_text())["providers"][0]
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["type"] == "prometheus"
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["grafana"]
    targets = {volume.split(":")[1] for volume in compose["volumes"]}
    assert provider["options"]["path"] in targets
    assert "/etc/grafana/provisioning" in targets
    assert source["datasources"][0]["url"] == "$PROMETHEUS_URL"
    assert compose["environment"]["PROMETHEUS_URL"]
