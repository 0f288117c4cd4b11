"""Which objects go, and why the others stay (DESIGN 4.4, retention). Pure.

An object goes when it is older than `days`, or earlier where space runs out, oldest first; never while it is
owed or refused, and with a primary never without a proof, younger than 24 h, that it is there. What was
deleted there needs none. For space the oldest study goes first, whenever it came: the first inventory brings
the newest first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from failover.model import DebtState

# DESIGN 4.4: a proof has a date. A primary restored from last night's dump has lost what was proven.
PROOF_AGE_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Policy:
    """`needs_proof`: there is a primary. Without one the archive evicts by age and space alone."""

    days: int
    max_bytes: int
    min_free_bytes: int
    needs_proof: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """One object, as retention sees it. Times are seconds since 1970 of our own clock."""

    row: int
    size_bytes: int
    study_date: str  # YYYYMMDD, or what stands there
    arrived_at: float  # the last time
    state: DebtState
    proven_at: float | None
    protected: bool = False


class Cause(StrEnum):
    AGE = "age"
    SPACE = "space"


def counts_from(candidate: Candidate) -> float:
    """Return the moment from which an object's days count: its last arrival.

    DESIGN wants the later of the study date, no later than the arrival, and the last arrival: that is always
    the last arrival, whatever stands in the study date. An old study that a reader fetches today stays.
    """
    return candidate.arrived_at


def is_old(candidate: Candidate, policy: Policy, now: float) -> bool:
    """Return whether the object has been here for its days."""
    return counts_from(candidate) < now - timedelta(days=policy.days).total_seconds()


def why_it_stays(candidate: Candidate, policy: Policy, now: float) -> str | None:
    """Return the sentence why the object must not go, whatever its age; None when it may."""
    if candidate.protected:
        return "its study is protected"
    if candidate.state in (DebtState.OWED, DebtState.SENT):
        return "the primary does not have it yet"
    if candidate.state is DebtState.REFUSED:
        return "the primary refuses it: it is nowhere else"
    if not policy.needs_proof or candidate.state is DebtState.DELETED:
        return None
    if candidate.proven_at is None:
        return "nobody has asked the primary for it"
    if now - candidate.proven_at > PROOF_AGE_S:
        return "its proof is older than 24 h"
    return None


@dataclass(frozen=True, slots=True)
class Standing:
    """A study, as retention sees the whole of it; counts are of its objects."""

    last_arrival: float
    owed: int
    refused: int
    unproven: int  # without a proof young enough, of those that need one
    protected: bool


def outlook(
    study: Standing, policy: Policy, now: float, *, for_space: bool, by_age: bool = True
) -> tuple[float | None, Cause | None, str | None]:
    """Return when the last of a study goes, why, and what it waits for.

    `for_space`: its bytes are wanted now. `by_age`: the clock is believed. None: it never goes as it stands,
    and the sentence says why.
    """
    if study.protected:
        return None, None, "it is protected"
    if study.refused:
        return None, None, f"{study.refused} of it were refused by the primary, or lost before they were sent"
    due = study.last_arrival + timedelta(days=policy.days).total_seconds()
    cause = Cause.SPACE if for_space and (due > now or not by_age) else Cause.AGE
    goes_at = now if cause is Cause.SPACE else max(now, due)
    if cause is Cause.AGE and not by_age:
        return goes_at, cause, "nothing goes by age while the clock is in doubt"
    if study.owed:
        return goes_at, cause, f"{study.owed} of it are not on the primary yet: they stay until they are"
    if policy.needs_proof and study.unproven and goes_at <= now:
        return goes_at, cause, f"the primary is asked for {study.unproven} of it first"
    return goes_at, cause, None


def space_wanted(held_bytes: int, free_bytes: int, policy: Policy) -> int:
    """Return how many bytes must go for space. Begins above the free space below which stores are refused."""
    over = held_bytes - policy.max_bytes
    short = policy.min_free_bytes + policy.min_free_bytes // 2 - free_bytes
    return max(0, over, min(short, held_bytes))


@dataclass(frozen=True, slots=True)
class ClockSeen:
    """What the wall clock showed when it was last believed. `monotonic_s` None: before a restart."""

    wall: float
    monotonic_s: float | None


def leap_s(seen: ClockSeen, wall: float, monotonic_s: float) -> float:
    """Return how far the wall clock is ahead of where it should be; over a restart, time off counts."""
    passed_s = 0.0 if seen.monotonic_s is None else monotonic_s - seen.monotonic_s
    return wall - seen.wall - passed_s


def may_age(leap: float, policy: Policy) -> bool:
    """Return whether the wall clock is believed: a leap of `days` would make all that is held old at once.

    A tenth of them, at least a day, is the most that may go too early. A clock behind keeps all longer.
    """
    return leap <= max(timedelta(days=1), timedelta(days=policy.days) / 10).total_seconds()


def choose(
    oldest_first: Iterable[Candidate],
    policy: Policy,
    now: float,
    wanted_bytes: int,
    *,
    by_age: bool = True,
) -> list[tuple[Candidate, Cause]]:
    """Return what goes now, from candidates in the order of their age; not `by_age`: for space alone."""
    going: list[tuple[Candidate, Cause]] = []
    for candidate in oldest_first:
        if why_it_stays(candidate, policy, now) is not None:
            continue
        if by_age and is_old(candidate, policy, now):
            going.append((candidate, Cause.AGE))
        elif wanted_bytes > 0:
            going.append((candidate, Cause.SPACE))
        else:
            continue
        wanted_bytes -= candidate.size_bytes
    return going
