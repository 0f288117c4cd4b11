"""What the replicator's totals say of the primary's stores, one report after the other."""

from __future__ import annotations

import pytest

from failover.app.store_totals import StoreSent, StoreTotals, news, totals_of
from failover.model import Service

WEB = Service.WEB
FAILED = StoreSent(WEB, accepted=False, proven=False)
ACCEPTED = StoreSent(WEB, accepted=True, proven=False)
PROVEN = StoreSent(WEB, accepted=True, proven=True)


def between(before: StoreTotals | None, now: StoreTotals) -> list[StoreSent]:
    return list(news({} if before is None else {WEB: before}, {WEB: now}))


def test_the_first_report_is_only_where_counting_begins() -> None:
    assert between(None, StoreTotals(failed=9, accepted=9, proven=1)) == []


def test_what_happened_since_is_told_failures_first() -> None:
    told = between(StoreTotals(1, 5, 5), StoreTotals(2, 6, 6))
    assert told == [FAILED, ACCEPTED, PROVEN]


def test_many_failures_say_no_more_than_three() -> None:
    assert between(StoreTotals(), StoreTotals(failed=500)) == [FAILED] * 3


def test_nothing_new_says_nothing() -> None:
    assert between(StoreTotals(4, 3, 2), StoreTotals(4, 3, 2)) == []


def test_smaller_totals_are_those_of_another_replicator() -> None:
    assert between(StoreTotals(90, 90, 90), StoreTotals(failed=1)) == [FAILED]


def test_totals_are_read_by_service_and_nothing_else() -> None:
    read = totals_of({"dicom": {"failed": 1, "accepted": 2, "proven": 0}})
    assert read == {Service.DICOM: StoreTotals(1, 2, 0)}
    with pytest.raises(KeyError):
        totals_of({"web": {"failed": 1}})
    with pytest.raises(ValueError, match="fax"):
        totals_of({"fax": {"failed": 0, "accepted": 0, "proven": 0}})
