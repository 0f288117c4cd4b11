"""The access log: its lines, what is left out, and that a reader who does not read delays nobody."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from failover.clock import ManualClock
from failover.proxy.access import AccessLog

FIRST = (
    "timestamp=2026-01-01T00:00:01.500000Z level=info component=router event=request method=GET route=qido"
    " status=200 upstream=primary took_ms=2.5 bytes=17 caller=10.0.0.1 broken=false"
)


def note(log: AccessLog, status: int = 200, *, broken: bool = False) -> None:
    log.note(1.5, b"GET", "qido", status, "primary", 0.0025, 17, "10.0.0.1", broken=broken)


@pytest.mark.parametrize(("every", "expected"), [
    (1, [200, 200, 200, 200, 503]),
    (2, [200, 200, 503]),
    (0, []),
])  # fmt: skip
def test_lines_by_setting(tmp_path: Path, every: int, expected: list[int]) -> None:
    with (tmp_path / "log").open("wb") as file:
        log = AccessLog(ManualClock(), every=every, descriptor=file.fileno())
        for status in (200, 200, 200, 200, 503):
            note(log, status)
        log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [int(line.split(" status=")[1][:3]) for line in lines] == expected
    if lines:
        assert lines[0] == FIRST


def test_methods_that_callers_invent_cost_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    with (tmp_path / "log").open("wb") as file:
        log = AccessLog(ManualClock(), every=1, descriptor=file.fileno())
        for number in range(500):
            method = b"%064d" % number + b"M" * 60_000
            log.note(1.5, method, "other", 404, "none", 0.0, 0, "10.0.0.1", broken=False)
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
        log.close()
    tracemalloc.stop()
    assert "method=" + "0" * 32 + " " in (tmp_path / "log").read_text()


def test_a_reader_that_does_not_read_costs_lines_which_are_counted() -> None:
    lost: list[int] = []
    reads, writes = os.pipe()
    log = AccessLog(ManualClock(), on_lost=lost.append, descriptor=writes)
    for _ in range(2000):
        for _ in range(20):
            note(log)
        log.flush()
        if lost:
            break
    os.close(reads)
    log.close(wait_s=10)
    os.close(writes)
    assert lost == [20]
