"""C-FIND, C-MOVE, C-GET (PS3.4 C.4): identifiers to questions of the index, matches to identifiers. Pure.

What a key means is decided in `dicom.query_keys`, how it is searched in `queries`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from failover.archive.attributes import SPECIFIC_CHARACTER_SET, key_text
from failover.archive.header import scan
from failover.archive.matches import Match
from failover.archive.queries import SOP_CLASSES_IN_STUDY, Level, Query, any_vr, make_query
from failover.dicom.data_sets import decoded
from failover.dicom.identifier import element
from failover.dicom.query_keys import KeyUnreadable
from failover.dicom.syntaxes import IMPLICIT_LITTLE

PATIENT_ROOT: Final = "1.2.840.10008.5.1.4.1.2.1."
STUDY_ROOT: Final = "1.2.840.10008.5.1.4.1.2.2."
FIND: Final = frozenset({PATIENT_ROOT + "1", STUDY_ROOT + "1"})
MOVE: Final = frozenset({PATIENT_ROOT + "2", STUDY_ROOT + "2"})
GET: Final = frozenset({PATIENT_ROOT + "3", STUDY_ROOT + "3"})

_QUERY_LEVEL: Final = 0x00080052
_RETRIEVE_AE: Final = 0x00080054
_PATIENT_ID: Final = 0x00100020
_LEVELS: Final = {
    "PATIENT": Level.PATIENT,
    "STUDY": Level.STUDY,
    "SERIES": Level.SERIES,
    "IMAGE": Level.IMAGE,
}
# The unique keys (PS3.4 C.6.1.1): an answer names its object even where only other keys were asked for.
_UNIQUE: Final = {
    Level.PATIENT: (_PATIENT_ID,),
    Level.STUDY: (0x0020000D,),
    Level.SERIES: (0x0020000D, 0x0020000E),
    Level.IMAGE: (0x0020000D, 0x0020000E, 0x00080018),
}
# Answers are kept for callers who ask for so many attributes at most: workstations ask for 10 to 40.
_MOST_KEPT_KEYS: Final = 64
# A question of so many bytes at most is kept: a list of ten thousand UIDs is not.
_LONGEST_KEPT_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class Identifier:
    """What a caller sent: its keys as text, decoded, and their VRs. A sequence has no text.

    `asked_into` are the sequences whose items hold a value to be matched (PS3.4 C.2.2.2.6).
    """

    keys: Mapping[int, str]
    vrs: Mapping[int, str]
    asked_into: frozenset[int] = frozenset()


def read_identifier(raw: bytes, transfer_syntax_uid: str) -> Identifier:
    """Return the identifier in `raw`. Raises UnreadableDataSet."""
    scanned = scan(raw, transfer_syntax_uid, None)
    character_set = scanned.values.get(SPECIFIC_CHARACTER_SET, ("CS", b""))[1]
    keys: dict[int, str] = {}
    vrs: dict[int, str] = {}
    for tag, (said, value) in scanned.values.items():
        if tag & 0xFFFF == 0:
            continue
        vr = said if said not in ("", "UN") else any_vr(tag)
        vrs[tag] = vr
        keys[tag] = "" if vr == "SQ" else key_text(vr, value, character_set, scanned.little_endian)
    has_sequences = "SQ" in vrs.values()
    return Identifier(keys, vrs, _asked_into(raw, transfer_syntax_uid) if has_sequences else frozenset())


def _asked_into(raw: bytes, transfer_syntax_uid: str) -> frozenset[int]:
    """Return the sequences with an item in which anything but a sequence or `*` has a value."""
    found = decoded(raw, transfer_syntax_uid)
    return frozenset(
        int(element.tag)
        for element in found
        if element.VR == "SQ"
        and any(
            inner.VR != "SQ" and not inner.is_empty and str(inner.value) != "*"
            for item in element.value
            for inner in item.iterall()
        )
    )


def question(identifier: Identifier, model_uid: str) -> Query:
    """Return what `identifier` asks. Raises KeyUnreadable (0xA900)."""
    level = _level(identifier, model_uid)
    keys = {
        tag: text
        for tag, text in identifier.keys.items()
        if tag != _QUERY_LEVEL and identifier.vrs[tag] != "SQ"
    }
    query = make_query(level, keys)
    unsupported = query.unsupported | identifier.asked_into
    return replace(query, unsupported=unsupported, with_sop_classes=SOP_CLASSES_IN_STUDY in keys)


def asked(raw: bytes, transfer_syntax_uid: str, model_uid: str) -> tuple[Identifier, Query]:
    """Return the identifier in `raw`, and what it asks. Raises UnreadableDataSet, KeyUnreadable."""
    return (_kept if len(raw) <= _LONGEST_KEPT_BYTES else _asked)(raw, transfer_syntax_uid, model_uid)


def _asked(raw: bytes, transfer_syntax_uid: str, model_uid: str) -> tuple[Identifier, Query]:
    identifier = read_identifier(raw, transfer_syntax_uid)
    return identifier, question(identifier, model_uid)


_kept = lru_cache(512)(_asked)  # workstations ask the same every half minute


def selection(identifier: Identifier, model_uid: str) -> Query:
    """Return what a C-MOVE or C-GET wants: the unique keys alone select (PS3.4 C.4.2.1.4.1).

    Raises KeyUnreadable where the key of the level is missing: that would be everything.
    """
    level = _level(identifier, model_uid)
    wanted = {*_UNIQUE[level], _PATIENT_ID} if model_uid.startswith(PATIENT_ROOT) else {*_UNIQUE[level]}
    keys = {tag: text for tag, text in identifier.keys.items() if tag in wanted}
    own = _UNIQUE[level][-1]
    if not keys.get(own, "").strip("\0 "):
        raise KeyUnreadable("the unique key of the level is missing")
    if any(character in keys[own] for character in "*?"):
        raise KeyUnreadable("a retrieve takes no wild cards")
    # A patient ID that retrieves is compared as it is written: other case may be another patient.
    patient_id = keys.pop(_PATIENT_ID, "").strip("\0 ")
    query = make_query(level, keys)
    return Query(level, query.keys, query.unsupported, exact={_PATIENT_ID: patient_id} if patient_id else {})


def studies_of(query: Query) -> Query:
    """Return the question for the studies of the patient that a retrieve at patient level names."""
    return Query(Level.STUDY, query.keys, exact=query.exact)


class Made:
    """Answers that were made, by what was asked for and the match's own JSON: it depends on nothing else, so
    none of them can grow stale. A workstation asks for the same day every half minute.

    Bounded: beyond `most` of them all are forgotten.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._known = 0
        self._answers: dict[object, dict[bytes, bytes]] = {}

    def of(self, shape: object) -> dict[bytes, bytes]:
        """Return the answers to what has this shape, by the JSON of their matches; to be added to."""
        return self._answers.setdefault(shape, {})

    def added(self, count: int) -> None:
        """Note that so many were added."""
        self._known += count
        if self._known > self._most:
            self._known = 0
            self._answers.clear()


