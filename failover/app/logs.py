"""How our processes log: one line per fact on standard error, key=value, no patient data."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def set_up(component: str, *, level: str | None = None) -> None:
    """Log to standard error as `component`; the level is FAILOVER_LOG, else info."""
    wanted = (level or os.environ.get("FAILOVER_LOG", "info")).upper()
    number = getattr(logging, wanted, logging.INFO)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(number),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "component", "event"], drop_missing=True, bool_as_flag=False
            ),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(component=component)
    # Libraries that use the standard logging: their warnings only, without arguments that may hold names.
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.ERROR,
        format="level=%(levelname)s library=%(name)s event=%(message)r",
    )
    logging.getLogger("aiohttp.server").addFilter(no_caller_left)


def no_caller_left(record: logging.LogRecord) -> bool:
    """Whether the record is of anything but a caller that went away, which is no fault and wants no trace."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ConnectionError)
