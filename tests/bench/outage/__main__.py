"""Run the rows and print what callers saw; `--json FILE` keeps it.

python -m tests.bench.outage [--rows PART]… [--contestants NAME]… [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.outage", description=__doc__)
    parser.add_argument("--rows", action="append", default=[], help="only rows whose name contains this")
    parser.add_argument("--contestants", action="append", default=[], choices=CONTESTANTS)
    parser.add_argument("--json", type=Path, help="default, when all is run: results/outage_web.json")
    arguments = parser.parse_args()
    print(
        "| fault | contestant | requests | failed GET | failed 64 MB | failed STOW | failed other POST "
        "| failed of the row's kind | POST twice | slowest GET s | slowest 64 MB s | slowest STOW s "
        "| transitions | stores not on the primary | notes |\n" + "|---" * 15 + "|"
    )
    # So that the namespace and all servers end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = []
    for result in measure(arguments.contestants or list(CONTESTANTS), arguments.rows):
        results.append(result.figures())
        print(line(result), flush=True)
        for reason, number in sorted(result.tally.reasons.items()):
            print(f"  {number} x {reason}", file=sys.stderr, flush=True)
    file = arguments.json
    if file is None and not arguments.rows and not arguments.contestants:
        file = RESULTS / "outage_web.json"
    if file is not None:
        file.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
