"""What differs between the object that is served and one in quarantine, for people to decide by.

Values are short words, pixels and other bulk only a count of bytes. Blocking, reads both files; for a thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

# A value longer than this is cut; so many differences are listed.
_LONGEST_VALUE: Final = 200
MOST_DIFFERENCES: Final = 200
_BULK: Final = frozenset({"OB", "OW", "OB or OW", "UN", "OD", "OF", "OL", "OV"})
_PIXEL_DATA: Final = 0x7FE00010
# Larger files are compared up to their pixels: both would not fit our memory.
LARGEST_BYTES: Final = 32 * 2**20
_NOT_COMPARED: Final = {
    "tag": "7FE00010",
    "keyword": "PixelData",
    "served": "not compared: too large",
    "quarantined": "not compared: too large",
}


def differences(held: Path | None, other: Path) -> list[dict[str, Any]] | None:
    """Return the elements that differ, by tag: `{"tag", "keyword", "served", "quarantined"}`.

    None as a value: the element is not there. None as the answer: nothing is served under this UID any more,
    or one of the files cannot be read.
    """
    if held is None:
        return None
    try:
        large = max(held.stat().st_size, other.stat().st_size) > LARGEST_BYTES
        with (
            pydicom.dcmread(held, stop_before_pixels=large) as served,
            pydicom.dcmread(other, stop_before_pixels=large) as quarantined,
        ):
            return _differences(served, quarantined) + ([_NOT_COMPARED] if large else [])
    except Exception:
        # pydicom raises whatever a broken value makes it raise, and it is a caller's object.
        return None


def _differences(served: Dataset, quarantined: Dataset) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for tag in sorted(served.keys() | quarantined.keys()):
        one, other = _element(served, tag), _element(quarantined, tag)
        if one is not None and other is not None and one.VR == other.VR and one.value == other.value:
            continue
        element = one or other
        found.append(
            {
                "tag": f"{int(tag):08X}",
                "keyword": getattr(element, "keyword", ""),
                "served": _word(one),
                "quarantined": _word(other),
            }
        )
    return found[:MOST_DIFFERENCES]


def _element(data_set: Dataset, tag: BaseTag) -> DataElement | None:
    return data_set.get(tag)


def _word(element: DataElement | None) -> str | None:
    if element is None:
        return None
    if element.VR == "SQ":
        return f"{len(element.value)} items"
    if element.VR in _BULK or element.tag == _PIXEL_DATA:
        return f"{len(element.value or b'')} bytes"
    text = "" if element.is_empty else str(element.value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