class Answers:
    """What a C-FIND answers, match by match: what was asked for, as far as it is held, and the unique keys.

    What is the same for all matches is worked out once.
    """

    def __init__(
        self,
        identifier: Identifier,
        level: Level,
        ae_title: str,
        transfer_syntax_uid: str,
        made: Made | None = None,
    ) -> None:
        self._implicit = transfer_syntax_uid == IMPLICIT_LITTLE
        # The answer to a study alone is kept: of those to lower levels there are too many, and each is asked
        # for once, when a study is opened. Nor one to a caller who asks for hundreds of attributes.
        self._made = made if level is Level.STUDY and len(identifier.vrs) <= _MOST_KEPT_KEYS else None
        self._known: dict[bytes, bytes] = {}
        if self._made is not None:
            self._known = self._made.of((ae_title, self._implicit, *identifier.vrs.items()))
        self._above: tuple[tuple[bytes, ...], dict[str, Any]] = ((), {})
        self._asked = identifier.vrs
        self._level = level
        self._ae_title = ae_title
        self._elements: list[tuple[int, str, bytes]] | None = None

    def of_all(self, matches: Sequence[Match]) -> list[bytes]:
        """Return the identifiers of `matches`, in their order."""
        if self._made is None:
            return [self.of(match) for match in matches]
        known, answers, added = self._known, [], 0
        for match in matches:
            answer = known.get(match.template)
            if answer is None:
                answer = known[match.template] = self.of(match)
                added += 1
            answers.append(answer)
        self._made.added(added)
        return answers

    def of(self, match: Match) -> bytes:
        """Return the identifier of one match."""
        if self._elements is None:
            self._elements = self._plan()
        held = self._held(match)
        implicit = self._implicit
        return b"".join(
            [
                absent if (found := held.get(name)) is None else element(tag, found, implicit=implicit)
                for tag, name, absent in self._elements
            ]
        )

    def _plan(self) -> list[tuple[int, str, bytes]]:
        """Return of each tag its name in JSON, and the element where a match has none: ours, or empty."""
        own: dict[int, Mapping[str, Any]] = {
            SPECIFIC_CHARACTER_SET: {"vr": "CS", "Value": ["ISO_IR 192"]},
            _QUERY_LEVEL: {"vr": "CS", "Value": [self._level.name]},
            _RETRIEVE_AE: {"vr": "AE", "Value": [self._ae_title]},
        }
        elements: list[tuple[int, str, bytes]] = []
        for tag in sorted({*self._asked, *_UNIQUE[self._level], *own}):
            asked = tag in self._asked
            absent = own.get(tag) or ({"vr": self._asked.get(tag) or any_vr(tag)} if asked else None)
            default = b"" if absent is None else element(tag, absent, implicit=self._implicit)
            elements.append((tag, "" if tag in own else f"{tag:08X}", default))
        return elements

    def _held(self, match: Match) -> dict[str, Any]:
        """Return the attributes of all levels of `match`. Neighbours mostly share the levels above."""
        own: dict[str, Any] = json.loads(match.template)
        if not match.above:
            return own
        if match.above != self._above[0]:
            merged: dict[str, Any] = {}
            for text in reversed(match.above):
                merged.update(json.loads(text))
            self._above = (match.above, merged)
        return self._above[1] | own


def _level(identifier: Identifier, model_uid: str) -> Level:
    level = _LEVELS.get(identifier.keys.get(_QUERY_LEVEL, "").strip("\0 ").upper())
    if level is None:
        raise KeyUnreadable("Query/Retrieve Level must be PATIENT, STUDY, SERIES or IMAGE")
    if level is Level.PATIENT and model_uid.startswith(STUDY_ROOT):
        raise KeyUnreadable("the study root has no patient level")
    return level
