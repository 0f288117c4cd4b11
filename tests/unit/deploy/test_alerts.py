"""The alert rules: promtool accepts them, each fires in a scene, is quiet in another, and says what to do."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.peers.process import environment, find_program
from tests.unit.deploy.expressions import known_series, series_in
from tests.unit.deploy.units import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))
SCENES = yaml.safe_load((FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule
}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(find_program("promtool")), *arguments],
        cwd=FOLDER,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_promtool_accepts_the_rules() -> None:
    answer = promtool("check", "rules", "alerts.yml")
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.timeout(120)
def test_in_each_scene_exactly_these_alerts_fire() -> None:
    answer = promtool("test", "rules", "alerts_test.yml")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def fired(check: dict[str, Any]) -> set[str]:
    return {re.findall(r'alertname="(\w+)"', sample["labels"])[0] for sample in check["exp_samples"]}


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_fires_in_a_scene_and_is_quiet_before_or_after_it(alert: str) -> None:
    scenes = [[fired(check) for check in scene["promql_expr_test"]] for scene in SCENES]
    assert any(
        any(alert in names for names in checks) and any(alert not in names for names in checks)
        for checks in scenes
    )


def test_in_the_calm_scene_every_series_that_an_alert_reads_is_there() -> None:
    calm = next(scene for scene in SCENES if scene["name"].startswith("in calm"))
    given = {entry["series"].partition("{")[0] for entry in calm["input_series"]}
    read = {name for rule in ALERTS.values() for name, _ in series_in(rule["expr"]) if ":" not in name}
    assert read - given == set()


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    notes = rule["annotations"]
    assert len(notes["description"]) > 60
    assert notes["summary"]
    assert notes["runbook_url"] == f"docs/alerts.md#{alert.lower()}"
    assert f"\n### {alert}\n" in (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")


def test_rules_read_only_metrics_that_exist_with_labels_that_they_have() -> None:
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    known = known_series()
    for group in RULES["groups"]:
        for rule in group["rules"]:
            for name, labels in series_in(rule["expr"]):
                if name in recorded or name == "up":
                    continue
                assert name in known, name
                assert labels <= known[name] | {"job", "instance"}, (name, labels)
