"""Run the rows and print what callers saw; `--json FILE` keeps it.

python -m tests.bench.outage [--dicom] [--rows PART]… [--contestants NAME]… [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.outage import dicom_rows
from tests.bench.outage.rows import Result, measure
from tests.bench.report import RESULTS

CONTESTANTS = ("failover", "haproxy", "haproxy tuned", "nginx", "caddy")


def line(result: Result) -> str:
    failed, slowest = result.tally.failed, result.tally.slowest_s
    cells = [
        result.row, result.contestant, result.tally.asked.total(),
        failed["get"], failed["large"], failed["stow"], failed["order"], failed["kind"], result.twice,
        *(f"{slowest[kind]:.2f}" if kind in slowest else "" for kind in ("get", "large", "stow")),
        "" if result.transitions is None else result.transitions,
        "" if result.missing is None else result.missing,
        "; ".join(result.notes),
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def dicom_line(result: dicom_rows.Result) -> str:
    tally = result.tally
    kinds = ("echo", "find", "store", "long find", "long store", "kind")
    slowest = {kind: took_s for kind, took_s in tally.slowest_s.items() if kind != "kind"}
    cells = [
        result.row, result.contestant, tally.asked.total(),
        *(tally.failed[kind] for kind in kinds), tally.aborted, result.lost,
        *(f"{slowest[kind]:.2f}" if kind in slowest else "" for kind in kinds[:-1]),
        "" if result.transitions is None else result.transitions,
        "; ".join(result.notes),
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


_WEB_HEAD = (
    "| fault | contestant | requests | failed GET | failed 64 MB | failed STOW | failed other POST "
    "| failed of the row's kind | POST twice | slowest GET s | slowest 64 MB s | slowest STOW s "
    "| transitions | stores not on the primary | notes |\n" + "|---" * 15 + "|"
)
_DICOM_HEAD = (
    "| fault | contestant | operations | failed C-ECHO | failed C-FIND | failed C-STORE "
    "| failed C-FIND, long association | failed C-STORE, long association | failed of the row's kind "
    "| aborted associations | instances lost | slowest C-ECHO s | slowest C-FIND s | slowest C-STORE s "
    "| slowest long C-FIND s | slowest long C-STORE s | transitions | notes |\n" + "|---" * 18 + "|"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.outage", description=__doc__)
    parser.add_argument("--dicom", action="store_true", help="the rows of the DICOM side")
    parser.add_argument("--rows", action="append", default=[], help="only rows whose name contains this")
    parser.add_argument("--contestants", action="append", default=[], choices=CONTESTANTS)
    parser.add_argument("--json", type=Path, help="default, when all is run: results/outage_{web,dicom}.json")
    arguments = parser.parse_args()
    # So that the namespace and all servers end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = []
    sys.stdout.write((_DICOM_HEAD if arguments.dicom else _WEB_HEAD) + "\n")
    for result, cells in _measured(arguments.dicom, arguments.contestants, arguments.rows):
        results.append(result.figures())
        sys.stdout.write(cells + "\n")
        sys.stdout.flush()
        for reason, number in sorted(result.tally.reasons.items()):
            sys.stderr.write(f"  {number} x {reason}\n")
    file = arguments.json
    if file is None and not arguments.rows and not arguments.contestants:
        file = RESULTS / f"outage_{'dicom' if arguments.dicom else 'web'}.json"
    if file is not None:
        file.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def _measured(
    dicom: bool, contestants: list[str], rows: list[str]
) -> Iterator[tuple[Result | dicom_rows.Result, str]]:
    if dicom:
        for found in dicom_rows.measure(contestants or list(dicom_rows.CONTESTANTS), rows):
            yield found, dicom_line(found)
    else:
        for result in measure(contestants or list(CONTESTANTS), rows):
            yield result, line(result)


if __name__ == "__main__":
    sys.exit(main())
