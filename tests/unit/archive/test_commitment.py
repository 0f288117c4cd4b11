"""What may be said to a modality that will delete its copy."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from failover.archive.commitment import (
    CLASS_CONFLICT,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    Known,
    Report,
    Request,
    RequestInvalid,
    decide,
    read_request,
    report_data_set,
)
from failover.dicom.data_sets import decoded, encoded
from failover.model import DebtState
from tests.unit.archive.objects import CT, uid

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
ONE = (CT, uid(1, 1, 1))


def known(state: DebtState = DebtState.PROVEN, *, proven: bool = True, **more: bool) -> dict[str, Known]:
    return {uid(1, 1, 1): Known(CT, state, proven, **more)}


@pytest.mark.parametrize(
    ("held", "by_primary", "reason"),
    [
        (known(), True, None),
        (known(DebtState.NONE), True, None),
        (known(DebtState.OWED, proven=False), False, None),
        (known(DebtState.REFUSED, proven=False), True, PROCESSING_FAILURE),
        (known(DebtState.REFUSED, proven=False), False, None),
        (known(DebtState.DELETED, proven=False), False, NO_SUCH_INSTANCE),
        (known(in_doubt=True), True, PROCESSING_FAILURE),
        (known(in_doubt=True), False, PROCESSING_FAILURE),
        (known(is_gone=True), True, None),
        (known(DebtState.OWED, proven=False, is_gone=True), False, PROCESSING_FAILURE),
        ({uid(1, 1, 1): Known("1.2.3", DebtState.PROVEN, True)}, True, CLASS_CONFLICT),
        ({}, True, NO_SUCH_INSTANCE),
        ({}, False, NO_SUCH_INSTANCE),
    ],
)
def test_what_is_said_of_one_object(held: dict[str, Known], by_primary: bool, reason: int | None) -> None:
    report = decide([ONE], held, by_primary=by_primary, waited_long=False)
    expected = Report((ONE,), ()) if reason is None else Report((), ((ONE, reason),))
    assert report == expected
    assert expected.event_type == (1 if reason is None else 2)


@pytest.mark.parametrize("state", [DebtState.OWED, DebtState.SENT, DebtState.NONE])
def test_what_is_not_proven_is_waited_for_and_then_said_to_be_missing(state: DebtState) -> None:
    held = known(state, proven=False)
    missing = (CT, uid(2, 1, 1))
    assert decide([ONE, missing], held, by_primary=True, waited_long=False) is None
    assert decide([ONE, missing], held, by_primary=True, waited_long=True) == Report(
        (), ((ONE, PROCESSING_FAILURE), (missing, NO_SUCH_INSTANCE))
    )


def a_request(**attributes: object) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ONE
    request = Dataset()
    request.TransactionUID = "1.2.3.4"
    request.ReferencedSOPSequence = [item]
    for keyword, value in attributes.items():
        setattr(request, keyword, value)
    return request


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_request_is_read_and_its_report_written(syntax: str) -> None:
    assert read_request(encoded(a_request(), syntax), syntax) == Request("1.2.3.4", (ONE,))
    report = Report((ONE,), (((CT, uid(2)), NO_SUCH_INSTANCE),))
    event = decoded(report_data_set("1.2.3.4", report, "PACS", syntax), syntax)
    assert (event.TransactionUID, event.RetrieveAETitle) == ("1.2.3.4", "PACS")
    assert event.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == ONE[1]
    assert event.FailedSOPSequence[0].FailureReason == NO_SUCH_INSTANCE
    nothing = decoded(report_data_set("1.2.3.4", Report((), report.failed), "PACS", syntax), syntax)
    assert "ReferencedSOPSequence" not in nothing


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 9,
        encoded(a_request(TransactionUID="no uid"), EXPLICIT),
        encoded(a_request(ReferencedSOPSequence=[]), EXPLICIT),
        encoded(a_request(ReferencedSOPSequence=[Dataset()]), EXPLICIT),
    ],
)
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestInvalid):
        read_request(raw, EXPLICIT)
