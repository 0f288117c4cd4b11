"""failover owed, failover quarantine: what they ask, page by page, and what they print."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from typer.testing import Result

from failover.admin.questions import OwedQuestion, OwedState, SplitQuestion
from tests.fakes.operations import FakeOperations
from tests.unit.cli.conftest import Running

Failover = Callable[..., Result]
NOTHING = {"owed": 0, "sent": 0, "refused": 0, "lost": 0, "vanished": 0}


def entry(number: int, state: str = "owed", **facts: Any) -> dict[str, Any]:
    return {
        "sop_instance_uid": f"1.2.3.{number}",
        "study_instance_uid": "1.2.3",
        "state": state,
        "since": "2026-01-01T03:04:05.000Z",
        "last_status": None,
        "times_sent": 0,
        "next_attempt": None,
        **facts,
    }


def a_page(objects: list[dict[str, Any]], next_: str | None, **counts: Any) -> dict[str, Any]:
    return {"objects": objects, "next": next_, "counts": NOTHING | counts, "sending": "allowed"}


def test_nothing_owed_is_one_sentence(failover: Failover, router: Running) -> None:
    router.act(lambda operations: operations.owed_pages.update({None: a_page([], None)}))
    told = failover("owed", "--admin", router.url)
    assert told.exit_code == 0
    assert "nothing is owed: all that the archive received is proven on the primary" in told.output


def test_each_object_is_a_line_with_all_that_is_known(failover: Failover, router: Running) -> None:
    refused = entry(1, "refused", last_status="0xA900", times_sent=3)
    waiting = entry(2, "sent", times_sent=1, next_attempt="2026-01-01T03:04:06.000Z")
    page = {
        **a_page([refused, waiting], None, refused=3, lost=2, sent=1),
        "sending": "the primary is drained",
    }
    router.act(lambda operations: operations.owed_pages.update({None: page}))
    output = failover("owed", "--admin", router.url).output
    for words in (
        "1 sent, 1 refused, 2 lost in the archive",
        "0xA900",
        "3 x",
        "1.2.3.1",
        "1.2.3.2",
        "the primary is drained",
    ):
        assert words in output


def test_json_has_every_page_and_the_table_says_that_there_is_more(
    failover: Failover, router: Running
) -> None:
    def fill(operations: FakeOperations) -> None:
        operations.owed_pages[None] = a_page([entry(1)], "1.2.3.1", owed=2)
        operations.owed_pages["1.2.3.1"] = a_page([entry(2)], None, owed=2)

    router.act(fill)
    facts = failover("owed", "--state", "owed", "--limit", "0", "--json", "--admin", router.url)
    assert [one["sop_instance_uid"] for one in json.loads(facts.stdout)["objects"]] == ["1.2.3.1", "1.2.3.2"]
    assert router.operations.questions == [
        OwedQuestion(OwedState.OWED, 1000, None),
        OwedQuestion(OwedState.OWED, 1000, "1.2.3.1"),
    ]
    assert (
        "the first 1; all of them: --limit 0"
        in failover("owed", "--limit", "1", "--admin", router.url).output
    )


def test_a_state_that_is_none_is_a_usage_error(failover: Failover, router: Running) -> None:
    assert failover("owed", "--state", "lost", "--admin", router.url).exit_code == 2
    assert router.operations.questions == []


def test_no_replicator_is_not_nothing_vanished(failover: Failover, router: Running) -> None:
    page = a_page([], None, vanished=None)
    router.act(lambda operations: operations.owed_pages.update({None: page}))
    output = failover("owed", "--admin", router.url).output
    assert "what vanished is not known" in output
    assert "proven on the primary" not in output


def test_quarantine_shows_both_versions_by_what_differs(failover: Failover, router: Running) -> None:
    assert "nothing is in quarantine" in failover("quarantine", "--admin", router.url).output
    version = {"study_instance_uid": "1.2.3", "bytes": 512, "origin": "caller"}
    one = {
        "id": 7,
        "sop_instance_uid": "1.2.3.4",
        "reason": "patient",
        "arrived_at": "2026-01-01T03:04:05.000Z",
        "served": version | {"state": "owed"},
        "quarantined": version | {"caller": "CT1"},
        "differs": [{"tag": "00100020", "keyword": "PatientID", "served": "A", "quarantined": None}],
    }
    router.act(lambda operations: operations.quarantined.append(one))
    output = failover("quarantine", "--admin", router.url).output
    for words in ("another patient", "1.2.3.4", "from CT1", "PatientID", "(not there)"):
        assert words in output
    facts = failover("quarantine", "--json", "--admin", router.url)
    assert json.loads(facts.stdout)["objects"] == [one]


def test_split_studies_are_listed_with_what_each_side_lacks(failover: Failover, router: Running) -> None:
    assert "no study is split" in failover("owed", "--split", "--admin", router.url).output
    study = {
        "study_instance_uid": "1.2.3", "since": "2026-01-01T03:04:05.000Z", "held": 9,
        "owed": 4, "sent": 1, "refused": 0, "on_primary": None, "to_fetch": 2,
    }  # fmt: skip
    router.act(lambda operations: operations.split_studies.append(study))
    output = failover("owed", "--split", "--admin", router.url).output
    assert "1.2.3" in output
    assert output.splitlines()[1].split()[-6:-1] == ["4", "1", "0", "?", "2"]
    told = failover("owed", "--split", "--json", "--limit", "5", "--admin", router.url)
    assert json.loads(told.stdout)["studies"] == [study]
    assert router.operations.questions[-1] == SplitQuestion(5, None)
    assert failover("owed", "--split", "--state", "sent", "--admin", router.url).exit_code == 2
