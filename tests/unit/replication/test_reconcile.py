"""What has to be fetched of a study, and what a window and a coverage are: pure, by tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from failover.replication.reconcile import (
    SETTLED_AFTER_S,
    Known,
    Need,
    PatientFacts,
    StudyInArchive,
    StudyOnPrimary,
    compare,
    coverage,
    is_evicted,
    missing_instances,
    newest_first,
    parse_day,
    recent_days,
    stood,
    sweep_share,
    window_days,
    window_from,
)

TODAY = date(2026, 3, 10)
FACTS = PatientFacts("4711", "SITE", "Müller^Jürgen", "19560314", "A1")


def on_primary(count: int | None = 10, facts: PatientFacts = FACTS) -> StudyOnPrimary:
    return StudyOnPrimary("1.2", "20260310", "070000", facts, count)


@pytest.mark.parametrize(
    ("count", "archive", "known", "need", "missing"),
    [
        (10, None, Known(), Need.MISSING, 10),
        (10, StudyInArchive(0), Known(), Need.MISSING, 10),
        (None, None, Known(), Need.MISSING, 1),
        (10, StudyInArchive(10), Known(), Need.NOTHING, 0),
        (10, StudyInArchive(7), Known(), Need.MISSING, 3),
        (10, StudyInArchive(12), Known(), Need.MISSING, 0),  # a look tells which vanished there
        (10, StudyInArchive(12), Known(looked=(10, 12)), Need.NOTHING, 0),
        # Split: five of the archive's ten are not on the primary, so five of the primary's are missing.
        (10, StudyInArchive(10, not_on_primary=5), Known(), Need.MISSING, 5),
        # Sent but not proven yet: the counts may agree, only a look can tell.
        (5, StudyInArchive(10, not_on_primary=5), Known(), Need.MISSING, 0),
        (5, StudyInArchive(10, not_on_primary=5), Known(looked=(5, 10)), Need.NOTHING, 0),
        (6, StudyInArchive(10, not_on_primary=5), Known(looked=(5, 10)), Need.MISSING, 1),
    ],
)
def test_counts(
    count: int | None, archive: StudyInArchive | None, known: Known, need: Need, missing: int
) -> None:
    finding = compare(on_primary(count), archive and replace(archive, facts=FACTS), known)
    assert (finding.need, finding.missing) == (need, missing), finding.reason


@pytest.mark.parametrize("field", ["patient_id", "issuer", "name", "birth_date", "accession"])
def test_a_changed_attribute_fetches_the_study_again(field: str) -> None:
    changed = replace(FACTS, **{field: "other"})
    finding = compare(on_primary(facts=changed), StudyInArchive(10, facts=FACTS), Known(10))
    assert finding.need is Need.EVERYTHING


def test_what_one_side_does_not_say_is_no_change() -> None:
    silent = replace(FACTS, issuer=None)
    assert compare(on_primary(facts=silent), StudyInArchive(10, facts=FACTS), Known()).need is Need.NOTHING
    assert compare(on_primary(), StudyInArchive(10, facts=silent), Known()).need is Need.NOTHING


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("Doe^Jane", "Doe^Jane^^^"), ("Doe^Jane=", "Doe^Jane"), ("Doe ^Jane ", "Doe^Jane"), ("", "^")],
)
def test_padding_of_a_name_is_no_change(ours: str, theirs: str) -> None:
    assert not PatientFacts(name=ours).contradicts(PatientFacts(name=theirs))


def test_a_primary_that_contradicts_its_own_objects_is_asked_once() -> None:
    """Its search says another name than its objects: after one fetch of all we know."""
    says = replace(FACTS, name="M?ller^J?rgen")
    archive = StudyInArchive(10, facts=FACTS)
    assert compare(on_primary(facts=says), archive, Known()).need is Need.EVERYTHING
    assert compare(on_primary(facts=says), archive, Known(10, brought_facts=says)).need is Need.NOTHING
    later = replace(FACTS, name="Other")
    assert compare(on_primary(facts=later), archive, Known(10, brought_facts=says)).need is Need.EVERYTHING


def test_a_changed_study_half_replaced_stays_due() -> None:
    """The archive's attributes are the new ones already, but not all instances came."""
    known = Known(10, need=Need.EVERYTHING)
    assert compare(on_primary(), StudyInArchive(10, facts=FACTS), known).need is Need.EVERYTHING


