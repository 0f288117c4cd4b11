"""The department test: a reading day replayed against Debian's Orthanc and against our archive.

The mix stands in `department_load`: searches, opening, scrolling, priors, stores from four modalities, all
at once. Both contestants do the same operations; who is faster is done earlier. Reported also without the
searches, in which Orthanc is slow enough to decide alone.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.bench.archive import Contestant, filled
from tests.bench.measure import cpu_s, output_of
from tests.bench.report import Row, Suite

LOAD = [sys.executable, "-m", "tests.bench.department_load"]
_NAMES = {"search": "a search", "open": "metadata of a series", "slice": "a slice", "store": "a store"}


def run(quick: bool) -> Suite:
    sessions, rounds = (1, 1) if quick else (4, 5)
    with filled() as (contestants, _):
        for one in contestants:
            output_of([*LOAD, "fill", str(one.web_port)])
        rows: list[Row] = []
        notes: list[str] = []
        for searches in ("with", "without"):
            rows += _days(contestants, searches, sessions, rounds, notes)
        return Suite("department", rows, notes)


def _days(
    contestants: list[Contestant], searches: str, sessions: int, rounds: int, notes: list[str]
) -> list[Row]:
    work = "a reading day" if searches == "with" else "a reading day without the searches"
    rate = Row(work, "operations/s", "orthanc", less_is_better=False)
    cost = Row(work, "ms CPU of operations, each", "orthanc")
    late = Row(work, "ms, p99", "orthanc")
    kinds = {kind: Row(f"{work}: {name}", "ms, p99", "orthanc") for kind, name in _NAMES.items()}
    for number in range(rounds + 1):
        for one in contestants:
            before = cpu_s(one.pid)
            seen = _day(one, sessions, searches)
            if number == 0:
                continue  # what starts at first use has started then
            done = max(1, seen["done"])
            rate.add(one.name, seen["done"] / seen["seconds"])
            cost.add(one.name, 1e3 * (cpu_s(one.pid) - before) / done)
            late.add(one.name, _p99([ms for each in seen["ms"].values() for ms in each]))
            for kind, each in seen["ms"].items():
                kinds[kind].add(one.name, _p99(each))
            if seen["failed"]:
                notes.append(f"{one.name}, {work}: {seen['failed']} failed")
    return [rate, cost, late, *(row for row in kinds.values() if row.rounds)]


def _day(one: Contestant, sessions: int, searches: str) -> dict[str, Any]:
    asked = (one.web_port, one.dicom_port, one.ae_title, sessions, searches)
    found: dict[str, Any] = json.loads(output_of([*LOAD, "day", *map(str, asked)]))
    return found


def _p99(each: list[float]) -> float:
    return sorted(each)[min(len(each) - 1, int(0.99 * len(each)))]
