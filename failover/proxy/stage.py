"""Where one request is in its course. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Stage(IntEnum):
    WAITING = 0  # for the next round, or for stores to be let go
    ASKING = 1  # at an upstream
    ANSWERING = 2  # the caller has a byte of the answer
    TUNNEL = 3
    COPYING = 4  # a store that the primary took waits for its copy
    ENDED = 5


# Bound once: on Python 3.11 reading a member from its class costs 0.2 µs, and each request reads forty.
WAITING: Final = Stage.WAITING
ASKING: Final = Stage.ASKING
ANSWERING: Final = Stage.ANSWERING
ENDED: Final = Stage.ENDED
