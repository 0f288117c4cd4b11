"""A question to the index: level, keys, limit; and which attribute is held at which level. Pure.

What a key means is decided in `dicom.query_keys`; how it is looked for, in `statements`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from pydicom.datadict import dictionary_VR

from failover.archive.attributes import INSTANCE_TAGS, SERIES_TAGS, STUDY_TAGS
from failover.dicom.fuzzy_names import Fuzzy, fuzzy_key
from failover.dicom.query_keys import (
    AnyWild,
    KeyUnreadable,
    Universal,
    Wanted,
    parse_key,
)


class Level(IntEnum):
    """PS3.4 C.6: the levels of the Query/Retrieve information models, from above."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


MODALITIES_IN_STUDY: Final = 0x00080061
SOP_CLASSES_IN_STUDY: Final = 0x00080062
RETRIEVE_URL: Final = 0x00081190
INSTANCE_AVAILABILITY: Final = 0x00080056

# (0010,xxxx) and these are of the patient level, the rest of STUDY_TAGS of the study level.
_PATIENT_TAGS: Final = frozenset(tag for tag in STUDY_TAGS if tag >> 16 == 0x0010) - {
    0x00101010, 0x00101020, 0x00101030, 0x00102180, 0x001021B0,
}  # fmt: skip

# SQLite nests conditions 1000 deep at most, and nobody types so many.
_MOST_PATTERNS: Final = 500
# What we compute: asked for with a value, it is no key (PS3.4 C.3.4 lists them as return keys).
RETURN_ONLY: Final = frozenset({
    0x00201200, 0x00201202, 0x00201204, 0x00201206, 0x00201208, 0x00201209, RETRIEVE_URL,
    INSTANCE_AVAILABILITY, 0x00080054, 0x00080005, 0x00080052, 0x00880130, 0x00880140,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Query:
    """A question to the index. `unsupported` are keys with a value that had no part in the matching."""

    level: Level
    keys: Mapping[int, Wanted] = field(default_factory=dict)
    unsupported: frozenset[int] = frozenset()
    limit: int | None = None
    offset: int = 0
    exact: Mapping[int, str] = field(default_factory=dict)  # by text as written, e.g. the patient of a C-MOVE
    with_sop_classes: bool = False  # SOP Classes in Study is asked for: it costs a look at each instance
    made: dict[bool, Any] = field(default_factory=dict, init=False, compare=False, repr=False)  # `statements`


def make_query(
    level: Level,
    keys: Mapping[int, str],
    *,
    limit: int | None = None,
    offset: int = 0,
    fuzzy: bool = False,
) -> Query:
    """Return the question that `keys` (tag to text as the caller wrote it) ask. Raises KeyUnreadable.

    A key of a level below the one asked for, or that the index does not know, takes no part and is named in
    `unsupported`. `fuzzy`: person names are matched as `dicom.fuzzy_names` has it.
    """
    wanted: dict[int, Wanted] = {}
    unsupported: set[int] = set()
    for tag, text in keys.items():
        if tag in RETURN_ONLY:
            continue
        vr = vr_of(tag)
        if vr is None or not _is_of_level(tag, level):
            if text.strip("\0 ") not in ("", "*"):
                unsupported.add(tag)
            continue
        key = parse_key(vr, text)
        if fuzzy and vr == "PN" and not isinstance(key, Universal):
            key = fuzzy_key(text)
        if len(_alternatives(key)) > _MOST_PATTERNS:
            raise KeyUnreadable(f"a key of more than {_MOST_PATTERNS} patterns or words")
        if not isinstance(key, Universal):
            wanted[tag] = key
    return Query(level, wanted, frozenset(unsupported), limit, offset)


def _alternatives(key: Wanted) -> Sequence[object]:
    """Return what becomes a condition each."""
    if isinstance(key, Fuzzy):
        return key.words
    return key.patterns if isinstance(key, AnyWild) else ()


def vr_of(tag: int) -> str | None:
    """Return the VR by which a key of `tag` is read; None where the index holds no such attribute."""
    if tag == MODALITIES_IN_STUDY:
        return "CS"
    if tag == SOP_CLASSES_IN_STUDY:
        return "UI"
    return STUDY_TAGS.get(tag) or SERIES_TAGS.get(tag) or INSTANCE_TAGS.get(tag)


def any_vr(tag: int) -> str:
    """Return the VR of any attribute of the standard; UN for others."""
    try:
        return vr_of(tag) or dictionary_VR(tag).split(" or ")[0]
    except KeyError:
        return "UN"


def level_of(tag: int) -> Level | None:
    """Return the highest level at which `tag` is held; None for what the index does not hold."""
    if tag in _PATIENT_TAGS:
        return Level.PATIENT
    if tag in STUDY_TAGS or tag in (MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY):
        return Level.STUDY
    if tag in SERIES_TAGS:
        return Level.SERIES
    return Level.IMAGE if tag in INSTANCE_TAGS else None


def _is_of_level(tag: int, level: Level) -> bool:
    own = level_of(tag)
    return own is not None and own <= level
