"""What was worked out from a PDU that comes again: kept with it, found by its identity, let go with it.

Which PDUs come again is `pdu`; none of them holds a user identity.
"""

from __future__ import annotations

from typing import Any, Final

_MOST: Final = 16  # a peer that answers the same RQ anew each time makes us work, not grow


class Derived:
    """What was worked out from one PDU, and from it together with another one."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], tuple[object, Any]] = {}

    def find(self, what: str, other: object = None) -> Any:
        """Return what was kept under this name, None when nothing was. `other`: this very object."""
        found = self._found.get((what, id(other)))
        return None if found is None else found[1]

    def keep(self, what: str, value: Any, other: object = None) -> None:
        """Keep `value`, which never changes; `other`, which never changes either, stays as long as it."""
        if len(self._found) >= _MOST:
            self._found.clear()
        self._found[what, id(other)] = (other, value)
