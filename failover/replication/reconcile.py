"""What the archive lacks of the primary's studies, what has changed there, what is settled. Pure.

It compares what a search on the primary said with what the archive holds and with what was known before. It
fetches nothing and remembers nothing: `inventory` remembers, `worker` acts. No clock is compared with that of
another machine: how long a count has stood is measured by our own, and study dates only order and select.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from enum import IntEnum
from typing import Final

SETTLED_AFTER_S: Final = 24 * 3600.0
SWEEP_EVERY_S: Final = 3600.0
# Where a primary does not count, a look costs a search per series: after so long, then at a tenth of the
# study's quiet time.
LOOK_AGAIN_S: Final = 10.0


class Need(IntEnum):
    """What has to be fetched of a study."""

    NOTHING = 0
    MISSING = 1  # compare instance by instance and bring what is missing
    EVERYTHING = 2  # patient or study attributes changed: bring all of it again
    HELD = 3  # the same of a study of which something was evicted for space: bring what is held again


@dataclass(frozen=True, slots=True)
class PatientFacts:
    """Whose study it is, and its accession number. None: this side does not say."""

    patient_id: str | None = None
    issuer: str | None = None
    name: str | None = None
    birth_date: str | None = None
    accession: str | None = None

    def contradicts(self, other: PatientFacts) -> bool:
        """Whether both sides say something of the same attribute, and not the same."""
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if ours is None or theirs is None:
                continue
            tidy = _tidy_name if field.name == "name" else _tidy
            if tidy(ours) != tidy(theirs):
                return True
        return False


def _tidy(value: str) -> str:
    return value.strip(" \0")


def _tidy_name(value: str) -> str:
    # PS3.5 6.2.1: trailing delimiters of components and groups, and padding, are not significant.
    groups = ["^".join(part.strip() for part in group.split("^")).rstrip("^") for group in value.split("=")]
    return "=".join(groups).rstrip("=")


@dataclass(frozen=True, slots=True)
class StudyOnPrimary:
    """One match of a search on the primary."""

    study_instance_uid: str
    study_date: str  # YYYYMMDD, or empty
    study_time: str
    facts: PatientFacts
    instances: int | None  # None: this primary does not count


@dataclass(frozen=True, slots=True)
class StudyInArchive:
    """What the archive holds of a study."""

    instances: int
    not_on_primary: int = 0  # of these, objects not proven there: owed, sent, refused
    facts: PatientFacts = PatientFacts()
    evicted: bool = False  # something of it went for space


@dataclass(frozen=True, slots=True)
class Known:
    """What the inventory remembers of a study."""

    instances: int | None = None  # the primary's count when it was last seen
    stood_s: float = 0.0  # how long that count has stood
    brought_facts: PatientFacts | None = None  # what the primary said when the whole was last fetched
    looked: tuple[int, int] | None = None  # (primary, archive) counts at which nothing was missing
    missing: int | None = None  # how many the last look, instance by instance, did not find
    looked_at_s: float = 0.0  # how long the count had stood at that look
    need: Need = Need.NOTHING  # what was still to be fetched

    @property
    def settled(self) -> bool:
        return self.stood_s >= SETTLED_AFTER_S


@dataclass(frozen=True, slots=True)
class Finding:
    need: Need
    missing: int  # how many of the primary's instances the archive lacks, as far as the counts tell
    reason: str
    evicted: bool = False  # what is missing is not fetched: there was no space for it


def is_evicted(study_date: str, archive: StudyInArchive | None, evicted_until: str | None) -> bool:
    """Whether what is lacking of a study is left out for space: some of it went, or of a younger one."""
    if archive is not None and archive.evicted:
        return True
    held = archive is not None and archive.instances > 0
    return not held and evicted_until is not None and "" < study_date <= evicted_until


def compare(
    primary: StudyOnPrimary, archive: StudyInArchive | None, known: Known, evicted_until: str | None = None
) -> Finding:
    """Return what has to be fetched of a study that the primary has just shown.

    `evicted_until`: the youngest study date of which something went for space (DESIGN 4.2).
    """
    if is_evicted(primary.study_date, archive, evicted_until):
        return _evicted(primary, archive or StudyInArchive(0), known)
    if archive is None or archive.instances == 0:
        return Finding(Need.MISSING, _first(primary.instances, known.instances, 1), "not in the archive")
    if known.need is Need.EVERYTHING:
        # Half of it may have been replaced already: the archive's attributes do not tell any more.
        return Finding(Need.EVERYTHING, known.missing or 0, "the changed study is not yet whole")
    if (
        primary.facts.contradicts(archive.facts)
        # A primary whose search says something else than its objects must not be asked for ever.
        and primary.facts != known.brought_facts
    ):
        return Finding(Need.EVERYTHING, known.missing or 0, "patient or study attributes changed")
    count = primary.instances
    if count is None:
        return _without_count(archive, known)
    if known.looked == (count, archive.instances):
        return Finding(Need.NOTHING, 0, "compared instance by instance")
    if archive.not_on_primary:
        # Counts of a split study do not tell: each side has what the other lacks.
        held_of_primary = archive.instances - archive.not_on_primary
        return Finding(Need.MISSING, max(0, count - held_of_primary), "split between both sides")
    if count > archive.instances:
        return Finding(Need.MISSING, count - archive.instances, "the primary has more instances")
    if count < archive.instances:
        return Finding(Need.MISSING, 0, "the archive has more instances: a look tells which vanished")
    return Finding(Need.NOTHING, 0, "all there")


def _evicted(primary: StudyOnPrimary, archive: StudyInArchive, known: Known) -> Finding:
    """Nothing comes back; but whose study it is must be right in what is left of it."""
    count = _first(primary.instances, known.instances, archive.instances)
    missing = max(0, count - max(0, archive.instances - archive.not_on_primary))
    changed = primary.facts.contradicts(archive.facts) and primary.facts != known.brought_facts
    if archive.instances and (changed or known.need in (Need.HELD, Need.EVERYTHING)):
        return Finding(Need.HELD, missing, "patient or study attributes changed", evicted=True)
    return Finding(Need.NOTHING, missing, "evicted for space", evicted=True)


def _without_count(archive: StudyInArchive, known: Known) -> Finding:
    """The primary's search names no number: look instance by instance, ever more rarely, for a day."""
    if known.missing is None:
        return Finding(Need.MISSING, 1, "the primary does not count instances")
    if known.missing or known.looked is None or known.looked[1] != archive.instances:
        return Finding(Need.MISSING, known.missing, "the archive has others than at the last look")
    if known.settled:
        return Finding(Need.NOTHING, 0, "settled")
    if known.stood_s - known.looked_at_s >= max(LOOK_AGAIN_S, known.stood_s / 10):
        return Finding(Need.MISSING, 0, "time for another look")
    return Finding(Need.NOTHING, 0, "looked at a short while ago")


