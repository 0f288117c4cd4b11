# ruff: noqa: E501 (lines of Markdown tables)
"""The page of what moves on the DICOM side, drawn from the table that the relay works by."""

from __future__ import annotations

from failover.health.stores import CALLERS, WITHIN_S
from failover.relay.offer import NEITHER_S, PATIENCE_BUSY_S, PATIENCE_S
from failover.relay.operations import OnLoss, Operation, Ranges, known_operations, operation

_LOST = {
    OnLoss.REPEAT: "asked again, whole, of the other one",
    OnLoss.FINISH: "what is kept of it goes to the other one, from its beginning",
    OnLoss.FAIL: "ends with the status of the last column; never repeated once a byte was sent",
}
_N_SERVICE = 0x0130  # N-ACTION-RQ


def page() -> str:
    """Return docs/dicom-failures.md."""
    policies = [*known_operations(), operation(_N_SERVICE)]
    rows = "\n".join(_row(policy) for policy in policies)
    return f"""# Which DICOM failures move

Written by `make docs` from `failover/relay/operations.py` and `offer.py`: it cannot say other than what the relay does.

A failure that speaks of the *archive* moves the operation to the other one, inside the caller's association, which never
sees an abort. A failure that speaks of the *request* or of the *object* is passed on: the other archive would say the
same, and a modality has to hear it.

## Operations

| operation | its upstream died, hangs or broke the protocol | without a byte for | statuses that move | statuses passed on as the object's fault | nobody can answer |
|---|---|---|---|---|---|
{rows}

Every other status is passed on as it came. What moved and is answered no better by the other one ends with the primary's
own answer. While the primary is not `down`, a failure of the backup, and its empty search or retrieve, does not count.

**What was promised at the opening.** The other one gets only the contexts, transfer syntaxes, roles and extended
negotiation that the caller was given. Where it does not take a context, or has not the matching of dates with times, of
names that sound alike, or by time zone that a search was promised (PS3.4 C.5.1.1), that one operation ends with 0x0122
(C-STORE: 0xA700) and the association goes on; while the primary is not `down`, it waits for the primary instead.

**When a status of the object is no longer believed.** Objects of {CALLERS} calling AE titles got such a status within {WITHIN_S:.0f} s, and
none was accepted meanwhile: then it is the archive that takes nothing. From then on these statuses move like 0xA700,
for as long as that holds. One modality that sends bad objects, however many, never proves that.

## Associations being opened

| the upstream | what follows |
|---|---|
| refuses the connection, aborts, answers rubbish | offered to the other one at once |
| rejects: transient | offered to the other one at once |
| rejects: permanent | passed on, and counted; the backup's does not count while the primary is not `down` |
| says nothing for {PATIENCE_S:g} s ({PATIENCE_BUSY_S:g} s while it answers others; at once when it is suspect) | offered to the other one |
| neither takes it for {NEITHER_S:g} s | A-ASSOCIATE-RJ transient, temporary congestion (3/1) |

A caller that [`access.dicom`](configuration.md) does not name, and one that calls another AE title, is rejected for good
before any upstream is asked.

## What makes an upstream suspect

| failure | of which part | counts as |
|---|---|---|
| C-STORE of {CALLERS} callers within {WITHIN_S:.0f} s: lost, timed out, a moving status, or a status of the object that is no longer believed; none accepted meanwhile | store | suspect: stores have no probe |
| three objects of the replicator in a row | store | the same |
| C-ECHO, C-FIND, C-MOVE, C-GET: lost, timed out, a moving status; an association not opened, or rejected: transient | reach, query, retrieve | never by itself: probes are sent at once, and they decide |
| three wait, or one beyond its usual time, and not a byte comes | reach | the same |
| a permanent rejection, a status of an object or identifier, a cancelled operation | | nothing |
"""


def _row(policy: Operation) -> str:
    seconds = f"{policy.silent_s:g} s"
    cells = [
        policy.name
        if policy.name in {known.name for known in known_operations()}
        else "N-services, unknown ones",
        _LOST[policy.on_loss],
        seconds,
        _said(policy.moving),
        _said(policy.of_object),
        f"0x{policy.lost:04X}",
    ]
    return "| " + " | ".join(cells) + " |"


def _said(ranges: Ranges) -> str:
    """0xA7xx for a whole range, the number for one."""
    words = []
    for low, high in ranges:
        differing = len(f"{low ^ high:X}") if low != high else 0
        words.append("0x" + f"{low:04X}"[: 4 - differing] + "x" * differing)
    return ", ".join(words) or "–"
