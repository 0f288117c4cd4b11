"""What the replicator may do to the primary, by the router's last word."""

from __future__ import annotations

from typing import Any

import pytest

from failover.replication.permission import Word, interrupts, parse_word, permission


def word(**said: Any) -> Word:
    answer = {
        "mode": "auto",
        "phase": "on_primary",
        "keep_replicating": False,
        "primary": {"web": "up", "dicom": "up"},
        **said,
    }
    return parse_word(answer)


@pytest.mark.parametrize(
    ("said", "touch", "work", "send"),
    [
        ({}, True, True, True),
        ({"mode": "paused"}, True, True, True),
        ({"phase": "on_backup"}, True, True, True),
        ({"mode": "forced", "forced": "primary"}, True, True, True),
        ({"mode": "forced", "keep_replicating": True}, True, True, True),
        ({"mode": "forced", "forced": "backup"}, False, False, False),
        ({"mode": "forced"}, False, False, False),  # not said which: rather not
        ({"mode": "drain"}, False, False, False),
        ({"mode": "drain", "keep_replicating": True}, True, True, True),
        ({"primary": {"web": "down", "dicom": "up"}}, True, True, True),
        ({"primary": {"web": "down", "dicom": "down"}}, True, False, True),  # one object, as a probe
        ({"primary": {"web": "suspect", "dicom": None}}, True, False, True),
    ],
)
def test_permission(said: dict[str, Any], touch: bool, work: bool, send: bool) -> None:
    allowed = permission(word(**said), 1.0)
    assert (allowed.touch, allowed.work, allowed.send) == (touch, work, send), allowed.reason


def test_the_word_of_a_silent_router_counts_for_three_seconds_then_nothing_is_touched() -> None:
    assert permission(word(), 2.9).send
    assert not permission(word(), 3.1).touch
    assert not permission(word(), 3.1).send
    down = word(primary={"web": "down", "dicom": "down"})
    assert not permission(down, 3.1).send
    assert not permission(None, 0.0).touch


def test_stores_in_doubt_are_told_by_service() -> None:
    heard = word(store={"web": None, "dicom": "down"})
    assert heard.doubts_stores("dicom")
    assert not heard.doubts_stores("web")


@pytest.mark.parametrize("bad", [{"mode": "asleep"}, {"primary": {"web": "green"}}, {"primary": None}])
def test_a_word_that_cannot_be_read_is_no_word(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        word(**bad)


@pytest.mark.parametrize("said", [{"forced": "backup"}, {}])
def test_a_forced_backup_interrupts_although_replication_went_on(said: dict[str, Any]) -> None:
    """A primary that was rolled back meanwhile has lost what nobody deleted: it is asked again."""
    forced = word(mode="forced", phase="on_backup", keep_replicating=True, **said)
    assert not interrupts(forced, forced)
    assert interrupts(forced, word(phase="failing_back"))