def _first(*numbers: int | None) -> int:
    return next(number for number in numbers if number is not None)


def stood(known: Known, count: int | None, elapsed_s: float) -> float:
    """Return for how long the primary's count has stood, `elapsed_s` after it was last seen.

    A study without a count keeps what it had: only a look, instance by instance, knows better.
    """
    if count is None:
        return known.stood_s + elapsed_s if known.instances is not None else 0.0
    if known.instances != count:
        return 0.0
    return known.stood_s + elapsed_s


def newest_first(studies: Iterable[StudyOnPrimary]) -> list[StudyOnPrimary]:
    """Return `studies` in the order in which they are fetched."""
    return sorted(studies, key=lambda s: (s.study_date, s.study_time), reverse=True)


def recent_days(today: date) -> tuple[date, date]:
    """The study dates of each poll. Yesterday to tomorrow: the primary may live in another time zone."""
    return today - timedelta(days=1), today + timedelta(days=1)


def window_days(today: date, length: int) -> list[date]:
    """The study dates of the window, tomorrow first, then back from today."""
    return [today + timedelta(days=1 - back) for back in range(length + 2)]


def sweep_share(window_length: int, elapsed_s: float, carried: float) -> tuple[int, float]:
    """Return how many days the sweep has to look at after `elapsed_s`, and the fraction carried on.

    The whole window once an hour, spread over it.
    """
    due = carried + window_length * elapsed_s / SWEEP_EVERY_S
    days = int(due)
    return min(days, window_length), due - days


def window_from(
    today: date, days: Iterable[date], swept: Collection[date], absent: Collection[date]
) -> date | None:
    """Return the window's first day: from today back to the last day of which every study was found.

    `swept` are the days that have been compared, `absent` those with a study of which the archive holds
    nothing. None when today is not covered.
    """
    first = None
    for day in sorted(days, reverse=True):
        complete = day in swept and day not in absent
        if not complete and day > today:
            continue  # nothing is promised of tomorrow
        if not complete:
            break
        if day <= today:
            first = day
    return first


def coverage(instances: int, missing: int) -> float:
    """The fraction of the primary's instances in the window that the archive holds; 1 when it has none."""
    if instances <= 0:
        return 1.0
    return max(0.0, min(1.0, (instances - missing) / instances))


def parse_day(text: str) -> date | None:
    """Return a DA value (PS3.5 6.2) as a date; also the old form 1993.08.22. None when it is neither."""
    digits = text.strip().replace(".", "")
    if len(digits) != 8:
        return None
    try:
        return datetime.strptime(digits, "%Y%m%d").date()
    except ValueError:
        return None


def dicom_day(day: date) -> str:
    """Return `day` as a DA value."""
    return f"{day.year:04}{day.month:02}{day.day:02}"


def missing_instances(on_primary: Mapping[str, object], in_archive: Collection[str]) -> list[str]:
    """Return the SOP instance UIDs of the primary that the archive lacks, in the primary's order."""
    held = set(in_archive)
    return [uid for uid in on_primary if uid not in held]
