"""failover archive plan, protect, unprotect: what they ask and print; `archive` itself still runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from typer.testing import Result

from failover.admin.requests import ProtectionRequest
from tests.unit.cli.conftest import Running

Failover = Callable[..., Result]


def plan(**facts: Any) -> dict[str, Any]:
    study = {
        "study_instance_uid": "1.2.3",
        "study_date": "20251004",
        "objects": 120,
        "bytes": 62_900_000,
        "protected": False,
        "goes_at": "2026-01-02T03:04:05.678Z",
        "why": "age",
        "waits_for": "3 of it are not on the primary yet: they stay until they are",
    }
    kept = {
        **study,
        "study_instance_uid": "1.2.4",
        "goes_at": None,
        "why": None,
        "waits_for": "it is protected",
    }
    return {
        "days": 90,
        "max_bytes": 1_200_000_000_000,
        "min_free_bytes": 10**9,
        "held_bytes": 800_000_000_000,
        "free_bytes": 400_000_000_000,
        "space_wanted_bytes": 0,
        "clock_doubted": None,
        "window_from": "2025-10-05",
        "protected_studies": 1,
        "protected_patients": 0,
        "studies": [study, kept],
        **facts,
    }


def test_the_plan_says_what_goes_when_and_why(failover: Failover, router: Running) -> None:
    router.act(lambda operations: setattr(operations, "outlook", plan()))
    ended = failover("archive", "plan", "--admin", router.url)
    assert ended.exit_code == 0, ended.output
    words = " ".join(ended.output.split())
    for word in ("after 90 days", "800.0 GB of 1.20 TB held", "1.2.3", "62.9 MB", "never", "2025-10-05"):
        assert word in words, words
    told = json.loads(failover("archive", "plan", "--json", "--admin", router.url).output)
    assert told == plan()


def test_what_must_go_for_space_and_a_doubted_clock_are_said(failover: Failover, router: Running) -> None:
    doubted = plan(space_wanted_bytes=5_000_000_000, clock_doubted="the clock went 400 days ahead")
    router.act(lambda operations: setattr(operations, "outlook", doubted))
    words = " ".join(failover("archive", "plan", "--admin", router.url).output.split())
    assert "5.0 GB must go for space now" in words
    assert "the clock went 400 days ahead" in words


def test_a_study_or_a_patient_is_protected_with_a_reason(failover: Failover, router: Running) -> None:
    ended = failover("archive", "protect", "--study", "1.2.3", "--reason", "a lawsuit", "--admin", router.url)
    assert (ended.exit_code, ended.output) == (0, "1 study is protected\n")
    ended = failover("archive", "unprotect", "--patient", "P1", "--reason", "settled", "--admin", router.url)
    assert ended.output == "1 study is no longer protected\n"
    asked = [request for request, _ in router.operations.protections]
    assert asked == [
        ProtectionRequest(True, "a lawsuit", "1.2.3", None),
        ProtectionRequest(False, "settled", None, "P1"),
    ]
    ended = failover("archive", "protect", "--reason", "x", "--admin", router.url)
    assert ended.exit_code == 2
    assert "one of the two" in ended.output
    assert failover("archive", "protect", "--study", "1.2", "--admin", router.url).exit_code == 2


def test_the_archive_itself_is_still_run_by_its_bare_name(failover: Failover) -> None:
    ended = failover("archive", "-c", "nowhere.yaml")
    assert ended.exit_code == 2
    assert "nowhere.yaml: No such file or directory" in ended.output
