"""What a web worker has counted since it last told, and how the router adds that to its own counts.

So the router's metrics are the sum, they never fall when a worker dies, and begin at 0 with the router as
they would for one process. What a killed worker had not told yet is lost; it tells four times a second.
"""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import Counter

from failover.metrics import RouterMetrics
from failover.tallies import Spread, Tally

COUNTED: Final = (
    "http_requests", "http_duration", "http_log_lost", "http_moved", "http_copies", "http_resumed",
    "http_unprotected", "http_hedges", "http_turned_away", "logins",
)  # fmt: skip
"""The attributes of `RouterMetrics` that the proxy counts on."""

Json = dict[str, Any]


class Increments:
    """Of one worker's `metrics`: `take` returns what is new since the last call."""

    def __init__(self, metrics: RouterMetrics) -> None:
        self._metrics = metrics
        self._told: dict[str, dict[tuple[str, ...], Any]] = {name: {} for name in COUNTED}
        self.take()  # what is shown from 0 is nothing new

    def take(self) -> Json:
        """Return by metric a list of [labels, what is to be added]; metrics without news are left out."""
        news: Json = {}
        for name in COUNTED:
            told, changed = self._told[name], []
            for labels, now in _counts(getattr(self._metrics, name)).items():
                before = told.get(labels)
                if now != before:
                    changed.append([labels, _difference(now, before)])
                    told[labels] = now
            if changed:
                news[name] = changed
        return news


def add(metrics: RouterMetrics, news: Json) -> None:
    """Add what a worker has told. Raises KeyError, TypeError, ValueError for what no worker tells."""
    for name, changed in news.items():
        if name not in COUNTED:
            raise ValueError(f"{name} is not counted by web workers")
        metric = getattr(metrics, name)
        for labels, more in changed:
            if isinstance(metric, Tally):
                metric.cell(*labels).count += more
            elif isinstance(metric, Spread):
                metric.cell(*labels).add(more[0], more[1])
            elif labels:
                metric.labels(*labels).inc(more)
            else:
                metric.inc(more)


def _counts(metric: Tally | Spread | Counter) -> dict[tuple[str, ...], Any]:
    if isinstance(metric, Tally | Spread):
        return dict(metric.counts())
    return {
        tuple(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def _difference(now: Any, before: Any) -> Any:
    if before is None:
        return now
    if isinstance(now, tuple):
        return [new - old for new, old in zip(now[0], before[0], strict=True)], now[1] - before[1]
    return now - before
