"""C-FIND (PS3.4 C.4.1): an identifier to a question of the index, its matches to identifiers. Pure.

What a key means is decided in `dicom.query_keys`, how it is searched in `queries`.
"""

from __future__ import annotations

from typing import Any, Final

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from failover.archive.queries import Level, Match, Query, any_vr, make_query
from failover.dicom.query_keys import KeyUnreadable

PATIENT_ROOT: Final = "1.2.840.10008.5.1.4.1.2.1."
STUDY_ROOT: Final = "1.2.840.10008.5.1.4.1.2.2."
FIND: Final = frozenset({PATIENT_ROOT + "1", STUDY_ROOT + "1"})
MOVE: Final = frozenset({PATIENT_ROOT + "2", STUDY_ROOT + "2"})
GET: Final = frozenset({PATIENT_ROOT + "3", STUDY_ROOT + "3"})

_QUERY_LEVEL: Final = Tag(0x0008, 0x0052)
_RETRIEVE_AE: Final = Tag(0x0008, 0x0054)
_CHARACTER_SET: Final = Tag(0x0008, 0x0005)
_LEVELS: Final = {
    "PATIENT": Level.PATIENT,
    "STUDY": Level.STUDY,
    "SERIES": Level.SERIES,
    "IMAGE": Level.IMAGE,
}
# The unique keys (PS3.4 C.6.1.1): an answer names its object even where only other keys were asked for.
_UNIQUE: Final = {
    Level.PATIENT: (0x00100020,),
    Level.STUDY: (0x0020000D,),
    Level.SERIES: (0x0020000D, 0x0020000E),
    Level.IMAGE: (0x0020000D, 0x0020000E, 0x00080018),
}


def question(identifier: Dataset, model_uid: str) -> Query:
    """Return what `identifier` asks. Raises KeyUnreadable (0xA900)."""
    level = _level(identifier, model_uid)
    keys = {
        int(element.tag): _text(element)
        for element in identifier
        if element.VR != "SQ" and element.tag.element != 0 and element.tag != _QUERY_LEVEL
    }
    return make_query(level, keys)


def selection(identifier: Dataset, model_uid: str) -> Query:
    """Return what a C-MOVE or C-GET wants: the unique keys alone select (PS3.4 C.4.2.1.4.1).

    Raises KeyUnreadable where the key of the level is missing: that would be everything.
    """
    level = _level(identifier, model_uid)
    wanted = {*_UNIQUE[level], 0x00100020} if model_uid.startswith(PATIENT_ROOT) else {*_UNIQUE[level]}
    keys = {int(e.tag): _text(e) for e in identifier if int(e.tag) in wanted}
    own = _UNIQUE[level][-1]
    if not keys.get(own, "").strip("\0 "):
        raise KeyUnreadable("the unique key of the level is missing")
    if any(character in keys[own] for character in "*?"):
        raise KeyUnreadable("a retrieve takes no wild cards")
    exact = {}
    if 0x00100020 in keys:
        patient_id = keys.pop(0x00100020).strip("\0 ")
        if patient_id:
            exact[0x00100020] = patient_id
    query = make_query(level, keys)
    return Query(level, query.keys, query.unsupported, exact=exact)


def studies_of(query: Query) -> Query:
    """Return the question for the studies of the patient that a retrieve at patient level names."""
    return Query(Level.STUDY, query.keys, exact=query.exact)


def answer(match: Match, identifier: Dataset, ae_title: str) -> Dataset:
    """Return the identifier of one match: what was asked for, as far as it is held, and the unique keys."""
    held = match.attributes()
    asked = {int(element.tag) for element in identifier if element.tag.element != 0}
    wanted = asked | {tag for tag in _UNIQUE[match.level] if f"{tag:08X}" in held}
    found: dict[str, Any] = {}
    for tag in sorted(wanted):
        key = f"{tag:08X}"
        found[key] = held.get(key) or {"vr": _vr(identifier, tag)}
    result: Dataset = Dataset.from_json({key: value for key, value in found.items() if value["vr"] != "SQ"})
    result.SpecificCharacterSet = "ISO_IR 192"
    result.QueryRetrieveLevel = match.level.name
    result.RetrieveAETitle = ae_title
    return result


def _level(identifier: Dataset, model_uid: str) -> Level:
    word = str(identifier.get(_QUERY_LEVEL, DataElement(_QUERY_LEVEL, "CS", "")).value or "").strip().upper()
    level = _LEVELS.get(word)
    if level is None:
        raise KeyUnreadable("Query/Retrieve Level must be PATIENT, STUDY, SERIES or IMAGE")
    if level is Level.PATIENT and model_uid.startswith(STUDY_ROOT):
        raise KeyUnreadable("the study root has no patient level")
    return level


def _vr(identifier: Dataset, tag: int) -> str:
    return identifier[tag].VR if tag in identifier and identifier[tag].VR != "UN" else any_vr(tag)


def _text(element: DataElement) -> str:
    value = element.value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip("\0 ")
    if isinstance(value, MultiValue | list | tuple):
        return "\\".join(str(part) for part in value)
    return str(value)
