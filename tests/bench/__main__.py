"""`make bench`: the peers and we in one run, alternating, on the same work. Prints ratios, keeps JSON.

    python -m tests.bench [web|decisions|tls|memory|dicom|archive|department] … [--quick]

Each suite is a module with `run(quick) -> Suite`. Numbers of two machines are never compared; ratios within a
run are what counts. Results lie in tests/bench/results/, one file a suite, replaced by the next run.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from tests.bench.report import save, table

SUITES = ("web", "decisions", "tls", "memory", "dicom", "archive", "department")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], default=[], help="default: all")
    parser.add_argument("--quick", action="store_true", help="short rounds: to see that it works")
    arguments = parser.parse_args()
    for name in arguments.suites or SUITES:
        suite = importlib.import_module(f"tests.bench.{name}").run(arguments.quick)
        print(table(suite), flush=True)
        if not arguments.quick:
            save(suite)
    return 0


if __name__ == "__main__":
    sys.exit(main())
