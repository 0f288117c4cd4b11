"""What a store needs beyond a read: live traffic learns how it ended, and the backup gets its copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from failover.model import Phase, Service, UpstreamName, Verdict
from failover.proxy import stow
from failover.proxy.answer import Answer
from failover.proxy.copies import WebCopy
from failover.proxy.retry import BACKUP, FAILING
from failover.routing.selection import Kind

if TYPE_CHECKING:
    from failover.proxy.exchange import Exchange


def note(exchange: Exchange, name: UpstreamName, status: int, *, lies: bool) -> None:
    """Live traffic learns how stores end; a status that speaks of the object says nothing of it."""
    if exchange.asked.kind is not Kind.STORE:
        return
    proxy, address = exchange.proxy, exchange.caller.address
    if lies or status in FAILING:
        proxy.sides[name].traffic.store_result(address, False)
    elif 200 <= status < 300:
        proxy.sides[name].traffic.store_result(address, True)
        if name is BACKUP:
            proxy.last_store_on_backup_s = proxy.clock.monotonic()


def copy(exchange: Exchange, name: UpstreamName, answer: Answer) -> WebCopy | None:
    """Hand a store that the primary took to whoever copies it; return what the answer has to wait for."""
    proxy, body, asked = exchange.proxy, exchange.body, exchange.asked
    copies, route = proxy.copies, proxy.board.current
    if copies is None or body is None or asked.kind is not Kind.STORE:
        return None
    if name is not UpstreamName.PRIMARY:
        return None
    failing_back = route.services[Service.WEB].phase is Phase.FAILING_BACK
    if not (copies.tee or failing_back) or not stow.all_stored(answer.head.status, answer.body):
        return None
    encoded = exchange.head.first(b"content-encoding") is not None
    backup_is_down = route.verdicts.get((BACKUP, Service.WEB)) is Verdict.DOWN
    kept = None if encoded or backup_is_down else body.hand_over()
    if kept is None:
        copies.drop()
        return None
    path = (asked.below_prefix or b"").partition(b"?")[0].decode("latin-1")
    made = copies.offer(kept, path, (exchange.head.first(b"content-type") or b"").decode("latin-1"))
    if made is None:
        kept.close()
    return made if failing_back else None
