"""Counters and histograms of one thread, as a scrape sees them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from failover.tallies import Spread, Tally


def test_a_tally_is_scraped_as_a_counter() -> None:
    registry = CollectorRegistry()
    tally = Tally(registry, "answers", "Answers", ("code",))
    tally.cell("200").count += 2
    tally.cell("200").count += 1
    assert registry.get_sample_value("answers_total", {"code": "200"}) == 3
    assert b"# TYPE answers_total counter" in generate_latest(registry)


def test_a_spread_is_scraped_as_a_histogram_with_cumulative_buckets() -> None:
    registry = CollectorRegistry()
    spread = Spread(registry, "took_seconds", "Took", ("route",), buckets=(0.001, 0.5))
    for value in (0.001, 0.002, 7.0):  # a bound belongs to its bucket
        spread.cell("qido").observe(value)
    found = {
        bound: registry.get_sample_value("took_seconds_bucket", {"route": "qido", "le": bound})
        for bound in ("0.001", "0.5", "+Inf")
    }
    assert found == {"0.001": 1, "0.5": 2, "+Inf": 3}
    assert registry.get_sample_value("took_seconds_count", {"route": "qido"}) == 3
    assert registry.get_sample_value("took_seconds_sum", {"route": "qido"}) == 7.003
