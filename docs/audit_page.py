# ruff: noqa: E501 - the prose of a Markdown page
"""docs/audit.md, drawn from the kinds of events and the table of edges."""

from __future__ import annotations

from typing import Final

from failover.audit.events import KINDS
from failover.routing.states import TRANSITIONS

_HEAD: Final = """# Audit trail

<!-- Drawn from failover/audit/events.py and failover/routing/states.py by `make docs`; do not edit. -->

Every move, every intent and every decision is written down before it takes effect (only a move away from a dead
primary waits for the disk no longer than 200 ms): `audit.jsonl` in `state_dir`, one
JSON object on each line, only ever appended to, synced to disk. `failover events` prints it, `GET /api/events` gives
it. It holds no patient data.

| field | what |
|---|---|
| `id` | an integer that grows by one |
| `time` | RFC 3339, UTC |
| `kind` | one of the kinds below |
| `service` | `web`, `dicom`, or null for both |
| `from`, `to` | phase, verdict or mode before and after |
| `code` | for machines: the edge or cause; the label `reason` of `failover_transitions_total` |
| `reason` | for people: one sentence, or what the operator gave as reason |
| `actor` | who did it: the token's name, else the user; null when the router did it by itself |

## Kinds
"""


def page() -> str:
    """Return the whole page."""
    lines = [_HEAD.rstrip(), "", "| kind | what happened |", "|---|---|"]
    lines += [f"| `{kind}` | {words} |" for kind, words in KINDS.items()]
    lines += ["", "## Codes of transitions", "", "| code | from | to | sentence |", "|---|---|---|---|"]
    lines += [
        f"| `{edge.code}` | `{phase}` | `{edge.to}` | {edge.sentence} |"
        for (phase, _), edge in TRANSITIONS.items()
    ]
    return "\n".join(lines) + "\n"
