"""How often an address may try a password. Pure: time is an input.

Counts failures alone, in windows that slide by emptying: a bucket of `MOST`, of which one leaves each
`ONE_PER_S` seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from failover.addresses import who

# Ten wrong ones in a row, then one each half minute: a person is not locked out, a guesser gets nowhere.
MOST: Final = 10
ONE_PER_S: Final = 30.0
# Beyond it the address whose last failure is oldest is forgotten.
_MOST_ADDRESSES: Final = 4096


class Attempts:
    def __init__(self) -> None:
        self._full_until: OrderedDict[str, float] = OrderedDict()  # when its bucket is empty again

    def wait_s(self, address: str, now_s: float) -> float:
        """Return how long `address` must wait before its next try; 0.0: it may."""
        empty_s = self._full_until.get(who(address), now_s)
        return max(0.0, empty_s - now_s - (MOST - 1) * ONE_PER_S)

    def failed(self, address: str, now_s: float) -> None:
        name = who(address)
        self._full_until[name] = max(self._full_until.get(name, now_s), now_s) + ONE_PER_S
        self._full_until.move_to_end(name)
        if len(self._full_until) > _MOST_ADDRESSES:
            self._full_until.popitem(last=False)

    def forgive(self, address: str) -> None:
        """A try that was counted as a failure was none."""
        name = who(address)
        if name in self._full_until:
            self._full_until[name] -= ONE_PER_S
