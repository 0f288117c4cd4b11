"""What a benchmark measured: rows of work, a figure per contestant and round; medians and ratios; JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from failover import __version__
from failover.clock import SystemClock, rfc3339

RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """One kind of work and one unit. `rounds[contestant]` holds a figure per round."""

    work: str
    unit: str
    against: str  # the contestant that ratios are taken against
    rounds: dict[str, list[float]] = field(default_factory=dict)
    less_is_better: bool = True

    def add(self, contestant: str, figure: float) -> None:
        self.rounds.setdefault(contestant, []).append(figure)

    def median(self, contestant: str) -> float:
        return statistics.median(self.rounds[contestant])

    def ratio(self, contestant: str) -> float | None:
        """Median of the ratios round by round, so that a machine whose speed drifts does not matter."""
        if self.against not in self.rounds or contestant not in self.rounds:
            return None
        pairs = zip(self.rounds[contestant], self.rounds[self.against], strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return statistics.median(ratios) if ratios else None


@dataclass
class Suite:
    name: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def table(suite: Suite) -> str:
    """Return the suite as a Markdown table: a row per work, medians, and the ratio to the peer."""
    contestants = list(dict.fromkeys(name for row in suite.rows for name in row.rounds))
    lines = [
        f"## {suite.name}",
        "",
        "| work | unit | " + " | ".join(contestants) + " | failover / peer |",
        "|---" * (len(contestants) + 3) + "|",
    ]
    for row in suite.rows:
        figures = [f"{row.median(name):.4g}" if name in row.rounds else "" for name in contestants]
        ratio = row.ratio("failover")
        shown = f"{ratio:.2f} x {row.against}" if ratio is not None else ""
        lines.append(f"| {row.work} | {row.unit} | " + " | ".join(figures) + f" | {shown} |")
    return "\n".join([*lines, *(f"- {note}" for note in suite.notes), ""])


def save(suite: Suite) -> None:
    """Write the suite to results/NAME.json."""
    content = {
        "suite": suite.name,
        "measured": rfc3339(SystemClock().wall()),
        "version": __version__,
        "machine": {
            "processor": _processor(),
            "system": platform.release(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[2],  # of the last 15 minutes: who else was at work
        },
        "notes": suite.notes,
        "rows": [
            {
                "work": row.work,
                "unit": row.unit,
                "rounds": row.rounds,
                "median": {name: row.median(name) for name in row.rounds},
                "ratio": {name: row.ratio(name) for name in row.rounds},
                "against": row.against,
            }
            for row in suite.rows
        ],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{suite.name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
