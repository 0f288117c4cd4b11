"""When a sent object is asked for, when it is sent again, and when it counts as refused. Pure.

A success status proves nothing: an object is proven when the primary shows it, asked after the send, under
the same study and patient ID. It is asked again with growing distance before it is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Seconds between a send and its first question, and between one question and the next. A PACS files an object
# within seconds; one that needs longer is not sent it a second time for that.
ASK_AFTER_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 15.0, 45.0, 120.0)
# What got no answer was cut off on its way, if not all of it had arrived by then.
ASK_UNANSWERED_AFTER_S: Final = ASK_AFTER_S[:4]
REFUSED_AFTER: Final = 3
# Objects in a row that failed: from then on one is sent at a time, every PROBE_EVERY_S, until one is proven.
FAILING_AFTER: Final = 3
PROBE_EVERY_S: Final = 10.0
# How long an object waits after a failed attempt; the last one counts for all further ones.
_AGAIN_AFTER_S: Final = (2.0, 5.0, 15.0, 30.0, 60.0)


def next_question_s(asked: int, *, answered: bool = True) -> float | None:
    """Return how long to wait before question number `asked` + 1; None: send the object again.

    `answered`: whether the primary said that it took the object.
    """
    after_s = ASK_AFTER_S if answered else ASK_UNANSWERED_AFTER_S
    return after_s[asked] if asked < len(after_s) else None


def again_after_s(failures: int) -> float:
    """Return how long an object waits after its failure number `failures` (from 1)."""
    return _AGAIN_AFTER_S[min(max(failures, 1), len(_AGAIN_AFTER_S)) - 1]


def is_permanent(failure_reason: int | None) -> bool:
    """Whether a status speaks of that object (PS3.4 B.2.3, PS3.7 C.5): 0xA9xx, 0xCxxx, 0x0122.

    All others may pass: out of resources (0xA7xx), processing failure (0x0110), an HTTP status alone.
    """
    if failure_reason is None:
        return False
    return (
        0xA900 <= failure_reason <= 0xA9FF or 0xC000 <= failure_reason <= 0xCFFF or failure_reason == 0x0122
    )


@dataclass(frozen=True, slots=True)
class Refusals:
    """How often an object was refused for good, and how many others were taken since the first time."""

    times: int = 0
    others_taken: int = 0

    @property
    def final(self) -> bool:
        """Three times, while the primary took others: the object is at fault, not the primary."""
        return self.times >= REFUSED_AFTER and self.others_taken > 0


class StoreHealth:
    """What our own stores by one service say of the primary: there is no probe for them.

    The totals only grow, so that who reads them now and then misses nothing.
    """

    def __init__(self) -> None:
        self.failed_in_a_row = 0
        self.failed_total = 0
        self.accepted_total = 0
        self.proven_total = 0

    @property
    def failing(self) -> bool:
        return self.failed_in_a_row >= FAILING_AFTER

    def failed(self) -> None:
        """A transient failure, or no answer. A permanent refusal speaks of its object alone."""
        self.failed_in_a_row += 1
        self.failed_total += 1

    def accepted(self) -> None:
        """It took one. Only a proof ends a row of failures: Orthanc says success on a full disk."""
        self.accepted_total += 1

    def proven(self) -> None:
        self.proven_total += 1
        self.failed_in_a_row = 0
