"""How runs of good and failed probes of one part change what we believe of it (HAProxy's rise and fall).
Pure.

Answers it for one part alone. Leaves to `verdict` how the parts make one verdict, and when suspicion is
certainty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from failover.model import Verdict


@dataclass(frozen=True, slots=True)
class PartHealth:
    """What we believe of one part, and the run of probes so far."""

    verdict: Verdict | None = None  # None: nothing known yet
    passed: int = 0  # good ones in a row
    failed: int = 0  # failed ones in a row
    reason: str = "not probed yet"


def part_passed(part: PartHealth, *, rise: int, reason: str) -> PartHealth:
    """Return `part` after one good probe or answer.

    The first good one makes it `up`, one ends `suspect`, `rise` in a row end `down`.
    """
    passed = part.passed + 1
    if part.verdict is Verdict.DOWN and passed < rise:
        return replace(part, passed=passed, failed=0, reason=f"{reason} ({passed} of {rise} in a row)")
    return PartHealth(Verdict.UP, passed=passed, failed=0, reason=reason)


def part_failed(part: PartHealth, *, fall: int, reason: str) -> PartHealth:
    """Return `part` after one failed probe.

    `fall` in a row make it `suspect`; before any good one they make it `down`.
    """
    failed = part.failed + 1
    verdict = part.verdict
    if failed >= fall:
        verdict = Verdict.SUSPECT if part.verdict is Verdict.UP else (part.verdict or Verdict.DOWN)
    return PartHealth(verdict, passed=0, failed=failed, reason=reason)


def part_suspected(part: PartHealth, *, reason: str) -> PartHealth:
    """Return `part` when a silence, or stores, make it suspect at once.

    Nothing is suspected before it was up.
    """
    verdict = Verdict.SUSPECT if part.verdict is Verdict.UP else part.verdict
    return replace(part, verdict=verdict, passed=0, reason=reason)


def part_given_up(part: PartHealth) -> PartHealth:
    """Return `part` when its service is `down`: what was suspect is down, and every run begins anew."""
    verdict = Verdict.DOWN if part.verdict is Verdict.SUSPECT else part.verdict
    return replace(part, verdict=verdict, passed=0)
