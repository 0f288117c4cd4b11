"""The long middle of an answer that nobody here reads: the kernel moves it from socket to socket, splice(2).

Which answers those are is said by `Answer.unread_bytes` and docs/adr/0010. The first read of a body and its
last bytes go the usual way, and so does all that is odd: at an end, an error, or a kernel that will not, what
is in the pipe is written and reading goes on, so that the usual path meets it. Back-pressure is that of the
sockets: at most one piece is in the pipe, and none is fetched before that is empty.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from failover.proxy.answer import Answer
    from failover.proxy.caller import CallerConnection
    from failover.proxy.upstream import UpstreamConnection

# Below it the descriptors cost more than the copies: an answer of more than 1 MiB, less what was read.
LEAST_BYTES: Final = 512 * 1024
# The usual path reads these, and so finds the end of the body and whatever stands behind it.
TAIL_BYTES: Final = 16 * 1024
# What one step moves at most, and what stays in the pipe for a caller who does not read.
PIECE_BYTES: Final = 2**20
# All that waits in pipes for callers; beyond it a step moves less, so that they do not hold memory.
STUCK_BYTES: Final = 32 * 2**20
SMALL_PIECE_BYTES: Final = 64 * 1024
# Steps at one wake-up, so that one fast answer does not starve the others.
_STEPS: Final = 4
_HERE: Final = hasattr(os, "splice")  # Linux
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if _HERE else 0


def begin(answer: Answer, connection: UpstreamConnection, caller: CallerConnection) -> None:
    """Let the kernel move the rest of `answer`, if it may and that pays; else nothing changes."""
    count = min(answer.unread_bytes, connection.unread_bytes) - TAIL_BYTES
    if not _HERE or count < LEAST_BYTES or caller.tls or caller.closed or connection.closed:
        return
    ends = [one.transport.get_extra_info("socket") for one in (connection, caller)]
    if None in ends:
        return
    descriptors: list[int] = []
    try:
        # Of their own: asyncio does not let a transport's descriptor be watched.
        descriptors += [os.dup(end.fileno()) for end in ends]
        descriptors += os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no descriptors left
        for descriptor in descriptors:
            os.close(descriptor)
        return
    with suppress(OSError):  # beyond what one user's pipes may hold: smaller steps
        fcntl.fcntl(descriptors[3], fcntl.F_SETPIPE_SZ, PIECE_BYTES)
    connection.pause_reading()
    connection.splice = splice = Splice(answer, connection, caller, descriptors, count)
    # What was written before must be out first: the transport says so when its buffer is empty.
    caller.transport.set_write_buffer_limits(high=0)
    if not caller.write_paused:
        splice.go()


class Splice:
    __slots__ = (
        "_answer", "_caller", "_connection", "_from", "_inside", "_into", "_left", "_loop", "_out", "_over",
        "_reading", "_stuck", "_to", "_writing",
    )  # fmt: skip
    all_stuck: ClassVar[int] = 0
    """Bytes in pipes whose callers do not take them."""

    def __init__(
        self, answer: Answer, connection: UpstreamConnection, caller: CallerConnection,
        descriptors: list[int], count: int,
    ) -> None:  # fmt: skip
        self._answer = answer
        self._connection = connection
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._from, self._to, self._out, self._into = descriptors
        self._left = count  # to be fetched from the upstream
        self._inside = 0  # in the pipe
        self._stuck = 0  # of it, when the caller took no more
        self._reading = self._writing = self._over = False

    def go(self) -> None:
        """All that was written before is out."""
        if not (self._reading or self._writing or self._over):
            self._reading = True
            self._loop.add_reader(self._from, self._move)

    def _move(self) -> None:
        try:
            for _ in range(_STEPS):
                if not self._inside and not self._fetch():
                    return
                if not self._pass_on():
                    return
        except Exception as error:
            self._caller.fault(error)

    def _fetch(self) -> bool:
        """Move a piece from the upstream into the pipe. Returns whether there is one."""
        count, most = 0, PIECE_BYTES if Splice.all_stuck < STUCK_BYTES else SMALL_PIECE_BYTES
        try:
            if self._left:
                count = os.splice(self._from, self._into, min(self._left, most), flags=_FLAGS)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a reset, most likely: met again by whoever reads
        if not count:
            self._hand_over()
            return False
        self._inside = count
        self._left -= count
        self._connection.fetched(count)
        return not self._over

    def _pass_on(self) -> bool:
        """Move what is in the pipe to the caller. Returns whether all of it went."""
        caller, count = self._caller, 0
        try:
            count = os.splice(self._out, self._to, self._inside, flags=_FLAGS)
        except BlockingIOError:
            pass
        except OSError:
            self._hand_over()  # met again by whoever writes
            return False
        if count:
            self._inside -= count
            self._answer.passed_by(count)
            caller.stirred = True
        if self._inside:
            self._await_caller()
            return False
        if self._writing:
            self._await_no_more()
            self.go()
        return True

    def _await_caller(self) -> None:
        if not self._writing:
            self._reading, self._writing = False, True
            self._loop.remove_reader(self._from)
            self._loop.add_writer(self._to, self._move)
            self._caller.write_paused = True
            self._stuck = self._inside
            Splice.all_stuck += self._stuck

    def _await_no_more(self) -> None:
        self._writing = self._caller.write_paused = False
        self._loop.remove_writer(self._to)
        Splice.all_stuck -= self._stuck

    def _hand_over(self) -> None:
        """From here on by the usual path."""
        rest = b""
        while len(rest) < self._inside:
            rest += os.read(self._out, self._inside - len(rest))
        self.stop()
        caller, connection = self._caller, self._connection
        caller.restore_limits()
        if rest:
            self._answer.data(caller, rest)
        if not caller.write_paused:
            connection.resume_reading()

    def stop(self) -> None:
        """Give the descriptors back. A socket ends only when nobody holds it any more."""
        if self._over:
            return
        self._over = True
        self._connection.splice = None
        if self._reading:
            self._loop.remove_reader(self._from)
        if self._writing:
            self._await_no_more()
        for descriptor in (self._from, self._to, self._out, self._into):
            os.close(descriptor)
