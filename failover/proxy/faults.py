"""What becomes of an error in our own code: it is logged once, and ends the one request that met it.

Every way into the proxy (a read, a timer, a sweep, a task) ends in `report` and in the `fault` of the
exchange or connection it was for; nobody else is harmed. The log names the type of the error and where it
arose: its text may hold what a caller sent, so it is never written.
"""

from __future__ import annotations

import traceback
from pathlib import PurePath
from typing import Final

import structlog

_log = structlog.get_logger(__name__)
# The innermost calls: where it arose, and what led there.
_CALLS: Final = 4


def report(error: Exception) -> None:
    calls = traceback.extract_tb(error.__traceback__)[-_CALLS:]
    where = " < ".join(f"{PurePath(call.filename).name}:{call.lineno}" for call in reversed(calls))
    _log.error("request met a fault of ours", error=type(error).__name__, where=where)
