"""Storage commitment (PS3.4 annex J): what is asked, what may be said of each object, and the report. Pure.

A modality deletes what is committed. So nothing is, unless whoever `archive.commitment` names has it: the
primary, shown by a proof, or this archive. What is owed waits for its proof; what is not here fails at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset

from failover.dicom.data_sets import decoded, encoded
from failover.errors import FailoverError, UnreadableDataSet
from failover.model import DebtState, parse_uid

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
REQUEST_COMMITMENT: Final = 1  # action type (PS3.4 J.3.2.1)
ALL_COMMITTED: Final = 1  # event types (PS3.4 J.3.3.1)
SOME_FAILED: Final = 2
MAX_OBJECTS: Final = 10_000

# Failure reasons (PS3.4 J.3.3.1.1.1, PS3.3 C.14.1.1).
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_CONFLICT: Final = 0x0119

Reference = tuple[str, str]  # SOP class UID, SOP instance UID


class RequestInvalid(FailoverError):
    """Not a request for commitment. The message says what is wrong, and becomes the Error Comment."""


@dataclass(frozen=True, slots=True)
class Request:
    transaction_uid: str
    objects: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """An object as the archive has it. `in_doubt`: another version of it lies in quarantine; `is_gone`: its
    file is missing or damaged here."""

    sop_class_uid: str
    state: DebtState
    is_proven: bool
    in_doubt: bool = False
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]  # with the reason

    @property
    def event_type(self) -> int:
        return SOME_FAILED if self.failed else ALL_COMMITTED


def read_request(raw: bytes, transfer_syntax: str) -> Request:
    """Return what an N-ACTION asks for. Raises RequestInvalid."""
    try:
        asked = decoded(raw, transfer_syntax)
        transaction = parse_uid(str(asked.TransactionUID))
        objects = tuple(
            (parse_uid(str(item.ReferencedSOPClassUID)), parse_uid(str(item.ReferencedSOPInstanceUID)))
            for item in asked.ReferencedSOPSequence
        )
    except (UnreadableDataSet, AttributeError, ValueError, TypeError):
        raise RequestInvalid("Transaction UID or Referenced SOP Sequence is missing") from None
    if not 1 <= len(objects) <= MAX_OBJECTS:
        raise RequestInvalid(f"1 to {MAX_OBJECTS} objects can be asked for")
    return Request(transaction, objects)


def decide(
    objects: Sequence[Reference], known: Mapping[str, Known], *, by_primary: bool, waited_long: bool
) -> Report | None:
    """Return what is to be reported; None: some object may yet be proven, and there is time.

    `by_primary`: what the primary is not shown to hold is not committed.
    """
    committed: list[Reference] = []
    failed: list[tuple[Reference, int]] = []
    for reference in objects:
        reason = _failure(reference, known.get(reference[1]), by_primary=by_primary)
        if reason is None:
            committed.append(reference)
        elif reason == _MAY_BE_PROVEN and not waited_long:
            return None
        else:
            failed.append((reference, PROCESSING_FAILURE if reason == _MAY_BE_PROVEN else reason))
    return Report(tuple(committed), tuple(failed))


_MAY_BE_PROVEN: Final = 0


def _failure(reference: Reference, held: Known | None, *, by_primary: bool) -> int | None:
    if held is None or held.state is DebtState.DELETED:
        return NO_SUCH_INSTANCE
    if held.sop_class_uid != reference[0]:
        return CLASS_CONFLICT
    if held.in_doubt or (held.state is DebtState.REFUSED if by_primary else held.is_gone):
        return PROCESSING_FAILURE
    if not by_primary or (held.is_proven and held.state in (DebtState.NONE, DebtState.PROVEN)):
        return None
    return _MAY_BE_PROVEN


def report_data_set(transaction_uid: str, report: Report, retrieve_ae: str, transfer_syntax: str) -> bytes:
    """Return the event information of an N-EVENT-REPORT (PS3.4 table J.3-2)."""
    event = Dataset()
    event.TransactionUID = transaction_uid
    if report.committed:
        event.RetrieveAETitle = retrieve_ae
        event.ReferencedSOPSequence = [_item(reference) for reference in report.committed]
    if report.failed:
        event.FailedSOPSequence = list(_failed_items(report.failed))
    return encoded(event, transfer_syntax)


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    return item


def _failed_items(failed: Iterable[tuple[Reference, int]]) -> Iterable[Dataset]:
    for reference, reason in failed:
        item = _item(reference)
        item.FailureReason = reason
        yield item
