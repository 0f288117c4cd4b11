"""What is done with each DIMSE operation when its upstream fails: a table. Pure.

How it is kept, whether it may be repeated, which statuses move it and what the caller gets when nobody can
answer. The shells that carry it out are `search`, `store`, `retrieve` and `plain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from failover.dicom.dimse import Category, CommandField, Status, category
from failover.model import Part
from failover.routing.selection import Kind

Ranges = tuple[tuple[int, int], ...]  # of statuses, both ends included


class Keep(StrEnum):
    """How what flows through is kept until it is acknowledged."""

    NONE = "none"  # it streams by
    MEMORY = "memory"  # identifiers: short, whole
    SPOOL = "spool"  # instances: memory, then disk, bounded


class OnLoss(StrEnum):
    """What becomes of an operation whose upstream died, hangs or broke the protocol."""

    REPEAT = "repeat"  # asked again, whole, of the other upstream
    FINISH = "finish"  # what is kept goes to the other upstream
    FAIL = "fail"  # never repeated once a byte was sent: ends with its `lost` status


class Shape(StrEnum):
    """Which messages belong to it."""

    SEARCH = "search"  # one request, any number of pending responses, one final one: C-ECHO, C-FIND, C-MOVE
    RETRIEVE = "retrieve"  # as SEARCH, with C-STORE sub-operations the other way: C-GET
    STORE = "store"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Operation:
    """The policy of one operation."""

    name: str
    shape: Shape
    kind: Kind
    part: Part
    keep: Keep
    on_loss: OnLoss
    lost: int  # status when nobody could answer: transient ones, so that the caller may try again
    silent_s: float = 300.0  # without a byte of the upstream for so long it counts as lost
    moving: Ranges = ()  # final statuses that speak of the upstream, not of the request
    of_object: Ranges = ()  # those that speak of the object, unless `object_statuses`

    @property
    def whole_anywhere(self) -> bool:
        """Whether its success says the same wherever it was done: nobody waits for the primary to do it."""
        return self.name in ("C-ECHO", "C-STORE")

    def moves(self, status: int) -> bool:
        """Return whether a final response with `status` is asked of the other upstream."""
        return any(low <= status <= high for low, high in self.moving)

    def speaks_of_object(self, status: int) -> bool:
        """Return whether `status` finds fault with the object: passed on, and no fault of the upstream."""
        return any(low <= status <= high for low, high in self.of_object)


_A7: Final = (0xA700, 0xA7FF)
_C: Final = (0xC000, 0xCFFF)
_A9: Final = (0xA900, 0xA9FF)
_0110: Final = (0x0110, 0x0110)
_0122: Final = (0x0122, 0x0122)

_OPERATIONS: Final[Mapping[int, Operation]] = {
    CommandField.C_ECHO_RQ: Operation(
        "C-ECHO", Shape.SEARCH, Kind.READ, Part.REACH, Keep.MEMORY, OnLoss.REPEAT,
        Status.PROCESSING_FAILURE, 60.0, (_0110, _A7),
    ),
    CommandField.C_FIND_RQ: Operation(
        "C-FIND", Shape.SEARCH, Kind.READ, Part.QUERY, Keep.MEMORY, OnLoss.REPEAT,
        Status.OUT_OF_RESOURCES, 300.0, (_0110, _A7, _C),
    ),
    CommandField.C_MOVE_RQ: Operation(
        "C-MOVE", Shape.SEARCH, Kind.READ, Part.RETRIEVE, Keep.MEMORY, OnLoss.REPEAT,
        Status.UNABLE_TO_PERFORM, 900.0, (_0110, _A7, _C),
    ),
    CommandField.C_GET_RQ: Operation(
        "C-GET", Shape.RETRIEVE, Kind.READ, Part.RETRIEVE, Keep.SPOOL, OnLoss.REPEAT,
        Status.UNABLE_TO_PERFORM, 900.0, (_0110, _A7, _C),
    ),
    CommandField.C_STORE_RQ: Operation(
        "C-STORE", Shape.STORE, Kind.STORE, Part.STORE, Keep.SPOOL, OnLoss.FINISH,
        Status.OUT_OF_RESOURCES, 120.0, (_0110, _A7), (_A9, _C, _0122),  # PS3.4 B.2.3
    ),
}  # fmt: skip


def known_operations() -> tuple[Operation, ...]:
    """Return the policies of the DIMSE-C services."""
    return tuple(_OPERATIONS.values())


def operation(field: int) -> Operation:
    """Return the policy for a request with this command field; N-services and unknown ones pass plainly."""
    known = _OPERATIONS.get(field)
    if known is not None:
        return known
    try:
        name = CommandField(field).word
    except ValueError:
        name = "unknown"
    return Operation(
        name, Shape.PLAIN, Kind.OTHER, Part.REACH, Keep.NONE, OnLoss.FAIL, Status.PROCESSING_FAILURE
    )


class Judgement(StrEnum):
    """What becomes of a final response."""

    PASS = "pass"  # to the caller
    MOVE = "move"  # the other upstream is asked; if it has nothing better, this one is passed on after all
    HOLLOW = "hollow"  # the backup's, while the primary is not down: it does not count (DESIGN 4.1)


def judge(
    policy: Operation,
    status: int,
    *,
    delivered: int,
    of_backup: bool,
    provisional: bool,
    primary_may: bool = False,
    upstream_at_fault: bool = False,
) -> Judgement:
    """Judge a final response. `delivered`: matches or instances that came before it. `upstream_at_fault`:
    what its status says of the object is no longer believed (`object_statuses`).

    What the caller cancelled, and a C-STORE or C-ECHO that succeeded, is whole anywhere. In doubt an empty
    search or retrieve of the backup, or a failure of any kind, goes back to the primary. `primary_may`: in
    backup mode the primary is up, and is asked for retrieves of what the backup does not hold (DESIGN 4.2).
    """
    kind = category(status)
    if kind is Category.CANCEL:
        return Judgement.PASS
    if of_backup and provisional:
        empty = policy.name in ("C-FIND", "C-GET", "C-MOVE") and delivered == 0
        if kind is Category.FAILURE or empty:
            return Judgement.HOLLOW
    elif of_backup and primary_may and policy.part is Part.RETRIEVE and delivered == 0:
        return Judgement.MOVE
    return Judgement.MOVE if upstream_at_fault or policy.moves(status) else Judgement.PASS
