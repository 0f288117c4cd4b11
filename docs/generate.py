"""Writes the pages of docs/ that are drawn from the code: `python -m docs.generate`; --check only compares.

So the manual cannot say other than what the program does. tests/test_docs.py fails when a page is stale.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs import audit_page, commands_page, configuration_page, dicom_failures_page, metrics_page
from failover.routing import drawing

FOLDER: Final = Path(__file__).resolve().parent
PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "configuration.md": configuration_page.page,
    "commands.md": commands_page.page,
    "dicom-failures.md": dicom_failures_page.page,
    "metrics.md": metrics_page.page,
    "audit.md": audit_page.page,
    "routing.md": drawing.page,
}


def stale() -> dict[str, str]:
    """Return for each page that is not as the code has it what differs."""
    found = {}
    for name, page in PAGES.items():
        path = FOLDER / name
        current = path.read_text(encoding="utf-8") if path.exists() else ""
        wanted = page()
        if current != wanted:
            lines = difflib.unified_diff(
                current.splitlines(), wanted.splitlines(), name, "as the code has it"
            )
            found[name] = "\n".join(lines)
    return found


def main() -> int:
    """Write what is stale, or with --check say what is, and return 1."""
    differences = stale()
    if "--check" in sys.argv[1:]:
        sys.stderr.write("\n".join(differences.values()))
        return 1 if differences else 0
    for name in differences:
        (FOLDER / name).write_text(PAGES[name](), encoding="utf-8")
        sys.stdout.write(f"docs/{name}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