def test_a_primary_that_does_not_count_is_looked_at_ever_more_rarely() -> None:
    def due(stood_s: float, looked_at_s: float) -> bool:
        known = Known(5, stood_s, looked=(5, 5), missing=0, looked_at_s=looked_at_s)
        return compare(on_primary(None), StudyInArchive(5, facts=FACTS), known).need is Need.MISSING

    assert not due(5, 0)
    assert due(10, 0)
    assert not due(3_000, 2_800)
    assert due(3_000, 2_700)
    assert not due(SETTLED_AFTER_S, 0)
    known = Known(5, SETTLED_AFTER_S, looked=(5, 5), missing=0)
    changed = compare(on_primary(None), StudyInArchive(4, facts=FACTS), known)
    assert changed.need is Need.MISSING, "the archive has lost one since"


def test_a_count_stands_until_it_changes() -> None:
    assert stood(Known(), 10, 30) == 0
    assert stood(Known(10, 100), 10, 30) == 130
    assert stood(Known(10, 100), 11, 30) == 0
    assert not Known(10, SETTLED_AFTER_S - 1).settled
    assert Known(10, SETTLED_AFTER_S).settled


def test_newest_first() -> None:
    studies = [
        replace(on_primary(), study_instance_uid=uid, study_date=day, study_time=time)
        for uid, day, time in [("a", "20260309", "1"), ("b", "20260310", "07"), ("c", "20260310", "08")]
    ]
    assert [s.study_instance_uid for s in newest_first(studies)] == ["c", "b", "a"]


def test_each_poll_looks_from_yesterday_to_tomorrow() -> None:
    assert recent_days(TODAY) == (date(2026, 3, 9), date(2026, 3, 11))


def test_the_window_is_swept_once_an_hour() -> None:
    days, carried = 0, 0.0
    for _ in range(360):
        count, carried = sweep_share(92, 10.0, carried)
        assert count <= 1
        days += count
    assert days in (91, 92)
    assert sweep_share(92, 1e9, 0.0)[0] == 92


def test_the_window_ends_before_the_last_day_that_was_not_found_whole() -> None:
    days = window_days(TODAY, 5)
    assert days[0] == date(2026, 3, 11)
    assert days[-1] == date(2026, 3, 5)
    every = set(days)
    assert window_from(TODAY, days, every, set()) == date(2026, 3, 5)
    assert window_from(TODAY, days, every, {date(2026, 3, 7)}) == date(2026, 3, 8)
    assert window_from(TODAY, days, every - {date(2026, 3, 9)}, set()) == TODAY
    assert window_from(TODAY, days, every, {TODAY}) is None
    assert window_from(TODAY, days, set(), set()) is None
    assert window_from(TODAY, days, every, {TODAY + timedelta(days=1)}) == date(2026, 3, 5)


def test_coverage() -> None:
    assert coverage(0, 0) == 1.0
    assert coverage(200, 50) == 0.75
    assert coverage(10, 20) == 0.0


@pytest.mark.parametrize(
    ("text", "day"),
    [("20260310", TODAY), ("2026.03.10", TODAY), ("", None), ("20260230", None), ("2026", None)],
)
def test_days(text: str, day: date | None) -> None:
    assert parse_day(text) == day


def test_missing_instances_keep_the_primarys_order() -> None:
    assert missing_instances({"3": None, "1": None, "2": None}, {"1"}) == ["3", "2"]


@pytest.mark.parametrize(
    ("study_date", "archive", "until", "left_out"),
    [
        ("20260301", None, None, False),
        ("20260301", None, "20260301", True),
        ("20260302", None, "20260301", False),
        ("20260201", StudyInArchive(3), "20260301", False),  # held: what is added to it still comes
        ("20260302", StudyInArchive(3, evicted=True), "20260101", True),
        ("", None, "20260301", False),
    ],
)
def test_what_went_for_space_and_what_is_older_stays_away(
    study_date: str, archive: StudyInArchive | None, until: str | None, left_out: bool
) -> None:
    assert is_evicted(study_date, archive, until) is left_out


def test_of_an_evicted_study_only_a_correction_is_fetched() -> None:
    left = StudyInArchive(4, facts=FACTS, evicted=True)
    finding = compare(on_primary(), left, Known())
    assert (finding.need, finding.missing, finding.evicted) == (Need.NOTHING, 6, True)
    corrected = on_primary(facts=replace(FACTS, name="Maier^Jürgen"))
    assert compare(corrected, left, Known()).need is Need.HELD
    assert compare(corrected, left, Known(brought_facts=corrected.facts)).need is Need.NOTHING
    assert compare(corrected, replace(left, instances=0), Known()).need is Need.NOTHING
