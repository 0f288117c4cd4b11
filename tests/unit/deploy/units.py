"""What stands in the unit files of deploy/systemd/: every assignment, drop-ins included."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
FOLDER: Final = ROOT / "deploy" / "systemd"
UNITS: Final = (
    "failover.service",
    "failover@router.service",
    "failover@archive.service",
    "failover@replicator.service",
)


def sources(unit: str) -> list[Path]:
    """Return the files that make `unit`, in the order in which systemd reads them."""
    prefix, at, rest = unit.partition("@")
    own = FOLDER / (f"{prefix}@.service" if at else f"{prefix}{rest}")
    return [own, *sorted((FOLDER / f"{unit}.d").glob("*.conf"))]


def assignments(*files: Path) -> dict[str, list[str]]:
    """Return the values of each key in `files`, in order."""
    found: dict[str, list[str]] = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found.setdefault(key.strip(), []).append(value.strip())
    return found


def unit(name: str) -> dict[str, list[str]]:
    return assignments(*sources(name))
