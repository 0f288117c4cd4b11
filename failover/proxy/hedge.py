"""When a slow read is asked of the backup too, while the primary is up (DESIGN 4.2). Pure: time is an input.

1. Only one named instance, or something of it: the object itself, frames, bulk data, metadata. Never a
   search, never a series or study (what the archive lacks of it would read as "there is no more"), never a
   picture (two renderers differ), never a range or a condition (206 and 304 speak of one system's bytes).
2. Only where the primary itself gave this caller, who showed the same, something of the same study a short
   while ago: so a slow 401 or 403 is never beaten.
3. After the time within which nearly all of its kind have begun, between two bounds.
4. Only a small part of all: slowness of the primary must not double the load on the backup.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import OrderedDict
from enum import StrEnum
from typing import Final, NamedTuple

from failover.config.schema import Hedge as HedgePolicy
from failover.http.head import AnswerHead, RequestHead
from failover.proxy.classify import Asked, WebRoute
from failover.proxy.rewrite import binds_connection

QUANTILE: Final = 0.97
# Of fewer nobody knows what is usual: the upper bound counts.
KNOWN: Final = 20
# Beyond so many the older half counts half: what was usual this morning need not be now.
RECENT: Final = 1000
# One hedge for so many reads of the kind; so many at once after a calm time.
ONE_IN: Final = 20
BURST: Final = 10
# How long it counts that the primary served the caller; a stack is read within seconds.
SERVED_S: Final = 600.0
MOST_SERVED: Final = 4096
_BOUNDS_S: Final = tuple(0.002 * 1.25**step for step in range(48))  # up to 70 s
WADO: Final = WebRoute.WADO
_BELOW_STUDY: Final = 7  # "", studies, {uid}, series, {uid}, instances, {uid}
# Fields that say nothing of who asks. All others do: a token may stand in any of them.
_NOBODYS: Final = frozenset(
    (
        b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"connection", b"dnt", b"host",
        b"pragma", b"priority", b"referer", b"user-agent", b"sec-ch-ua", b"sec-ch-ua-mobile",
        b"sec-ch-ua-platform", b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site", b"sec-gpc",
    )
)  # fmt: skip


class ItemKind(StrEnum):
    """What has a usual time of its own."""

    INSTANCE = "instance"
    FRAME = "frame"
    OTHER = "other"


class Item(NamedTuple):
    kind: ItemKind
    study: bytes


def item_of(asked: Asked, head: RequestHead) -> Item | None:
    """Return which named item `head` reads; None: it is never hedged."""
    if asked.route is not WADO or asked.below_prefix is None or head.method != b"GET":
        return None
    steps = asked.below_prefix.partition(b"?")[0].split(b"/")
    if len(steps) < _BELOW_STUDY or steps[1] != b"studies" or not (steps[2] and steps[4] and steps[6]):
        return None
    if (steps[3], steps[5]) != (b"series", b"instances") or binds_connection(head):
        return None
    if any(name == b"range" or name.startswith(b"if-") for name, _, _ in head.headers):
        return None
    below = steps[_BELOW_STUDY:]
    if not below or below == [b""]:
        return Item(ItemKind.INSTANCE, steps[2])
    return Item(ItemKind.FRAME if below[0] == b"frames" else ItemKind.OTHER, steps[2])


def serves(head: AnswerHead) -> bool:
    """Whether this is what was asked, whole; a page is a login. Of the backup only that may win."""
    media = (head.first(b"content-type") or b"").lower()
    return head.status == 200 and not media.startswith(b"text/html")


class Times:
    """How long reads of one kind took until their answer began."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0.0] * (len(_BOUNDS_S) + 1)
        self._total = 0.0

    def learn(self, took_s: float) -> None:
        self._counts[bisect_left(_BOUNDS_S, took_s)] += 1.0
        self._total += 1.0
        if self._total >= RECENT:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2

    def usual_s(self) -> float | None:
        """Return the time within which nearly all began; None: not enough are known."""
        if self._total < KNOWN:
            return None
        left = self._total * QUANTILE
        for bound_s, count in zip(_BOUNDS_S, self._counts, strict=False):
            left -= count
            if left <= 0:
                return bound_s
        return _BOUNDS_S[-1]


class Served:
    """Whom the primary gave something of which study, as keyed hashes; the oldest are forgotten."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._at_s: OrderedDict[bytes, float] = OrderedDict()

    def key(self, head: RequestHead, address: str, item: Item) -> bytes:
        """What is shown in the fields and the query, from where, for which study."""
        shown: bytes | None = head.derived.get("hedge_shown")
        if shown is None:
            fields = hashlib.blake2b(key=self._secret, digest_size=16)
            for name, _, value in head.headers:
                if name not in _NOBODYS:
                    fields.update(b"%d %b %d %b" % (len(name), name, len(value), value))
            shown = head.derived["hedge_shown"] = fields.digest()
        query = head.target.partition(b"?")[2]
        told = hashlib.blake2b(shown, key=self._secret, digest_size=16)
        for piece in (item.study, address.encode(), query):
            told.update(b"%d %b" % (len(piece), piece))
        return told.digest()

    def learn(self, key: bytes, now_s: float, *, served: bool) -> None:
        """`served` False: refused, and forgotten at once."""
        if not served:
            self._at_s.pop(key, None)
            return
        self._at_s[key] = now_s
        self._at_s.move_to_end(key)
        if len(self._at_s) > MOST_SERVED:
            self._at_s.popitem(last=False)

    def holds(self, key: bytes, now_s: float) -> bool:
        at_s = self._at_s.get(key)
        return at_s is not None and now_s - at_s < SERVED_S


class Hedging:
    """What is known for all requests together."""

    def __init__(self, policy: HedgePolicy, secret: bytes) -> None:
        self.policy = policy
        self.served = Served(secret)
        self._times = {kind: Times() for kind in ItemKind}
        self._left = float(BURST)

    def learn(self, kind: ItemKind, took_s: float) -> None:
        """A read of `kind` had its answer begin, or had waited for it so long when it was left."""
        self._times[kind].learn(took_s)

    def earn(self) -> None:
        """One more is read: of so many, one may be asked twice."""
        self._left = min(float(BURST), self._left + 1.0 / ONE_IN)

    def after_s(self, kind: ItemKind) -> float:
        """Return after how long a read of `kind` is to be asked of the backup too."""
        usual_s = self._times[kind].usual_s()
        policy = self.policy
        if usual_s is None:
            return policy.after_max
        return min(policy.after_max, max(policy.after_min, usual_s))

    def spend(self) -> bool:
        """Whether one may be asked twice now."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
