"""What of the routing state survives a restart, as JSON, and the file it stands in.

`saved` and `restored` are pure. `RouteStore` writes in the background, always the newest, and tells
whether it was in time; a disk that is full or hangs is tried again each second.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from failover import durable
from failover.aio import Signal, cancel_and_wait, spawn
from failover.clock import Clock, parse_rfc3339, rfc3339
from failover.errors import StateUnreadable, StorageError
from failover.model import Mode, Phase, Service, UpstreamName
from failover.routing.gate import FLAP_WITHIN_S
from failover.routing.machine import first_state
from failover.routing.state import Now, State
from failover.routing.states import Decision, Intent

_log = structlog.get_logger(__name__)
_VERSION: Final = 1
_RETRY_S: Final = 1.0


def saved(state: State, now: Now) -> dict[str, Any]:
    """Return what must survive: mode, intent, phases, the flapping so far, what was decided."""
    intent = state.intent
    return {
        "version": _VERSION,
        "phases": {
            str(service): {"phase": str(phase), "since": rfc3339(state.since_wall[service])}
            for service, phase in state.phases.items()
        },
        "intent": {
            "mode": str(intent.mode),
            "upstream": None if intent.upstream is None else str(intent.upstream),
            "reason": intent.reason,
            "actor": intent.actor,
            "until": None if intent.until is None else rfc3339(intent.until),
            "keep_replicating": intent.keep_replicating,
            "grace_s": intent.grace_s,
        },
        "drain": {
            "since": None if state.drain_since_s is None else rfc3339(_wall(now, state.drain_since_s)),
            "grace_over": state.grace_over,
        },
        "failovers": {
            str(service): [rfc3339(_wall(now, at_s)) for at_s in times]
            for service, times in state.failovers.items()
        },
        "failback_decided": state.failback_decided,
        "refused_accepted": state.refused_accepted,
        "vanished_decided": None if state.vanished_decided is None else str(state.vanished_decided),
    }


def restored(content: dict[str, Any], now: Now) -> State:
    """Return the state of before a restart. Raises StateUnreadable."""
    try:
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}")
        written = content["intent"]
        decided = content.get("vanished_decided")
        until = None if written["until"] is None else parse_rfc3339(written["until"])
        intent = Intent(
            mode=Mode(written["mode"]),
            upstream=None if written["upstream"] is None else UpstreamName(written["upstream"]),
            reason=written["reason"],
            actor=written["actor"],
            until=until,
            keep_replicating=bool(written["keep_replicating"]),
            grace_s=float(written["grace_s"]),
        )
        return replace(
            first_state(now),
            blind=False,
            phases={s: Phase(content["phases"][s]["phase"]) for s in Service},
            since_wall={s: parse_rfc3339(content["phases"][s]["since"]) for s in Service},
            intent=intent,
            # The one place where wall time decides: --for and a grace must also end when the machine was off
            # meanwhile.
            intent_until_s=None if until is None else now.s + (until - now.wall).total_seconds(),
            drain_since_s=_drain_since_s(content, intent, now),
            grace_over=bool(content.get("drain", {}).get("grace_over", False)),
            failovers={
                Service(service): tuple(_ago(now, parse_rfc3339(text)) for text in times)
                for service, times in content["failovers"].items()
            },
            failback_decided=bool(content["failback_decided"]),
            refused_accepted=int(content["refused_accepted"]),
            vanished_decided=None if decided is None else Decision(decided),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateUnreadable(f"the routing state is not what it should be: {error}") from error


def _drain_since_s(content: dict[str, Any], intent: Intent, now: Now) -> float | None:
    """Since when a drain waits; None when it is empty, its grace is over, or there is none."""
    if intent.mode is not Mode.DRAIN:
        return None
    if "drain" not in content:
        return now.s  # written before drains were kept: its grace begins anew
    since = content["drain"]["since"]
    if since is None:
        return None
    # A wall clock that was set back must not make the grace longer, nor one set ahead more than end it.
    return now.s - min(max(0.0, (now.wall - parse_rfc3339(since)).total_seconds()), intent.grace_s)


def _wall(now: Now, at_s: float) -> datetime:
    return now.wall - timedelta(seconds=now.s - at_s)


def _ago(now: Now, moment: datetime) -> float:
    # A wall clock that was set must not make a failover of the future, nor one that never ages.
    return now.s - min(max(0.0, (now.wall - moment).total_seconds()), FLAP_WITHIN_S + 1)


class RouteStore:
    """The file of the routing state. One writer: the router."""

    def __init__(self, path: Path, clock: Clock, recovered: Callable[[], None]) -> None:
        """`recovered` is called when a state was written after one could not be written in time."""
        self._path = path
        self._clock = clock
        self._recovered = recovered
        self._newest: bytes = b""
        self._wanted = 0
        self._written = 0
        self._overdue = False
        self.problem: str | None = None
        """Why the newest state could not be written, None when it was."""
        self._changed = Signal()
        self._writer: asyncio.Task[None] | None = None

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last, None when nothing ever was. Raises StateUnreadable."""
        try:
            durable.make_folder(self._path.parent)
            content = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, StorageError, ValueError) as error:
            raise StateUnreadable(f"{self._path.name}: {error}") from error
        if not isinstance(content, dict):
            raise StateUnreadable(f"{self._path.name}: no object")
        return content

    def set_aside(self) -> None:
        """Keep what cannot be read beside the file: the next write would replace it, an intent with it."""
        with suppress(OSError, StorageError):
            durable.write_file(self._path.with_suffix(".unreadable"), self._path.read_bytes())

    def start(self) -> None:
        if self._writer is None:
            self._writer = spawn(self._write(), name="route store")

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Write what is left, for at most `timeout_s` seconds."""
        await self._changed.wait_until(lambda: self._written >= self._wanted, timeout_s=timeout_s)
        await cancel_and_wait(self._writer)
        self._writer = None

    async def save(self, content: dict[str, Any], *, timeout_s: float) -> bool:
        """Return True once `content`, or something newer, is on disk; False after `timeout_s` seconds."""
        self._newest = json.dumps(content, indent=1).encode()
        self._wanted += 1
        mine = self._wanted
        self._changed.fire()
        in_time = await self._changed.wait_until(lambda: self._written >= mine, timeout_s=timeout_s)
        self._overdue = self._overdue or not in_time
        return in_time

    async def _write(self) -> None:
        while True:
            while self._written >= self._wanted:
                await self._changed.wait()
            number, content = self._wanted, self._newest
            try:
                await asyncio.to_thread(durable.write_file, self._path, content)
            except StorageError as error:
                if self.problem is None:
                    _log.error("routing state not written", error=str(error))
                self.problem = str(error)
                await self._clock.sleep(_RETRY_S)
                continue
            self.problem = None
            self._written = number
            self._changed.fire()
            if self._overdue and number == self._wanted:
                self._overdue = False
                self._recovered()
