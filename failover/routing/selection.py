"""Which upstream gets one request, association or kept instance, and where it may be moved. Pure.

Answers it from one immutable `Route`. Leaves to proxy and relay what an upstream can do (takes unsafe
requests, holds the study) and when an answer is whole. In backup mode a choice with `rescue` PRIMARY
means: what the backup cannot give (a retrieve of what is not held, a request that the embedded archive
never gets) is asked of the primary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from failover.model import Mode, Phase, Service, UpstreamName, Verdict

PRIMARY: Final = UpstreamName.PRIMARY
BACKUP: Final = UpstreamName.BACKUP
# None is "not known yet": better than down, worse than up; nobody leaves an upstream because of it.
_RANK: Final[Mapping[Verdict | None, int]] = {
    Verdict.UP: 0, None: 1, Verdict.SUSPECT: 1, Verdict.DOWN: 2,
}  # fmt: skip
_BAD: Final = frozenset({Verdict.SUSPECT, Verdict.DOWN})


class Kind(StrEnum):
    """What may be done with a request."""

    READ = "read"  # safe HTTP; C-ECHO, C-FIND, C-GET, C-MOVE: may be asked anywhere, and twice
    STORE = "store"  # STOW, C-STORE: may be repeated with the same SOP instance UIDs
    OTHER = "other"  # may not be repeated once a byte was sent


@dataclass(frozen=True, slots=True)
class ServiceRoute:
    """Where one service stands. `reads` is who answers reads: the `active` of the status."""

    phase: Phase
    reads: UpstreamName
    stores: UpstreamName


@dataclass(frozen=True, slots=True)
class Route:
    """One immutable snapshot of everything that traffic needs to know."""

    mode: Mode
    forced: UpstreamName | None  # to whom `forced` points; BACKUP in `drain`
    keep_replicating: bool
    services: Mapping[Service, ServiceRoute]
    verdicts: Mapping[tuple[UpstreamName, Service], Verdict | None]  # None: not known yet, or no such service
    exists: frozenset[tuple[UpstreamName, Service]]
    hold_stores: bool  # the last step of failback: hold new stores, at most 1 s

    @property
    def primary_untouched(self) -> bool:
        """True in forced backup and drain:

        the primary gets probes, and nothing else from us or through us.
        """
        return self.forced is BACKUP


@dataclass(frozen=True, slots=True)
class Choice:
    """Where to go, and what then.

    `provisional` is True when `first` or `rescue` is the backup and the primary is not `down`: an answer
    of the backup that is not whole (302 to the viewer, 204 or an empty search, 206, 4xx, 5xx, 0xC001) does
    not count then; the request goes back to the primary and waits until that answers or is `down`. In
    backup mode it is False: the backup's answers stand, and what it cannot give is asked of `rescue`.
    """

    first: UpstreamName | None  # None: nowhere (503 or A-ASSOCIATE-RJ 3/1)
    rescue: UpstreamName | None  # None: it may not be moved
    provisional: bool
    reason: str


def choose(route: Route, service: Service, kind: Kind) -> Choice:
    """Return where a request of `kind` goes now."""
    here = [name for name in (PRIMARY, BACKUP) if (name, service) in route.exists]
    if route.primary_untouched:
        if BACKUP in here:
            return Choice(BACKUP, None, False, f"{_mode_sentence(route)}: the backup alone serves")
        return Choice(None, None, False, f"{_mode_sentence(route)}, and the backup has no {service}")
    if len(here) < 2:
        if not here:
            return Choice(None, None, False, f"no upstream has {service}")
        return Choice(here[0], None, False, f"only the {here[0]} has {service}")
    standing = route.services[service]
    active = standing.stores if kind is Kind.STORE else standing.reads
    mine, theirs = route.verdicts.get((active, service)), route.verdicts.get((active.other, service))
    if active is BACKUP:
        return _in_backup_mode(standing, mine, theirs)
    return _with_primary(kind, mine, theirs)


def _with_primary(kind: Kind, primary: Verdict | None, backup: Verdict | None) -> Choice:
    provisional = primary is not Verdict.DOWN
    if primary not in _BAD or _RANK[backup] >= _RANK[primary]:
        both = " and so is the backup: offered to each in turn" if primary in _BAD else ""
        return Choice(PRIMARY, BACKUP, provisional, f"the primary is {_said(primary)}{both}")
    if kind is Kind.OTHER and provisional:
        return Choice(
            PRIMARY, BACKUP, True, "the primary is suspect, and what may not be repeated waits for it"
        )
    return Choice(BACKUP, PRIMARY, provisional, f"the primary is {primary}, the backup {_said(backup)}")


def _in_backup_mode(standing: ServiceRoute, backup: Verdict | None, primary: Verdict | None) -> Choice:
    if backup in _BAD and _RANK[primary] < _RANK[backup]:
        return Choice(
            PRIMARY,
            BACKUP,
            False,
            f"{standing.phase}, but the backup is {backup}, the primary {_said(primary)}",
        )
    if primary is Verdict.UP or backup in _BAD:
        return Choice(
            BACKUP, PRIMARY, False, f"{standing.phase}: what the backup cannot give, the primary may"
        )
    return Choice(BACKUP, None, False, f"{standing.phase}, and the primary is {_said(primary)}")


def _mode_sentence(route: Route) -> str:
    return "the primary is drained" if route.mode is Mode.DRAIN else "forced to the backup"


def _said(verdict: Verdict | None) -> str:
    return "not known yet" if verdict is None else str(verdict)
