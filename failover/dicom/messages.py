"""Where DIMSE messages begin and end in what a peer sends (PS3.7 and PS3.8 annex E). Pure.

Command sets are read whole; data sets are not looked at: they are fragments that stream by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from failover.dicom.dimse import Command, parse_command
from failover.dicom.units import Buffer, DataRun, Pdv
from failover.errors import MalformedMessage

MAX_COMMAND_BYTES: Final = 64 * 1024  # a legal command set has a few hundred bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A command set that arrived; when `has_data_set`, fragments of its data set follow."""

    context_id: int
    command: Command
    has_data_set: bool


class Fragment:
    """What came at once of the data set of the message before it. `run`: the PDUs in which it came."""

    __slots__ = ("is_last", "pieces", "run", "size")

    def __init__(
        self, pieces: Sequence[Buffer], size: int, is_last: bool, run: DataRun | None = None
    ) -> None:
        self.pieces = pieces
        self.size = size
        self.is_last = is_last
        self.run = run


def fragment_of(data: Buffer, *, is_last: bool) -> Fragment:
    """Return a fragment of one piece."""
    return Fragment((data,), len(data), is_last)


class MessageAssembler:
    """Turns PDVs into messages and fragments of their data sets; command sets are read whole."""

    def __init__(self, context_ids: Iterable[int]) -> None:
        self._context_ids = frozenset(context_ids)
        self._command = bytearray()
        self._context_id = 0  # of the message under way
        self._in_command = False
        self._in_data_set = False

    @property
    def in_message(self) -> bool:
        """Whether the peer has begun a message and not ended it."""
        return self._in_command or self._in_data_set

    @property
    def in_data_set(self) -> bool:
        """Whether fragments of a data set are still to come."""
        return self._in_data_set

    def receive(self, pdv: Pdv) -> Message | Fragment | None:
        """Return what `pdv` completes, None for a part of a command set. Raises MalformedMessage."""
        if pdv.context_id not in self._context_ids:
            raise MalformedMessage("a presentation context that was not accepted")
        if self.in_message and pdv.context_id != self._context_id:
            raise MalformedMessage("a fragment of another presentation context inside a message")
        if pdv.is_command:
            return self._receive_command(pdv)
        if not self._in_data_set:
            raise MalformedMessage("a fragment of a data set that no command set announced")
        if pdv.is_last:
            self._in_data_set = False
        elif not pdv.fragment:
            return None  # it says nothing, and a peer may send any number of them
        return fragment_of(pdv.fragment, is_last=pdv.is_last)

    def receive_run(self, run: DataRun) -> Fragment:
        """Return what came of a data set. Raises MalformedMessage."""
        if not self._in_data_set or run.context_id != self._context_id:
            raise MalformedMessage("fragments of a data set that no command set announced")
        if run.is_last:
            self._in_data_set = False
        return Fragment(run.pieces, run.size, run.is_last, run)

    def _receive_command(self, pdv: Pdv) -> Message | None:
        if self._in_data_set:
            raise MalformedMessage("a command set inside a data set")
        if len(self._command) + len(pdv.fragment) > MAX_COMMAND_BYTES:
            raise MalformedMessage(f"a command set of more than {MAX_COMMAND_BYTES} bytes")
        self._context_id = pdv.context_id
        self._in_command = True
        self._command += pdv.fragment
        if not pdv.is_last:
            return None
        command = parse_command(self._command)
        self._command = bytearray()
        self._in_command = False
        self._in_data_set = command.has_data_set
        return Message(pdv.context_id, command, command.has_data_set)
