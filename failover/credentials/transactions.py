"""Logins that are under way at the identity provider: begun by us, bound to one browser, redeemed once. Pure.

What belongs to a login lies in a cookie of the browser that began it, signed: `id.began.path.signature`.
State, nonce and the verifier of PKCE (RFC 7636) come from `id` and our key: the browser knows no verifier,
the provider no path, and nothing is kept here but the ids that were redeemed. Times are those of one process,
whose key it is: a login under way does not outlast it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

# Long enough to find the second factor; OAuth's codes live as long (RFC 6749 4.1.2).
LIFETIME_S: Final = 600
# Beyond it no login is redeemed until the oldest is over, rather than one twice.
_MOST_REDEEMED: Final = 16_384
_LONGEST: Final = 4096
# A longer way back is not kept: browsers refuse cookies of more than 4 KiB.
LONGEST_PATH: Final = 2001


class Transaction(NamedTuple):
    """One login under way."""

    id: str
    began_s: int
    to: str
    """The path that the caller wanted."""
    state: str
    nonce: str
    verifier: str

    @property
    def challenge(self) -> str:
        """RFC 7636 4.2, S256."""
        return _text(hashlib.sha256(self.verifier.encode()).digest())


class Transactions:
    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        """`random` gives so many bytes that nobody can guess."""
        self._key = key
        self._random = random
        self._redeemed: OrderedDict[str, int] = OrderedDict()  # and when; oldest first

    def begin(self, to: str, now_s: float) -> tuple[Transaction, str]:
        """Return a new login, which leads to the path `to`, and what its cookie holds."""
        name, began_s = _text(self._random(18)), int(now_s)
        path = to if len(to) <= LONGEST_PATH else ""
        signed = f"{name}.{began_s}.{_text(path.encode())}"
        return self._made(name, began_s, path), f"{signed}.{self._derived('cookie', signed)}"

    def find(self, state: str, shown: Iterable[str], now_s: float) -> Transaction | None:
        """Return the login of `state`, borne out by one of the cookies `shown`; None: there is none."""
        for cookie in shown:
            found = self._read(cookie, now_s)
            if found is not None and hmac.compare_digest(found.state.encode(), state.encode()):
                return found
        return None

    def redeem(self, state: str, shown: Iterable[str], now_s: float) -> Transaction | None:
        """As `find`; the same one is returned once."""
        found = self.find(state, shown, now_s)
        return found if found is not None and self._first_time(found, now_s) else None

    def _read(self, cookie: str, now_s: float) -> Transaction | None:
        signed, _, signature = cookie.rpartition(".")
        pieces = signed.split(".")
        if len(cookie) > _LONGEST or len(pieces) != 3:
            return None
        if not hmac.compare_digest(signature.encode(), self._derived("cookie", signed).encode()):
            return None
        name, began, path = pieces
        if not 0 <= now_s - int(began) <= LIFETIME_S:
            return None
        try:
            return self._made(name, int(began), base64.urlsafe_b64decode(path + "==").decode())
        except (ValueError, binascii.Error):
            return None

    def _first_time(self, one: Transaction, now_s: float) -> bool:
        while self._redeemed and now_s - next(iter(self._redeemed.values())) > LIFETIME_S:
            self._redeemed.popitem(last=False)
        if one.id in self._redeemed or len(self._redeemed) >= _MOST_REDEEMED:
            return False
        self._redeemed[one.id] = int(now_s)
        return True

    def _made(self, name: str, began_s: int, to: str) -> Transaction:
        state, nonce, verifier = (self._derived(what, name) for what in ("state", "nonce", "verifier"))
        return Transaction(name, began_s, to, state, nonce, verifier)

    def _derived(self, what: str, name: str) -> str:
        return _text(hmac.digest(self._key, f"{what}\0{name}".encode(), hashlib.sha256))


def began_of(cookie: bytes) -> int:
    """Return when the login of `cookie` began, unchecked: which of several is the oldest. 0: unreadable."""
    pieces = cookie.split(b".")
    return int(pieces[1]) if len(pieces) == 4 and pieces[1].isdigit() and len(pieces[1]) < 16 else 0


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
