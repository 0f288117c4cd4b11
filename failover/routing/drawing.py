"""docs/routing.md, drawn from the transition table, so that the page cannot differ from what happens. Pure.

`python -m failover.routing.drawing` prints it; a test fails when the page in docs/ is another.
"""

from __future__ import annotations

import sys

from failover.audit.events import KINDS
from failover.model import Phase
from failover.routing.states import CAUSES, TRANSITIONS

_PHASES = {
    Phase.ON_PRIMARY: ("the primary", "the primary"),
    Phase.ON_BACKUP: ("the backup", "the backup"),
    Phase.FAILING_BACK: ("the backup", "the primary"),
}
_HEAD = """# Routing states

<!-- Drawn from failover/routing/states.py by `make docs`; do not edit. -->

Each service, web and DICOM, has a phase of its own; with `policy.together` (the default) they move and return
together when both services of the backup are up. `on_backup` and `failing_back` together are backup mode. The
phase of the whole is that of the service that is further from the primary.
"""
_AFTER = """
## What never happens by itself

- Reads do not return to the primary while something is owed to it, or while nobody knows how much is owed.
- In `forced`, `drain` and `paused` no phase changes; when the one that should serve is down there is an
  alarm.
- When both upstreams are down nothing moves: each request is offered to both in turn.
- The backup failing while it serves changes no phase: what the primary can give comes from there.
"""


def page() -> str:
    """Return the whole page."""
    lines = [_HEAD, "| phase | reads | stores |", "|---|---|---|"]
    lines += [f"| `{phase}` | {reads} | {stores} |" for phase, (reads, stores) in _PHASES.items()]
    lines += ["", "```mermaid", "stateDiagram-v2", "    [*] --> on_primary"]
    lines += [f"    {phase} --> {edge.to}: {edge.code}" for (phase, _), edge in TRANSITIONS.items()]
    lines += ["```", "", "## Edges", "", "| from | to | code | when | what the audit trail says |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| `{phase}` | `{edge.to}` | `{edge.code}` | {CAUSES[cause]} | {edge.sentence} |"
        for (phase, cause), edge in TRANSITIONS.items()
    ]
    lines += ["", "The code is the label `reason` of `failover_transitions_total` and `code` of the event."]
    lines += [_AFTER, "## Kinds of events", "", "| kind | what happened |", "|---|---|"]
    lines += [f"| `{kind}` | {sentence} |" for kind, sentence in KINDS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
