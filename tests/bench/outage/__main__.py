"""Run the rows, print what callers saw, and keep it as JSON, row by row.

    python -m tests.bench.outage [--dicom] [--rows PART,PART…] [--contestants NAME]… [--json FILE] [--missing]

Each result takes the place of that of the same row and contestant in the file as soon as it is measured, so a
run may be cut short and go on (`--missing`), or one row be measured anew. In the end all that is in the file
is printed as one table; each result says when it was measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from failover.clock import SystemClock, rfc3339
from failover.durable import write_file
from tests.bench.outage import dicom_rows
from tests.bench.outage.rows import ROWS, Result, measure
from tests.bench.report import RESULTS

CONTESTANTS = ("failover", "haproxy", "haproxy tuned", "nginx", "caddy")


Figures = dict[str, Any]


def line(found: Figures) -> str:
    failed: Counter[str] = Counter(found["failed"])
    slowest = found["slowest_s"]
    cells = [
        found["row"], found["contestant"], sum(found["asked"].values()),
        failed["get"], failed["long"], failed["stow"], failed["order"], failed["kind"],
        found["orders_twice"], _at_failback(found),
        *(f"{slowest[kind]:.2f}" if kind in slowest else "" for kind in ("get", "long", "stow")),
        _shown(found["transitions"]), _shown(found["stores_missing"]),
        "; ".join(found.get("notes", ())),
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def dicom_line(found: Figures) -> str:
    failed: Counter[str] = Counter(found["failed"])
    slowest = found["slowest_s"]
    kinds = ("echo", "find", "store", "long find", "long store", "kind")
    cells = [
        found["row"], found["contestant"], sum(found["asked"].values()),
        *(failed[kind] for kind in kinds), found["aborted_associations"], found["instances_lost"],
        _at_failback(found), *(_shown(found.get(name)) for name in ("on_both_sides", "exam_missing")),
        *(f"{slowest[kind]:.2f}" if kind in slowest else "" for kind in kinds[:-1]),
        _shown(found["transitions"]),
        "; ".join(found.get("notes", ())),
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _at_failback(found: Figures) -> str:
    """Not known of what was measured before these were counted."""
    failed = found.get("failed_at_failback")
    return "" if failed is None else str(sum(failed.values()))


def _shown(figure: int | None) -> str:
    return "" if figure is None else str(figure)


_WEB_HEAD = (
    "| fault | contestant | requests | failed GET | broken long answers | failed STOW | failed other POST "
    "| failed of the row's kind | POST twice | failed at failback | slowest GET s "
    "| longest wait in a long answer s | slowest STOW s | transitions | stores not on the primary | notes |\n"
    + "|---" * 16
    + "|"
)
_DICOM_HEAD = (
    "| fault | contestant | operations | failed C-ECHO | failed C-FIND | failed C-STORE "
    "| failed C-FIND, long association | failed C-STORE, long association | failed of the row's kind "
    "| aborted associations | instances lost | failed at failback | on both sides without need "
    "| missing of the exam on the table | slowest C-ECHO s | slowest C-FIND s | slowest C-STORE s "
    "| slowest long C-FIND s | slowest long C-STORE s | transitions | notes |\n" + "|---" * 21 + "|"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.outage", description=__doc__)
    parser.add_argument("--dicom", action="store_true", help="the rows of the DICOM side")
    parser.add_argument(
        "--rows", action="append", default=[], help="only rows whose name contains this, or this"
    )
    parser.add_argument("--contestants", action="append", default=[], choices=CONTESTANTS)
    parser.add_argument("--json", type=Path, help="default: results/outage_{web,dicom}.json")
    parser.add_argument("--missing", action="store_true", help="only what the file does not have yet")
    arguments = parser.parse_args()
    if arguments.dicom and (other := set(arguments.contestants) - set(dicom_rows.CONTESTANTS)):
        parser.error(f"not on the DICOM side: {', '.join(sorted(other))}")
    # So that the namespace and all servers end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    file = arguments.json or RESULTS / f"outage_{'dicom' if arguments.dicom else 'web'}.json"
    kept = _Kept(file, [row.name for row in (dicom_rows.ROWS if arguments.dicom else ROWS)])
    parts = [part.strip() for given in arguments.rows for part in given.split(",")]
    skip = kept.has if arguments.missing else lambda row, contestant: False
    head, shown = (_DICOM_HEAD, dicom_line) if arguments.dicom else (_WEB_HEAD, line)
    for result in _measured(arguments.dicom, arguments.contestants, parts, skip):
        found = {**result.figures(), "measured": rfc3339(SystemClock().wall())}
        kept.put(found)
        sys.stderr.write(shown(found) + "\n")
        for reason, number in sorted(result.tally.reasons.items()):
            sys.stderr.write(f"  {number} x {reason}\n")
    sys.stdout.write("\n".join([head, *(shown(found) for found in kept.in_order())]) + "\n")
    return 0


class _Kept:
    """The file of results: one for each row and contestant, the newest."""

    def __init__(self, file: Path, rows: list[str]) -> None:
        self._file = file
        self._rows = rows
        found = json.loads(file.read_text()) if file.is_file() else []
        self._results = {(one["row"], one["contestant"]): one for one in found}

    def has(self, row: str, contestant: str) -> bool:
        return (row, contestant) in self._results

    def put(self, found: Figures) -> None:
        self._results[found["row"], found["contestant"]] = found
        write_file(self._file, (json.dumps(self.in_order(), indent=1) + "\n").encode())

    def in_order(self) -> list[Figures]:
        """Rows as they are run, contestants as they are named; what is run no more comes last."""

        def place(found: Figures) -> tuple[int, int]:
            row, contestant = found["row"], found["contestant"]
            return (
                self._rows.index(row) if row in self._rows else len(self._rows),
                CONTESTANTS.index(contestant) if contestant in CONTESTANTS else len(CONTESTANTS),
            )

        return sorted(self._results.values(), key=place)


def _measured(
    dicom: bool, contestants: list[str], rows: list[str], skip: Callable[[str, str], bool]
) -> Iterator[Result | dicom_rows.Result]:
    if dicom:
        yield from dicom_rows.measure(contestants or list(dicom_rows.CONTESTANTS), rows, skip)
    else:
        yield from measure(contestants or list(CONTESTANTS), rows, skip)


if __name__ == "__main__":
    sys.exit(main())
