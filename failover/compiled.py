"""Whether the modules of web path and relay run compiled or as they are written; both behave alike."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES

from failover.http import head


def is_compiled() -> bool:
    """Whether a compiled module was found before its source."""
    return (head.__file__ or "").endswith(tuple(EXTENSION_SUFFIXES))
