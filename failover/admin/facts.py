"""One status, asked in the words of the headline: whose verdict, who serves, what is owed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Json = Mapping[str, Any]
SERVICES: Final = {"web": "web", "dicom": "DICOM"}
UPSTREAMS: Final = ("primary", "backup")


class Facts:
    """The status, asked in the words of this page."""

    def __init__(self, status: Json) -> None:
        self.mode = str(status["mode"])
        self.phase = str(status["phase"])
        self.intent: Json = status["intent"]
        self.failback: Json = status["failback"]
        self.by_hand = bool(self.failback.get("by_hand"))
        self.numbers: Json = status["replication"]
        self.decisions: list[str] = list(status.get("decisions", ()))
        self._in_flight: Json = status["in_flight"]
        self.active = {
            name: str(route["active"])
            for name, route in status["services"].items()
            if route and route.get("active")
        }
        self._upstreams: Json = status["upstreams"]
        self.since = max(
            (str(route["since"]) for route in status["services"].values() if route and route.get("active")),
            default="",
        )

    def exists(self, upstream: str, service: str) -> bool:
        health = self._upstreams.get(upstream, {}).get(service)
        return bool(health) and health.get("reason") != "not configured"

    def verdict(self, upstream: str, service: str) -> str | None:
        health = self._upstreams.get(upstream, {}).get(service) or {}
        verdict = health.get("verdict")
        return None if verdict is None else str(verdict)

    def may_help(self, upstream: str, service: str) -> bool:
        return self.exists(upstream, service) and self.verdict(upstream, service) != "down"

    def services(self, upstream: str, verdict: str) -> list[str]:
        return [service for service in self.active if self.verdict(upstream, service) == verdict]

    def whose(self, upstream: str, verdict: str) -> str | None:
        """`the primary` when all it has is `verdict`, `web of the primary` when one is, None when none is."""
        such = self.services(upstream, verdict)
        if not such:
            return None
        if such == [service for service in self.active if self.exists(upstream, service)]:
            return f"the {upstream}"
        return f"{' and '.join(SERVICES[service] for service in such)} of the {upstream}"

    @property
    def serving(self) -> set[str]:
        return set(self.active.values())

    @property
    def owed(self) -> int | None:
        lag = self.numbers.get("lag_objects")
        return None if lag is None else int(lag)

    @property
    def lost(self) -> int:
        """Of the refused, those that the archive itself lost before they were sent."""
        return int(self.numbers.get("lost") or 0)

    @property
    def refused(self) -> int:
        """Those that the primary refused for good."""
        return int(self.numbers.get("refused") or 0) - self.lost

    @property
    def at_primary(self) -> int:
        return sum(int(count or 0) for count in self._in_flight.get("primary", {}).values())
