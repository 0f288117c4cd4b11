"""What an upstream said of one instance that we sent, by STOW or by C-STORE. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Stored:
    """`accepted` is its word, no proof: a success status proves nothing (DESIGN 4.4)."""

    accepted: bool
    failure_reason: int | None = None  # PS3.4 B.2.3 and PS3.18 I.2.2: the same codes
    sentence: str = ""
    sent: bool = True


# What came behind one whose connection died: the upstream cannot have it.
NOT_SENT: Final = Stored(False, sentence="not sent: the connection ended before", sent=False)
