"""What becomes of an error in our own code: it is logged once, and ends the one request that met it.

Every way into the proxy (a read, a timer, a sweep, a task) ends in `report` and in the `fault` of the
exchange or connection it was for; nobody else is harmed. The log names the type of the error and where it
arose: its text may hold what a caller sent, so it is never written.
"""

from __future__ import annotations

import structlog

from failover.errors import whence

_log = structlog.get_logger(__name__)


def report(error: Exception) -> None:
    _log.error("request met a fault of ours", error=type(error).__name__, where=whence(error))
