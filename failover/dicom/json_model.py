"""The DICOM JSON model (PS3.18 annex F): data sets to JSON objects, and reading single values back. Pure.

An attribute without a value has no `Value` at all, never an empty list: an empty one in ModalitiesInStudy
kills OHIF's study list. Which large values become a BulkDataURI, and which URI, is decided by the caller.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

JsonObject = dict[str, Any]
# (path, length in bytes) → URI, or None for InlineBinary. A path is tags and item numbers, from 0, joined
# with slashes: "7FE00010", "54000100/0/54001010".
BulkUri = Callable[[str, int], str | None]

BINARY: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_INTEGERS: Final = frozenset({"SL", "SS", "UL", "US", "SV", "UV", "IS"})
_DECIMALS: Final = frozenset({"FL", "FD", "DS"})
_PERSON_NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_SPECIFIC_CHARACTER_SET: Final = 0x00080005
# JSON numbers beyond this lose digits in JavaScript: PS3.18 F.2.2 allows a string for SV and UV.
_MAX_SAFE_INTEGER: Final = 2**53 - 1


def to_json(dataset: Dataset, *, bulk_uri: BulkUri | None = None) -> JsonObject:
    """Return `dataset` as a DICOM JSON object, in tag order, without group lengths (PS3.18 F.2.2).

    Text is UTF-8, and SpecificCharacterSet says so. A value that breaks its VR is given as the text or the
    bytes that stand there, never left out. Values that pydicom has deferred (read with `defer_size`) must get
    a URI from `bulk_uri`; they are not read.
    """
    return _object(dataset, bulk_uri, "")


def element_to_json(element: DataElement) -> JsonObject:
    """Return one attribute as a JSON object: `{"vr": …}` and, if there is one, `Value` or `InlineBinary`."""
    return _attribute(element, None, f"{element.tag:08X}")


def person_name(text: str) -> dict[str, str]:
    """Return the component groups of a PN value: Alphabetic=Ideographic=Phonetic (PS3.18 F.2.2)."""
    groups = zip(_PERSON_NAME_GROUPS, text.split("="), strict=False)
    return {name: group.rstrip("^ ") for name, group in groups if group.rstrip("^ ")}


def values(item: Mapping[str, Any], tag: str) -> list[Any]:
    """Return the values of the attribute `tag` ("0020000D") in a JSON object; [] where there are none."""
    attribute = item.get(tag)
    found = attribute.get("Value") if isinstance(attribute, Mapping) else None
    return list(found) if isinstance(found, list) else []


def first(item: Mapping[str, Any], tag: str) -> str | None:
    """Return the first value of `tag` as text, a person name as A=I=P; None where there is none."""
    found = values(item, tag)
    if not found or found[0] is None:
        return None
    value = found[0]
    if isinstance(value, Mapping):
        groups = [str(value.get(name) or "") for name in _PERSON_NAME_GROUPS]
        return "=".join(groups).rstrip("=")
    return str(value)


def attribute(vr: str, found: Iterable[Any]) -> JsonObject:
    """Return an attribute from finished JSON values; without a `Value` when there are none."""
    held = [value for value in found if value not in (None, "", {})]
    return {"vr": vr, "Value": held} if held else {"vr": vr}


def _object(dataset: Dataset, bulk_uri: BulkUri | None, path: str) -> JsonObject:
    # A JSON object may be asked for while another thread reads the data set: iterate over a copy of the tags.
    result: JsonObject = {}
    for tag in sorted(dataset.keys()):
        if tag.element == 0:
            continue
        name = f"{tag:08X}"
        here = f"{path}/{name}" if path else name
        raw: object = dataset.get_item(tag)
        if isinstance(raw, RawDataElement):
            result[name] = _raw_attribute(dataset, raw, bulk_uri, here)
        else:
            result[name] = _attribute(dataset[tag], bulk_uri, here)
    if (charset := result.get("00080005")) is not None and "Value" in charset:
        result["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}  # PS3.18 F.2: JSON is UTF-8
    return result


def _raw_attribute(dataset: Dataset, raw: RawDataElement, bulk_uri: BulkUri | None, path: str) -> JsonObject:
    value: bytes | None = raw.value
    deferred = value is None and raw.length != 0
    vr = _vr(raw)
    if deferred and vr != "SQ":
        uri = bulk_uri(path, raw.length) if bulk_uri else None
        if uri is not None:
            return {"vr": vr, "BulkDataURI": uri}
    try:
        return _attribute(dataset[raw.tag], bulk_uri, path)
    except Exception:
        # pydicom raises whatever the conversion of a broken value raises: give what stands there.
        return _as_it_stands(vr, value or b"")


def _vr(raw: RawDataElement) -> str:
    if raw.VR is not None and raw.VR != "UN":
        return str(raw.VR)
    try:
        known = dictionary_VR(raw.tag)
    except KeyError:
        return "UN"
    return "OW" if "OW" in known else known.split(" or ")[0]


def _as_it_stands(vr: str, content: bytes) -> JsonObject:
    if not content:
        return {"vr": vr}
    if vr in BINARY or vr == "SQ":
        return {"vr": "UN", "InlineBinary": base64.b64encode(content).decode("ascii")}
    return {"vr": vr, "Value": [content.decode("latin-1").strip("\0 ")]}


def _attribute(element: DataElement, bulk_uri: BulkUri | None, path: str) -> JsonObject:
    vr = _plain_vr(element)
    if vr == "SQ":
        items = [_object(item, bulk_uri, f"{path}/{n}") for n, item in enumerate(element.value or ())]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if isinstance(element.value, bytes | bytearray):
        return _binary(vr, bytes(element.value), bulk_uri, path)
    if element.is_empty:
        return {"vr": vr}
    found = element.value
    many = found if _is_many(found) else [found]
    converted = [_value(vr, one) for one in many]
    while converted and converted[-1] is None:
        converted.pop()
    return {"vr": vr, "Value": converted} if converted else {"vr": vr}


def _plain_vr(element: DataElement) -> str:
    vr = str(element.VR)
    if " or " not in vr:
        return vr
    # pydicom leaves "US or SS" and "OB or OW" where the pixel representation is not known.
    return "OW" if "OW" in vr else vr.split(" or ", maxsplit=1)[0]


def _is_many(found: object) -> bool:
    return hasattr(found, "__iter__") and not isinstance(found, str | bytes) and hasattr(found, "append")


def _binary(vr: str, content: bytes, bulk_uri: BulkUri | None, path: str) -> JsonObject:
    if not content:
        return {"vr": vr}
    if vr not in BINARY:
        return _as_it_stands(vr, content)
    uri = bulk_uri(path, len(content)) if bulk_uri else None
    if uri is not None:
        return {"vr": vr, "BulkDataURI": uri}
    return {"vr": vr, "InlineBinary": base64.b64encode(content).decode("ascii")}


def _value(vr: str, value: Any) -> Any:
    """One value; None (JSON null) for an empty one among others (PS3.18 F.2.5)."""
    if value is None or value == "":
        return None
    if vr == "PN":
        return person_name(str(value)) or None
    if vr in _INTEGERS:
        number = int(value)
        return number if abs(number) <= _MAX_SAFE_INTEGER else str(number)
    if vr in _DECIMALS:
        return _decimal(value)
    if vr == "AT":
        return f"{BaseTag(value):08X}"
    return str(value)


def _decimal(value: Any) -> int | float | str:
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    # 1.0 and 1 are the same number; the shorter one is what others write for DS.
    return int(number) if number.is_integer() and abs(number) <= _MAX_SAFE_INTEGER else number
