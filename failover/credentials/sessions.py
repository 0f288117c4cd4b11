"""Our own sessions: a signed token in a cookie, so that none has to be kept. Pure but for what it is given.

`user.expiry.signature`: the signature covers the user's present password hash, so that a new password, or
a user taken out of the file, ends the sessions. The times are those of the machine, as they outlast restarts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Final

# A shift, with something to spare.
LIFETIME_S: Final = 43_200
_LONGEST: Final = 256


class Sessions:
    def __init__(self, key: bytes, kept_of: Callable[[str], str | None], now: Callable[[], float]) -> None:
        """`kept_of` gives the user's password as it is kept, None: no such user; `now` seconds since 1970."""
        self._kept_of = kept_of
        self._now = now
        self.change_key(key)

    def change_key(self, key: bytes) -> None:
        """Sign by this key; the sessions of another end."""
        self._key = hmac.digest(key, b"session", hashlib.sha256)

    def token(self, user: str) -> bytes:
        """Return a new session for `user`, who has shown the password. Raises KeyError: no such user."""
        kept = self._kept_of(user)
        if kept is None:
            raise KeyError("no such user")
        until = int(self._now()) + LIFETIME_S
        name = base64.urlsafe_b64encode(user.encode()).rstrip(b"=")
        return b"%b.%d.%b" % (name, until, self._sign(user, until, kept))

    def user_of(self, token: bytes) -> str | None:
        """Return whose session `token` is, None when it is none, or over."""
        pieces = token.split(b".")
        if len(token) > _LONGEST or len(pieces) != 3 or not pieces[1].isdigit():
            return None
        try:
            user = base64.urlsafe_b64decode(pieces[0] + b"=" * (-len(pieces[0]) % 4)).decode()
        except (ValueError, binascii.Error):
            return None
        until, now_s = int(pieces[1]), self._now()
        # Longer than a session lasts: the clock was set back, or somebody knows how to sign.
        if not now_s < until <= now_s + LIFETIME_S + 60:
            return None
        kept = self._kept_of(user)
        if kept is None:
            return None
        return user if hmac.compare_digest(pieces[2], self._sign(user, until, kept)) else None

    def _sign(self, user: str, until: int, kept: str) -> bytes:
        digest = hmac.digest(self._key, f"{user}\0{until}\0{kept}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=")
