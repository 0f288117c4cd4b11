"""Whose is the next message of a pynetdicom association: the operation's under way, and nobody else's.

pynetdicom stops its reactor thread before it sends a request, so that the answer goes to whoever asked. It
asks `_is_paused`, which is still true of the pause before when operations follow each other faster than the
reactor wakes: then the reactor may take the answer, finds it unexpected, and the operation ends without one.
Measured on a busy machine: one C-ECHO in some hundreds. Not pure: threads wait here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pynetdicom.association import Association

_LOOK_EVERY_S: Final = 0.01


def keep_answers(association: Association) -> None:
    """Let the reactor take no answer to `association`'s requests. To be called before the first request."""
    association._reactor_checkpoint = Checkpoint(association)


class Checkpoint(threading.Event):
    """Where a reactor waits while an operation is under way: paused is what waits here now."""

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association = association
        self.set()

    def clear(self) -> None:
        """Ask for a pause; what was said of an earlier one does not count."""
        super().clear()
        self._association._is_paused = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the pause. A reactor that was woken for the one before stays."""
        while not self.is_set():
            self._association._is_paused = True
            super().wait(_LOOK_EVERY_S)
        return True
