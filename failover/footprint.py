"""What one process of ours takes of its machine: memory, descriptors, tasks. Read at each scrape, from /proc.

A number that grows while the load does not is a leak, and descriptors that reach their limit close the
door to callers: both are seen here before they are felt. Where there is no /proc the families are absent.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Footprint(Collector):
    """The process that it is made in, under the name of `component`."""

    def __init__(self, registry: CollectorRegistry, component: str) -> None:
        self._measured: tuple[tuple[str, str, Callable[[], int | None]], ...] = (
            (f"failover_{component}_resident_bytes", "Memory resident now", _resident_bytes),
            (f"failover_{component}_open_descriptors", "File descriptors open now", _open_descriptors),
            (f"failover_{component}_descriptor_limit", "File descriptors it may open", _descriptor_limit),
            (f"failover_{component}_tasks", "Tasks of its event loop now", _tasks),
        )
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        for name, documentation, _ in self._measured:
            yield GaugeMetricFamily(name, documentation)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, documentation, measure in self._measured:
            value = measure()
            if value is not None:
                yield GaugeMetricFamily(name, documentation, value=value)


def _resident_bytes() -> int | None:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return None


def _open_descriptors() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # without the one that lists them
    except OSError:
        return None


def _descriptor_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _tasks() -> int | None:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # asked from a thread without a loop
        return None
