"""The first sentence, over all states: what is said, how loud, and what to do."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from failover.admin.headline import headline, with_headline
from tests.fakes.operations import calm_status

Json = dict[str, Any]
Change = Callable[[Json], None]
SINCE = "2026-01-01T00:00:00.000Z"


def verdict(upstream: str, word: str | None, *services: str) -> Change:
    def change(status: Json) -> None:
        for service in services or ("web", "dicom"):
            status["upstreams"][upstream][service].update(verdict=word, reason="query: no answer")

    return change


def phase(word: str, *services: str) -> Change:
    def change(status: Json) -> None:
        status["phase"] = word
        for service in services or ("web", "dicom"):
            active = "primary" if word == "on_primary" else "backup"
            status["services"][service].update(active=active, phase=word)

    return change


def mode(word: str, **intent: Any) -> Change:
    def change(status: Json) -> None:
        status["mode"] = word
        status["intent"].update(reason="upgrade", actor="alice", **intent)

    return change


def numbers(**given: Any) -> Change:
    return lambda status: status["replication"].update(given)


def failback(reason: str, left_s: float = 0.0, *decisions: str) -> Change:
    def change(status: Json) -> None:
        status["failback"] = {"allowed": False, "reason": reason, "hold_down_left_s": left_s}
        status["decisions"] = list(decisions)

    return change


def none_of(upstream: str, service: str) -> Change:
    def change(status: Json) -> None:
        status["upstreams"][upstream][service] = {"up": None, "verdict": None, "reason": "not configured"}

    return change


def in_flight(web: int) -> Change:
    return lambda status: status["in_flight"]["primary"].update(web=web, dicom=0)


ON_BACKUP, FAILING_BACK = phase("on_backup"), phase("failing_back")
DOWN, UP_AGAIN = verdict("primary", "down"), verdict("primary", "up")
UNTIL = "2026-01-01T02:00:00.000Z"

TABLE: list[tuple[list[Change], str, str]] = [
    ([], "calm", "The primary answers and the backup is ready."),
    (
        [numbers(coverage_ratio=None)],
        "calm",
        "The primary answers; what the backup holds of it is not counted yet.",
    ),
    ([numbers(coverage_ratio=0.4)], "calm", "The primary answers; the backup is still being filled."),
    ([numbers(lag_objects=3, lag_s=4.0)], "calm", "The primary answers and the backup is ready."),
    (
        [numbers(lag_objects=1, lag_s=9000.0)],
        "attention",
        "The primary answers, but 1 object is owed to it for long.",
    ),
    (
        [numbers(refused=2)],
        "attention",
        "The primary answers, but refused 2 objects for good; only the archive has them.",
    ),
    (
        [numbers(refused=1, lost=1)],
        "attention",
        "The primary answers, but the archive lost 1 object before it was sent.",
    ),
    (
        [numbers(refused=3, lost=2)],
        "attention",
        "The primary answers, but refused 1 object for good"
        " and the archive lost 2 objects before they were sent.",
    ),
    (
        [numbers(lag_objects=None)],
        "attention",
        "The primary answers; archive and replicator have not reported for 5 seconds.",
    ),
    (
        [verdict("primary", None, "web")],
        "attention",
        "Starting: no verdict yet on web of the primary.",
    ),
    (
        [verdict("primary", "suspect", "dicom")],
        "attention",
        "DICOM of the primary is suspect: what the backup can answer goes there, request by request.",
    ),
    ([DOWN], "alarm", "The primary is down; the backup is about to answer."),
    (
        [verdict("backup", "down")],
        "alarm",
        "The primary answers, but the backup is down: nothing would take over.",
    ),
    (
        [verdict("backup", "suspect", "web")],
        "attention",
        "The primary answers; web of the backup is suspect.",
    ),
    ([DOWN, ON_BACKUP], "attention", f"The primary is down; the backup answers since {SINCE}."),
    (
        [verdict("primary", "down", "dicom"), ON_BACKUP],
        "attention",
        f"DICOM of the primary is down; the backup answers since {SINCE}.",
    ),
    (
        [verdict("primary", "suspect"), ON_BACKUP],
        "attention",
        f"The primary is suspect; the backup answers since {SINCE}.",
    ),
    (
        [ON_BACKUP, failback("waiting: the primary must stay up", 7.0)],
        "attention",
        f"The primary is up; the backup answers since {SINCE} until the hold-down is over.",
    ),
    (
        [ON_BACKUP, failback("waiting: failback is manual; …", 0.0, "failback")],
        "attention",
        f"The primary is up and the way back waits for you; the backup answers since {SINCE}.",
    ),
    (
        [FAILING_BACK, numbers(lag_objects=12)],
        "attention",
        "The primary is up; 12 objects are owed to it, and the way back waits for them.",
    ),
    (
        [FAILING_BACK, numbers(lag_objects=1)],
        "attention",
        "The primary is up; 1 object is owed to it, and the way back waits for it.",
    ),
    ([FAILING_BACK], "attention", "The primary is up; traffic is about to return."),
    (
        [FAILING_BACK, numbers(lag_objects=None)],
        "attention",
        "The primary is up, but how many objects are owed to it is not known; the way back waits.",
    ),
    (
        [FAILING_BACK, numbers(refused=1), failback("waiting: refused", 0.0, "refused")],
        "attention",
        "The primary is up, but refused 1 object for good; the way back waits.",
    ),
    (
        [FAILING_BACK, failback("waiting: vanished", 0.0, "vanished-owed", "vanished-deleted")],
        "alarm",
        "The primary is up, but many studies have vanished from it; the way back waits for you.",
    ),
    (
        [ON_BACKUP, verdict("backup", "down")],
        "alarm",
        f"The backup is down, which answers since {SINCE}; the primary is asked in its place.",
    ),
    (
        [ON_BACKUP, DOWN, verdict("backup", "down")],
        "alarm",
        "Primary and backup are both down: callers get errors.",
    ),
    (
        [verdict("primary", "down", "web"), verdict("backup", "down", "web")],
        "alarm",
        "Primary and backup are both down for web: callers get errors.",
    ),
    (
        [none_of("backup", "dicom"), verdict("primary", "down", "dicom")],
        "alarm",
        "DICOM of the primary is down, and the other has none: callers get errors.",
    ),
    (
        [phase("on_backup", "web"), verdict("primary", "down", "web")],
        "attention",
        f"Web of the primary is down; traffic is answered apart since {SINCE}: "
        "web by the backup, DICOM by the primary.",
    ),
    (
        [ON_BACKUP, mode("forced", upstream="backup", until=UNTIL)],
        "attention",
        f"Traffic is forced to the backup until {UNTIL}; the primary gets probes only.",
    ),
    (
        [ON_BACKUP, mode("forced", upstream="backup", keep_replicating=True)],
        "attention",
        "Traffic is forced to the backup; the primary is still replicated with.",
    ),
    (
        [ON_BACKUP, mode("forced", upstream="backup"), DOWN],
        "attention",
        "Traffic is forced to the backup; the primary is down.",
    ),
    (
        [ON_BACKUP, mode("forced", upstream="backup"), verdict("backup", "down", "web")],
        "alarm",
        "Traffic is forced to the backup, but web of the backup is down: requests are not answered.",
    ),
    (
        [mode("forced", upstream="primary"), numbers(lag_objects=3)],
        "attention",
        "Traffic is forced to the primary, though 3 objects are owed to it.",
    ),
    ([mode("forced", upstream="primary")], "attention", "Traffic is forced to the primary."),
    (
        [mode("forced", upstream="primary"), DOWN],
        "alarm",
        "Traffic is forced to the primary, but the primary is down: "
        "requests are rescued by the backup where that can be.",
    ),
    (
        [ON_BACKUP, mode("drain", upstream="primary", drain="under_way"), in_flight(1)],
        "attention",
        "The primary is being drained: 1 request or association is still there.",
    ),
    (
        [ON_BACKUP, mode("drain", upstream="primary", drain="empty"), in_flight(0)],
        "attention",
        "The primary is drained and can be serviced; the backup answers.",
    ),
    (
        [ON_BACKUP, mode("drain", upstream="primary", drain="empty"), in_flight(0), DOWN],
        "attention",
        "The primary is drained and can be serviced; the backup answers.",
    ),
    (
        [ON_BACKUP, mode("drain", upstream="primary"), verdict("backup", "down")],
        "alarm",
        "The primary is drained, but the backup, which should answer, is down: callers get errors.",
    ),
    (
        [mode("paused", until=UNTIL)],
        "attention",
        f"Routing is paused until {UNTIL}: the primary answers, and nothing moves by itself.",
    ),
    (
        [mode("paused"), DOWN],
        "alarm",
        "Routing is paused while the primary is down: only single requests are rescued.",
    ),
]


@pytest.mark.parametrize(("changes", "level", "sentence"), TABLE, ids=[row[2] for row in TABLE])
def test_each_state_has_its_sentence(changes: list[Change], level: str, sentence: str) -> None:
    status = calm_status()
    for change in changes:
        change(status)
    told = headline(status)
    assert told.sentence == sentence
    assert told.level == level
    assert told.advice.endswith((".", "…`."))


def test_every_state_has_a_sentence() -> None:
    """All verdicts x phases x modes x debts: never an error, one sentence, and calm only when all is up."""
    verdicts = ("up", "suspect", "down", None)
    modes: tuple[tuple[str, Json], ...] = (
        ("auto", {}),
        ("forced", {"upstream": "primary"}),
        ("forced", {"upstream": "backup"}),
        ("drain", {"upstream": "primary"}),
        ("paused", {}),
    )
    phases = ("on_primary", "on_backup", "failing_back")
    for words in itertools.product(verdicts, verdicts, verdicts, phases, modes, (0, 5, None)):
        of_web, of_dicom, of_backup, where, (intent, fields), owed = words
        status = calm_status()
        for change in (
            verdict("primary", of_web, "web"),
            verdict("primary", of_dicom, "dicom"),
            verdict("backup", of_backup),
            phase(where),
            mode(intent, **fields),
            numbers(lag_objects=owed),
        ):
            change(status)
        told = headline(status)
        assert told.sentence.endswith("."), words
        assert told.sentence[0].isupper(), words
        assert "None" not in told.sentence, words
        if told.level == "calm":
            assert (of_web, of_dicom, of_backup, where, intent) == ("up", "up", "up", "on_primary", "auto")
        if "down" in (of_web, of_dicom) and of_backup == "down":
            assert told.level == "alarm", words


def test_a_trouble_is_told_when_nothing_worse_is() -> None:
    sentence = "the disk of /data has no room: stores are refused until there is"
    status = {
        **calm_status(),
        "troubles": [{"component": "archive", "code": "no_room", "sentence": sentence}],
    }
    told = headline(status)
    assert told.level == "attention"
    assert told.sentence == "The primary answers, but the archive's disk is full: it takes no stores."
    assert told.advice == "The disk of /data has no room: stores are refused until there is."
    verdict("backup", "down")(status)
    assert headline(status).level == "alarm"
    assert "backup is down" in headline(status).sentence


@pytest.mark.parametrize(("component", "code", "said"), [
    ("archive", "index_not_written", "but the archive's disk failed: it takes no stores."),
    ("router", "state_not_written", "archive and replicator have not reported for 5 seconds."),
])  # fmt: skip
def test_an_archive_that_tells_why_it_knows_no_debt_has_reported(
    component: str, code: str, said: str
) -> None:
    status = {
        **calm_status(),
        "troubles": [{"component": component, "code": code, "sentence": "its disk does not let it"}],
    }
    numbers(lag_objects=None)(status)
    assert headline(status).sentence.endswith(said)


def test_with_a_backup_of_another_make_it_is_said_how_reads_return() -> None:
    status = calm_status()
    numbers(lag_objects=None, coverage_ratio=None)(status)
    failback("waiting for you: the backup is none of ours")(status)
    status["failback"]["by_hand"] = True
    assert headline(status).level == "calm"
    phase("failing_back")(status)
    told = headline(status)
    assert "the way back waits for you" in told.sentence
    assert "`failover force primary --reason …` and `failover auto`" in told.advice


def test_nothing_else_of_the_status_changes() -> None:
    status = calm_status()
    before = copy.deepcopy(status)
    told = with_headline(status)
    assert status == before
    assert {key: told[key] for key in before} == before
    assert set(told) - set(before) == {"level", "headline", "advice"}
