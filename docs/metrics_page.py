# ruff: noqa: E501 - the prose of a Markdown page
"""docs/metrics.md, drawn from the definitions: every metric with its type, its labels and what it counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry

from failover.metrics import ArchiveMetrics, ReplicatorMetrics, RouterMetrics

_HEAD: Final = """# Metrics

<!-- Drawn from failover/metrics.py by `make docs`; do not edit. -->

`GET /metrics` on `listen.admin`, in Prometheus' text format; with `listen.admin.token_file` it wants a token as all
else does. The router joins to its own what archive and replicator count: it waits for them at most 1 s, and one that
does not answer is absent and has `failover_component_up` 0.

Base units, closed label sets, never a patient, a UID or an accession number. A number that nobody knows is absent
rather than stale: `failover_replication_lag_objects` when nobody has reported it for 5 s,
`failover_upstream_up` before the first verdict.

| label | values |
|---|---|
| `upstream` | `primary`, `backup`; for what the router itself answers `none` |
| `service` | `web`, `dicom` |
| `part` | `reach`, `query`, `retrieve`, `store` |
| `route` | `qido`, `wado`, `rendered`, `stow`, `page`, `other` |
| `operation` | the DIMSE operation: `C-ECHO`, `C-FIND`, `C-GET`, `C-MOVE`, `C-STORE`, the N-services |
| `status` | `success`, `pending`, `warning`, `failure`, `cancel` |
| `reason` | the code of an edge of [the routing table](routing.md), or as the metric says |
| `phase` | `on_primary`, `on_backup`, `failing_back` |
| `mode` | `auto`, `forced`, `drain`, `paused` |
| `component` | `router`, `archive`, `replicator` |
| `listener` | `web`, `dicom`, `admin` |
"""
_PROCESSES: Final = (
    ("Router", RouterMetrics),
    ("Archive", ArchiveMetrics),
    ("Replicator", ReplicatorMetrics),
)


def page() -> str:
    """Return the whole page."""
    lines = [_HEAD.rstrip()]
    for title, metrics in _PROCESSES:
        lines += ["", f"## {title}", "", "| metric | type | labels | what |", "|---|---|---|---|"]
        for name, kind, labels, words in described(metrics(CollectorRegistry())):
            shown = ", ".join(f"`{label}`" for label in labels) or "–"
            lines.append(f"| `{name}` | {kind} | {shown} | {words} |")
    return "\n".join(lines) + "\n"


def names() -> list[str]:
    """Return the name of every metric as it is scraped."""
    return [name for _, metrics in _PROCESSES for name, *_ in described(metrics(CollectorRegistry()))]


def described(metrics: Any) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Yield (name, type, labels, documentation) of each metric of one process."""
    for collector in vars(metrics).values():
        if not hasattr(collector, "describe"):
            continue
        for family in collector.describe():
            labels = tuple(getattr(collector, "_labelnames", getattr(collector, "_labels", ())))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield name, family.type, labels, family.documentation
