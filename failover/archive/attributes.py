"""What the index keeps of an instance: its attributes at three levels as DICOM JSON, decoded. Pure.

Character sets are decoded here once (PS3.5 6.1), so that everything behind it compares and shows Unicode.
A value that breaks its VR stays as the text that stands there: one odd date must not cost a study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydicom import config as pydicom_config
from pydicom.charset import convert_encodings, decode_bytes

from failover.archive.header import Scanned
from failover.dicom.json_model import person_name
from failover.errors import UnreadableDataSet
from failover.model import InstanceKey, Uid, parse_uid

Attributes = dict[str, dict[str, Any]]

# PS3.18 tables 10.6.1-3 and -5, PS3.4 C.6.2.1: what is returned by default, and what the field asks for.
STUDY_TAGS: Final[Mapping[int, str]] = {
    0x00080020: "DA", 0x00080030: "TM", 0x00080050: "SH", 0x00080090: "PN", 0x00080201: "SH",
    0x00081030: "LO", 0x00081048: "PN", 0x00081060: "PN", 0x00081080: "LO", 0x00100010: "PN",
    0x00100020: "LO", 0x00100021: "LO", 0x00100030: "DA", 0x00100032: "TM", 0x00100040: "CS",
    0x00101000: "LO", 0x00101001: "PN", 0x00101010: "AS", 0x00101020: "DS", 0x00101030: "DS",
    0x00102160: "SH", 0x00102180: "SH", 0x001021B0: "LT", 0x00104000: "LT", 0x0020000D: "UI",
    0x00200010: "SH", 0x00321032: "PN", 0x00321060: "LO",
}  # fmt: skip
SERIES_TAGS: Final[Mapping[int, str]] = {
    0x00080021: "DA", 0x00080031: "TM", 0x00080060: "CS", 0x00080070: "LO", 0x00080080: "LO",
    0x00081010: "SH", 0x0008103E: "LO", 0x00081040: "LO", 0x00081050: "PN", 0x00081070: "PN",
    0x00081090: "LO", 0x00180015: "CS", 0x00181000: "LO", 0x00181030: "LO", 0x00185100: "CS",
    0x0020000E: "UI", 0x00200011: "IS", 0x00200052: "UI", 0x00200060: "CS", 0x00400244: "DA",
    0x00400245: "TM", 0x00400253: "SH", 0x00400254: "LO",
}  # fmt: skip
INSTANCE_TAGS: Final[Mapping[int, str]] = {
    0x00080008: "CS", 0x00080012: "DA", 0x00080013: "TM", 0x00080016: "UI", 0x00080018: "UI",
    0x00080022: "DA", 0x00080023: "DA", 0x0008002A: "DT", 0x00080032: "TM", 0x00080033: "TM",
    0x00180050: "DS", 0x00200012: "IS", 0x00200013: "IS", 0x00200032: "DS", 0x00200037: "DS",
    0x00201041: "DS", 0x00280002: "US", 0x00280004: "CS", 0x00280008: "IS", 0x00280010: "US",
    0x00280011: "US", 0x00280030: "DS", 0x00280100: "US", 0x00280101: "US", 0x00280102: "US",
    0x00280103: "US", 0x00281050: "DS", 0x00281051: "DS", 0x00281052: "DS", 0x00281053: "DS",
    0x00420010: "ST", 0x0040A491: "CS", 0x0040A493: "CS", 0x00700080: "CS", 0x00700081: "LO",
    0x00700082: "DA", 0x00700083: "TM",
}  # fmt: skip
# Of each tag its level (study, series, instance), its name in DICOM JSON and its VR.
_PLACES: Final[Mapping[int, tuple[int, str, str]]] = {
    tag: (level, f"{tag:08X}", vr)
    for level, tags in enumerate((STUDY_TAGS, SERIES_TAGS, INSTANCE_TAGS))
    for tag, vr in tags.items()
}
SPECIFIC_CHARACTER_SET: Final = 0x00080005
WANTED: Final = frozenset({SPECIFIC_CHARACTER_SET, *STUDY_TAGS, *SERIES_TAGS, *INSTANCE_TAGS})

# The objects of a series say nearly the same, each time: what was decoded of short values is kept.
_KEPT_VALUES: Final = 8192
_LONGEST_KEPT: Final = 128

_UNICODE_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_ONE_VALUE_VRS: Final = frozenset({"LT", "ST", "UT", "UR"})
_DELIMITERS: Final = set(b"\r\n\t\f\\")
_NAME_DELIMITERS: Final = set(b"^=\\")
# PS3.3 C.12.1.1.2: these encode every character with one repertoire; their second bytes can be 0x5C.
_WHOLE_CHARSETS: Final = frozenset({"ISO_IR 192", "GB18030", "GBK"})
_NO_NUMBER_OF_VALUES: Final = 4096

# Decoding never raises for a byte that its character set does not know; it is replaced and the rest is read.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE


@dataclass(frozen=True, slots=True)
class Described:
    """What an instance says of itself."""

    key: InstanceKey
    sop_class_uid: Uid
    study: Attributes
    series: Attributes
    instance: Attributes


def describe(scanned: Scanned) -> Described:
    """Return what the index keeps. Raises UnreadableDataSet where a UID is missing or is none."""
    values, little_endian = scanned.values, scanned.little_endian
    character_set = values.get(SPECIFIC_CHARACTER_SET, ("CS", b""))[1]
    study: Attributes = {}
    series: Attributes = {}
    instance: Attributes = {}
    levels = (study, series, instance)
    for tag, (_, raw) in values.items():
        place = _PLACES.get(tag)
        if place is None:
            continue
        level, name, vr = place
        attribute = (_kept if len(raw) <= _LONGEST_KEPT else _attribute)(
            vr, raw, character_set, little_endian
        )
        if attribute is not None:
            levels[level][name] = attribute
    key = InstanceKey(
        _uid(study, "0020000D", "study instance UID"),
        _uid(series, "0020000E", "series instance UID"),
        _uid(instance, "00080018", "SOP instance UID"),
    )
    return Described(key, _uid(instance, "00080016", "SOP class UID"), study, series, instance)


def _attribute(vr: str, raw: bytes, character_set: bytes, little_endian: bool) -> dict[str, Any] | None:
    """Return the attribute as DICOM JSON has it, None for an empty one. Not to be changed: it is shared."""
    charsets = _charsets(character_set)
    held = json_values(vr, raw, charsets, _encodings(charsets), little_endian)
    return {"vr": vr, "Value": held} if held else None


_kept = lru_cache(_KEPT_VALUES)(_attribute)


def json_values(
    vr: str, raw: bytes, charsets: list[str], encodings: list[str], little_endian: bool = True
) -> list[Any]:
    """Return the values of an attribute as DICOM JSON has them (PS3.18 F.2.2); [] for an empty one."""
    if vr == "US":
        order = "little" if little_endian else "big"
        return [int.from_bytes(raw[i : i + 2], order) for i in range(0, len(raw) - len(raw) % 2, 2)]  # type: ignore[arg-type]
    text = _text(vr, raw, charsets, encodings)
    parts = [text] if vr in _ONE_VALUE_VRS else text.split("\\")[:_NO_NUMBER_OF_VALUES]
    held = [_json_value(vr, part) for part in parts]
    while held and held[-1] in (None, "", {}):
        held.pop()
    return [one if one not in ("", {}) else None for one in held]


def key_text(vr: str, raw: bytes, character_set: bytes, little_endian: bool = True) -> str:
    """Return the value of a key as its sender wrote it: several values with backslashes between them."""
    if vr == "US":
        numbers = json_values(vr, raw, [], [], little_endian)
        return "\\".join(str(number) for number in numbers)
    if raw.isascii() and b"\x1b" not in raw:  # nearly all are: the short way
        return (raw.rstrip(b"\0 ") if vr != "UI" else raw.strip(b"\0 ")).decode("ascii")
    charsets = _charsets(character_set)
    return _text(vr, raw, charsets, _encodings(charsets))


def _charsets(raw: bytes) -> list[str]:
    text = raw.decode("ascii", "replace").strip("\0 ")
    return [part.strip(" ") for part in text.split("\\")] if text else []


def _encodings(charsets: list[str]) -> list[str]:
    try:
        return list(convert_encodings(charsets or [""]))
    except LookupError:
        return ["iso8859"]


def _text(vr: str, raw: bytes, charsets: list[str], encodings: list[str]) -> str:
    raw = raw.rstrip(b"\0 ") if vr != "UI" else raw.strip(b"\0 ")
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    if vr not in _UNICODE_VRS or not any(charsets):
        # No character set is named, yet bytes beyond ASCII stand there: UTF-8 hardly ever fits by chance.
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")
    if charsets[0] in _WHOLE_CHARSETS:
        return raw.decode(encodings[0], "replace")
    delimiters = _NAME_DELIMITERS if vr == "PN" else _DELIMITERS
    try:
        return str(decode_bytes(raw, encodings, delimiters))
    except (LookupError, UnicodeError):
        return raw.decode("latin-1")


def _json_value(vr: str, text: str) -> Any:
    stripped = text.rstrip("\0 ") if vr in _ONE_VALUE_VRS else text.strip("\0 ")
    if not stripped:
        return None
    # U+FFFF has a meaning of ours in finished JSON, and SQLite's functions end text at a NUL.
    stripped = stripped.replace("\uffff", "\ufffd").replace("\0", "")
    if vr == "PN":
        return person_name(stripped)
    if vr in ("IS", "DS"):
        try:
            number = float(stripped)
        except ValueError:
            return stripped
        if not math.isfinite(number):
            return stripped
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return stripped


def _uid(attributes: Attributes, tag: str, word: str) -> Uid:
    held = attributes.get(tag, {}).get("Value") or []
    if len(held) != 1:
        raise UnreadableDataSet(f"the data set has no {word}")
    try:
        return parse_uid(str(held[0]))
    except ValueError as error:
        raise UnreadableDataSet(f"the {word} is no UID") from error
