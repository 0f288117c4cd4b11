"""What becomes of objects that the primary does not show any more (DESIGN 4.4). Pure.

What the last comparison still saw is debt: a primary restored from last night's dump has lost it. What was
gone before was deleted there: hidden, and never sent back. Where much has vanished at once, nobody but an
operator knows which of the two it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MANY_STUDIES: Final = 20
SMALL_SHARE: Final = 0.005
FEW_STUDIES: Final = 3
OWED: Final = "owed"
DELETED: Final = "deleted"


@dataclass(frozen=True, slots=True)
class Gone:
    """An object that the archive holds, owes nothing of, and the primary does not show."""

    sop_instance_uid: str
    study_instance_uid: str
    seen: bool  # by the last comparison


@dataclass(frozen=True, slots=True)
class Judgement:
    owed: tuple[str, ...] = ()  # SOP instance UIDs
    deleted: tuple[str, ...] = ()
    waits: bool = False  # for an operator
    reason: str = "nothing has vanished"


def are_many(vanished: int, of_studies: int) -> bool:
    """Whether so many of `of_studies` studies have vanished that a person must say what that means."""
    return vanished > MANY_STUDIES or (vanished >= FEW_STUDIES and vanished > SMALL_SHARE * of_studies)


def judge(gone: Sequence[Gone], of_studies: int, decision: str | None, lately: int = 0) -> Judgement:
    """Return what to do with `gone`; `lately` studies more were judged a short while ago.

    `decision`: owed or deleted, as an operator said of all of them; None: none has.
    """
    studies = {one.study_instance_uid for one in gone}
    if not studies:
        return Judgement()
    if decision == OWED:
        return Judgement(owed=_uids(gone), reason="an operator decided: it is debt")
    if decision == DELETED:
        return Judgement(deleted=_uids(gone), reason="an operator decided: it was deleted")
    if are_many(len(studies) + lately, of_studies):
        return Judgement(waits=True, reason="too many studies vanished: an operator must decide")
    return Judgement(
        owed=_uids(one for one in gone if one.seen),
        deleted=_uids(one for one in gone if not one.seen),
        reason="what the last comparison saw is debt, what was gone before was deleted",
    )


def _uids(gone: Iterable[Gone]) -> tuple[str, ...]:
    return tuple(one.sop_instance_uid for one in gone)
