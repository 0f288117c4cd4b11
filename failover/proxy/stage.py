"""Where one request is in its course. Pure."""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    WAITING = 0  # for the next round, or for stores to be let go
    ASKING = 1  # at an upstream
    ANSWERING = 2  # the caller has a byte of the answer
    TUNNEL = 3
    COPYING = 4  # a store that the primary took waits for its copy
    ENDED = 5
