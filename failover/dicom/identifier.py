"""Identifiers of C-FIND, C-MOVE and C-GET (PS3.4 C.4): attributes as DICOM JSON to bytes, in UTF-8. Pure.

Made directly, because an answer of a hundred studies has two thousand attributes, and a data set object for
each would cost a hundred times as much.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

_TWO_RESERVED: Final = frozenset(
    {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
)
_NUMBERS: Final = {
    "US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FL": "<f", "FD": "<d", "SV": "<q", "UV": "<Q",
}  # fmt: skip
_PLAIN_TEXT: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_IMPLICIT: Final = struct.Struct("<HHI")
_SHORT: Final = struct.Struct("<HH2sH")
_LONG: Final = struct.Struct("<HH2s2xI")
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
# PS3.5 6.2: a DS has at most 16 bytes, other short values 65,534.
_MOST_DS: Final = 16
_MOST_SHORT: Final = 65534


def encode(attributes: Mapping[int, Mapping[str, Any]], *, implicit: bool) -> bytes:
    """Return `attributes` (tag to DICOM JSON attribute) as a data set, little endian, in the order of tags.

    Text is UTF-8: the caller says so in Specific Character Set. A sequence is empty: none is asked into.
    """
    return b"".join(element(tag, attributes[tag], implicit=implicit) for tag in sorted(attributes))


def element(tag: int, attribute: Mapping[str, Any], *, implicit: bool) -> bytes:
    """Return one element, as `encode` has it."""
    vr: str = attribute["vr"]
    held = attribute.get("Value")
    if not held:
        value = b""
    elif len(held) == 1 and type(held[0]) is str and vr in _PLAIN_TEXT:  # nearly all are: the short way
        value = held[0].encode("utf-8", "replace")
        if len(value) % 2:
            value += b"\0" if vr == "UI" else b" "
    else:
        value = _value(vr, held)
    if implicit:
        return _IMPLICIT.pack(tag >> 16, tag & 0xFFFF, len(value)) + value
    if vr in _TWO_RESERVED:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), len(value)) + value
    value = value[:_MOST_SHORT]
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), len(value)) + value


def _value(vr: str, held: list[Any]) -> bytes:
    if not held or vr in ("SQ", "OB", "OW", "UN", "OF", "OD", "OL", "OV"):
        return b""
    if vr in _NUMBERS:
        return b"".join(struct.pack(_NUMBERS[vr], one) for one in held if one is not None)
    if vr == "AT":
        return b"".join(struct.pack("<HH", int(one[:4], 16), int(one[4:], 16)) for one in held if one)
    text = "\\".join(_text(vr, one) for one in held).encode("utf-8", "replace")
    return text + (b"\0" if vr == "UI" else b" ") if len(text) % 2 else text


def _text(vr: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "=".join(str(value.get(group) or "") for group in _GROUPS).rstrip("=")
    if vr == "DS" and isinstance(value, float):
        written = repr(value)
        return written if len(written) <= _MOST_DS else f"{value:.9g}"
    return str(value)
