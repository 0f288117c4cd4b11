"""What becomes of objects that the primary does not show any more (DESIGN 4.4). Pure.

What the last comparison still saw is debt: a primary restored from last night's dump has lost it. What was
gone before was deleted there: hidden, and never sent back. Where much has vanished at once, nobody but an
operator knows which of the two it was.
"""

from __future__ import annotations

from collections import Counter
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
    of_objects: int = 1  # how many of its study the primary must have, this one among them


@dataclass(frozen=True, slots=True)
class Judgement:
    owed: tuple[str, ...] = ()  # SOP instance UIDs
    deleted: tuple[str, ...] = ()
    waits: bool = False  # for an operator
    reason: str = "nothing has vanished"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much has vanished. `touched`: studies of which anything has; `lost`: the shares of them that have
    gone, added up, so that a study with one image of a hundred deleted is not a lost study."""

    touched: int = 0
    lost: float = 0.0

    def __add__(self, other: Extent) -> Extent:
        return Extent(self.touched + other.touched, self.lost + other.lost)


def extent(gone: Iterable[Gone]) -> Extent:
    """Return how much `gone` is."""
    missing: Counter[str] = Counter()
    held: dict[str, int] = {}
    for one in gone:
        missing[one.study_instance_uid] += 1
        held[one.study_instance_uid] = one.of_objects
    return Extent(len(missing), sum(min(1.0, count / max(1, held[uid])) for uid, count in missing.items()))


def are_many(vanished: Extent, of_studies: int) -> bool:
    """Whether so much of `of_studies` studies has vanished that a person must say what that means."""
    return vanished.touched > MANY_STUDIES or (
        vanished.lost >= FEW_STUDIES and vanished.lost > SMALL_SHARE * of_studies
    )


NOTHING_MORE: Final = Extent()


def judge(
    gone: Sequence[Gone], of_studies: int, decision: str | None, lately: Extent = NOTHING_MORE
) -> Judgement:
    """Return what to do with `gone`; `lately` was judged a short while ago.

    `decision`: owed or deleted, as an operator said of all of them; None: none has.
    """
    if not gone:
        return Judgement()
    if decision == OWED:
        return Judgement(owed=_uids(gone), reason="an operator decided: it is debt")
    if decision == DELETED:
        return Judgement(deleted=_uids(gone), reason="an operator decided: it was deleted")
    if are_many(extent(gone) + lately, of_studies):
        return Judgement(waits=True, reason="too many studies vanished: an operator must decide")
    return Judgement(
        owed=_uids(one for one in gone if one.seen),
        deleted=_uids(one for one in gone if not one.seen),
        reason="what the last comparison saw is debt, what was gone before was deleted",
    )


def _uids(gone: Iterable[Gone]) -> tuple[str, ...]:
    return tuple(one.sop_instance_uid for one in gone)
