"""Whether a password is that of a user: one at a time, in a thread, and no address may try without end.

`Passwords` looks itself. A web worker beside the router asks it instead (`PasswordCheck`), so that tries are
counted, and passwords checked, in one place for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from failover.clock import Clock
from failover.credentials.attempts import Attempts
from failover.credentials.password_file import PasswordFile

# One thread: passwords must not take more than one processor. What waits beyond this is refused.
_MOST_WAITING: Final = 32


class Busy(Exception):
    """It cannot be looked at now: try again."""


class Tried(NamedTuple):
    """What became of a try. With `wait_s` the password was not looked at: the address must wait so long."""

    fits: bool
    wait_s: float = 0.0


class PasswordCheck(Protocol):
    def kept_of(self, user: str) -> str | None:
        """Return the user's password as it is kept, None: no such user."""

    async def by_form(self, user: str, password: str, address: str) -> Tried:
        """A try at the login page. Raises Busy."""

    async def by_basic(self, user: str, password: str, address: str) -> Tried:
        """A try by `Authorization: Basic`. Raises Busy."""

    def close(self) -> None: ...


class Passwords:
    """Checks users of the password file."""

    def __init__(
        self, users: PasswordFile, clock: Clock, counts: Callable[[str], None] = lambda result: None
    ) -> None:
        """`counts` is told how each try ended: accepted, refused, too_often, busy."""
        self._users = users
        self._counts = counts
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")
        self._waiting = 0
        self._of_form = Attempts()
        self._of_basic = Attempts()

    def kept_of(self, user: str) -> str | None:
        kept = self._users.hash_of(user)
        return None if kept is None else str(kept)

    async def by_form(self, user: str, password: str, address: str) -> Tried:
        return await self._try(user, password, address, self._of_form)

    async def by_basic(self, user: str, password: str, address: str) -> Tried:
        return await self._try(user, password, address, self._of_basic)

    async def _try(self, user: str, password: str, address: str, attempts: Attempts) -> Tried:
        wait_s = attempts.wait_s(address, self._clock.monotonic())
        if wait_s > 0:
            self._counts("too_often")
            return Tried(False, wait_s)
        if self._waiting >= _MOST_WAITING:
            self._counts("busy")
            raise Busy
        self._users.hash_of(user)  # reads the file again when it has changed
        # Counted before it is known: a hundred at once are a hundred tries.
        attempts.failed(address, self._clock.monotonic())
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            fits = await loop.run_in_executor(self._thread, self._users.fits, user, password)
        finally:
            self._waiting -= 1
        if fits:
            attempts.forgive(address)
        self._counts("accepted" if fits else "refused")
        return Tried(fits)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
