"""What the replicator may do to the primary now, by the router's last word. Pure.

In forced backup and drain the primary is not touched in any way: it may be in the middle of an upgrade, and a
rollback would lose what was written. While it is down it is asked only whether it answers a search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from failover.model import Mode, Phase, UpstreamName, Verdict

# The router's last word counts for so long; then nothing is touched: an operator may have spoken. It is asked
# each second. Shorter than the router waits for us (5 s): who did not hear in time begins nothing new.
WORD_COUNTS_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Word:
    """What the router said last: the answer to its control method `route`."""

    mode: Mode
    phase: Phase
    forced: UpstreamName | None
    keep_replicating: bool
    web: Verdict | None  # None: not known yet, or no such service
    dicom: Verdict | None
    store_web: Verdict | None = None  # what is thought of stores alone, of callers' and of ours
    store_dicom: Verdict | None = None
    vanished: str | None = None  # owed or deleted: what an operator decided on what the recheck misses

    def doubts_stores(self, service: str) -> bool:
        """Whether stores by `service` (web, dicom) are suspect or down: it gets one object at a time."""
        verdict = self.store_web if service == "web" else self.store_dicom
        return verdict in (Verdict.SUSPECT, Verdict.DOWN)


@dataclass(frozen=True, slots=True)
class Permission:
    touch: bool  # ask the primary anything at all
    web: bool  # fetch and send through it
    dicom: bool
    send: bool  # write to it; while no service is up, one object at a time as a probe
    reason: str

    @property
    def work(self) -> bool:
        """Whether there is a service to fetch from or send to."""
        return self.touch and (self.web or self.dicom)


def parse_word(answer: Mapping[str, Any]) -> Word:
    """Read the router's answer. Raises ValueError, KeyError, TypeError: then it said nothing."""
    primary = answer["primary"]
    forced = answer.get("forced")
    store = answer.get("store") or {}
    return Word(
        mode=Mode(answer["mode"]),
        phase=Phase(answer["phase"]),
        forced=UpstreamName(forced) if forced else None,
        keep_replicating=bool(answer.get("keep_replicating", False)),
        web=_verdict(primary.get("web")),
        dicom=_verdict(primary.get("dicom")),
        store_web=_verdict(store.get("web")),
        store_dicom=_verdict(store.get("dicom")),
        vanished=str(answer["vanished"]) if answer.get("vanished") else None,
    )


def _verdict(value: object) -> Verdict | None:
    return Verdict(str(value)) if value else None


def permission(word: Word | None, age_s: float) -> Permission:
    """Return what is allowed `age_s` seconds after the router's last `word`."""
    if word is None:
        return _nothing("the router has not spoken yet")
    if word.mode is Mode.DRAIN and not word.keep_replicating:
        return _nothing("the primary is drained")
    if word.mode is Mode.FORCED and word.forced is not UpstreamName.PRIMARY and not word.keep_replicating:
        return _nothing("forced to the backup")
    if age_s > WORD_COUNTS_S:
        return _nothing("the router is silent")
    web, dicom = word.web is Verdict.UP, word.dicom is Verdict.UP
    if not web and not dicom:
        return Permission(True, False, False, True, "the primary is not up")
    return Permission(True, web, dicom, True, "allowed")


def interrupts(before: Word | None, word: Word) -> bool:
    """Whether the primary may have lost something since `before`: it was away, or others worked on it.

    The start of a replicator counts: what happened while there was none, nobody knows.
    """
    if before is None or not permission(word, 0.0).work or Verdict.DOWN in (word.web, word.dicom):
        return True
    if isolates(before) and not isolates(word):
        return True
    return word.phase is not before.phase and word.phase is Phase.ON_BACKUP


def isolates(word: Word) -> bool:
    """Whether an operator keeps callers from the primary, so that it may be serviced."""
    # A router that does not say to whom it is forced may mean the backup: a recheck too many harms nobody.
    return word.mode is Mode.DRAIN or (word.mode is Mode.FORCED and word.forced is not UpstreamName.PRIMARY)


def _nothing(reason: str) -> Permission:
    return Permission(False, False, False, False, reason)
