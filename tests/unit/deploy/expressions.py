"""Which series a PromQL expression reads, and which there are. Pure; enough of PromQL for our own queries."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry

from docs import metrics_page
from failover.metrics import ArchiveMetrics, ReplicatorMetrics, RouterMetrics

_SERIES = re.compile(r"\b(up|failover[_:][a-z0-9_:]+)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def series_in(expression: str) -> set[tuple[str, frozenset[str]]]:
    """Return (name, labels that its matchers use) of each series that `expression` reads."""
    text = re.sub(r"\"[^\"]*\"", '""', expression)
    found = set()
    for name, matchers in _SERIES.findall(text):
        found.add((name, frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))))
    return found


def groupings_in(expression: str) -> set[str]:
    """Return every label that `expression` groups or joins by."""
    return {label.strip() for inner in _GROUPING.findall(expression) for label in inner.split(",") if label}


def known_series() -> dict[str, frozenset[str]]:
    """Return the labels of every series that we serve, histograms with what belongs to them."""
    found: dict[str, frozenset[str]] = {}
    for metrics in (RouterMetrics, ArchiveMetrics, ReplicatorMetrics):
        for name, kind, labels, _ in metrics_page.described(metrics(CollectorRegistry())):
            if kind == "histogram":
                found[f"{name}_bucket"] = frozenset(labels) | {"le"}
                found[f"{name}_count"] = found[f"{name}_sum"] = frozenset(labels)
            else:
                found[name] = frozenset(labels)
    return found
