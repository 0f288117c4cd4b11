"""What a web worker and the router say to each other about live traffic, as JSON. Pure.

A worker joins by {"name", "pid"}: with its process its work is gone, with the line alone it is not.
The frames on the line (`control.Line`), all fields optional:
router → worker   {"route", "version"}: go by this route; {"tell": n}: report all you have, and say `told: n`;
                  {"end_work": upstream}; {}: the router lives
worker → router   {"seen": version of the route it goes by, "told", "flights", "connections", "spool",
                  "stored_s", "traffic", "counts"}: how things stand, and what is new since it told last
Of logins both sides say more, in frames of their own (`shared_logins`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from failover.health.passive import Digest, LiveFact, StoreFact
from failover.model import Part

JOIN: Final = "web.join"
FIRST: Final = "router"
"""The first web worker is the router itself; the others are web-2, web-3 …"""

Json = dict[str, Any]


def name_of(number: int) -> str:
    """Return the name of web worker `number`, counted from 1."""
    return FIRST if number == 1 else f"web-{number}"


def digest_told(digest: Digest, facts: Sequence[LiveFact | StoreFact]) -> Json:
    return {
        "waiting": digest.waiting,
        "unheard": digest.unheard,
        "unheard_since_s": digest.unheard_since_s,
        "beyond_from_s": digest.beyond_from_s,
        "heard_s": digest.heard_s,
        "live": [[str(one.part), one.good, one.at_s] for one in facts if isinstance(one, LiveFact)],
        "stores": [[one.caller, one.accepted, one.at_s] for one in facts if isinstance(one, StoreFact)],
    }


def digest_read(told: Json) -> tuple[Digest, list[LiveFact | StoreFact]]:
    """Raises KeyError, TypeError or ValueError for what `digest_told` does not make."""
    facts: list[LiveFact | StoreFact] = [
        *(LiveFact(Part(part), bool(good), float(at_s)) for part, good, at_s in told["live"]),
        *(StoreFact(str(caller), bool(accepted), float(at_s)) for caller, accepted, at_s in told["stores"]),
    ]
    digest = Digest(
        waiting={Part(part): int(count) for part, count in told["waiting"].items()},
        unheard={Part(part): int(count) for part, count in told["unheard"].items()},
        unheard_since_s=told["unheard_since_s"],
        beyond_from_s=told["beyond_from_s"],
        heard_s={Part(part): float(at_s) for part, at_s in told["heard_s"].items()},
    )
    return digest, sorted(facts, key=lambda one: one.at_s)
