"""Counters and histograms of one thread: for paths where prometheus_client's label look-up and lock are dear.

A cell is fetched once per label set and counted on with plain arithmetic; the families are made at a scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Cell:
    """The count for one label set."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Tally(Collector):
    """A counter. `cell(labels).count += 1`, from one thread."""

    def __init__(
        self, registry: CollectorRegistry, name: str, documentation: str, labels: tuple[str, ...]
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._cells: dict[tuple[str, ...], Cell] = {}
        registry.register(self)

    def cell(self, *labels: str) -> Cell:
        return self._cells.setdefault(labels, Cell())

    def counts(self) -> dict[tuple[str, ...], int]:
        """Return the count for each label set."""
        return {labels: cell.count for labels, cell in self._cells.items()}

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        # A copy: a scrape may come from another thread.
        for labels, cell in sorted(self._cells.copy().items()):
            family.add_metric(labels, cell.count)
        yield family


class SpreadCell:
    """How often each bucket was met, for one label set."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add what was counted elsewhere, in the same buckets."""
        for place, count in enumerate(counts):
            self.counts[place] += count
        self.total += total


class Spread(Collector):
    """A histogram. `cell(labels).observe(seconds)`, from one thread."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        documentation: str,
        labels: tuple[str, ...],
        *,
        buckets: Sequence[float],
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._bounds = tuple(buckets)
        self._cells: dict[tuple[str, ...], SpreadCell] = {}
        registry.register(self)

    def cell(self, *labels: str) -> SpreadCell:
        found = self._cells.get(labels)
        if found is None:
            found = self._cells[labels] = SpreadCell(self._bounds)
        return found

    def counts(self) -> dict[tuple[str, ...], tuple[list[int], float]]:
        """Return for each label set how often each bucket was met, and the sum of what was observed."""
        return {labels: (list(cell.counts), cell.total) for labels, cell in self._cells.items()}

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        names = [*map(str, self._bounds), "+Inf"]
        for labels, cell in sorted(self._cells.copy().items()):
            below, buckets = 0, []
            for name, count in zip(names, cell.counts, strict=True):
                below += count
                buckets.append((name, below))
            family.add_metric(labels, buckets, cell.total)
        yield family
