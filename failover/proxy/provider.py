"""Logins by the hospital's identity provider: what the pages of `provider_pages` ask for, and what they get.

Who looks, `provider_logins`, is the router alone: it keeps what was redeemed, counts tries, and talks to the
provider. A web worker beside it asks it (`app.shared_logins`), as for passwords.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol


class Outcome(StrEnum):
    """How a return from the provider ended."""

    ACCEPTED = "accepted"
    STALE = "stale"
    """No login of this browser that is under way: too late, done already, or begun elsewhere."""
    REFUSED = "refused"
    """The provider, or what it sent, does not bear the caller out."""
    NOT_ALLOWED = "not_allowed"
    """Known there, and in none of the groups that may."""
    TOO_OFTEN = "too_often"
    UNAVAILABLE = "unavailable"
    BUSY = "busy"


class Begun(NamedTuple):
    location: str
    """Where the browser goes."""
    id: str
    cookie: str


class Returned(NamedTuple):
    """What the browser brings back (RFC 6749 4.1.2, RFC 9207); "" for what it does not."""

    state: str
    code: str
    error: str
    issuer: str
    cookies: Sequence[str]
    """What it holds of logins under way."""


class Finished(NamedTuple):
    outcome: Outcome
    user: str = ""
    """Whose session begins; "" unless accepted."""
    who: str = ""
    """How the provider calls the user: for the log."""
    to: str = ""
    """The path that was wanted; "": unknown."""
    wait_s: float = 0.0


class ProviderCheck(Protocol):
    origin: str
    """How browsers reach us, as in `https://pacs.example`."""
    stamp: str
    """What sessions are signed with: when it changes, they end."""

    def start(self) -> None: ...

    async def begin(self, to: str) -> Begun:
        """Begin a login that leads to the path `to`. Raises ProviderUnavailable."""

    async def finish(self, returned: Returned, address: str) -> Finished: ...

    async def close(self) -> None: ...
