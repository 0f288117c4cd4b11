"""Objects that come as metadata and bulk data (PS3.18 10.5.1): JSON and values, made into Part 10 files.

Blocking, and bounded by whoever collects the parts. Reading the body is `store`'s, keeping the objects
`instances`'.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from failover.archive.codecs import FRAME_MEDIA_TYPES
from failover.dicom.data_sets import encoded
from failover.dicom.part10 import write_head
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from failover.errors import UnreadableDataSet
from failover.http.media_types import MediaType

_PIXEL_DATA: Final = 0x7FE00010
_OCTETS: Final = "application/octet-stream"
# Of the file meta information, and lengths of groups: they are made anew.
_META_GROUP: Final = "0002"
MAX_OBJECTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Bulk:
    """One bulk data part: its media type and its bytes."""

    media: MediaType
    content: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """An object that cannot be made; the UIDs as far as its metadata name them."""

    sop_class_uid: str
    sop_instance_uid: str


def read_metadata(content: bytes) -> list[dict[str, Any]]:
    """Return the objects that a metadata part describes. Raises UnreadableDataSet."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableDataSet("the metadata is no JSON") from error
    objects = found if isinstance(found, list) else [found]
    if not all(isinstance(one, dict) for one in objects) or len(objects) > MAX_OBJECTS:
        raise UnreadableDataSet(f"the metadata is no array of at most {MAX_OBJECTS} objects")
    return objects


def compose(metadata: Mapping[str, Any], bulk: Mapping[str, Bulk], base: str) -> bytes | Refused:
    """Return the Part 10 file of one object; `bulk` by absolute URI, below `base` where it is relative."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _part10(metadata, bulk, base)
    except Exception:  # pydicom raises what it likes for JSON that is no DICOM JSON, RecursionError among it
        return Refused(_uid(metadata, "00080016"), _uid(metadata, "00080018"))


def _part10(metadata: Mapping[str, Any], bulk: Mapping[str, Bulk], base: str) -> bytes:
    used: dict[int, Bulk] = {}

    def value(tag: str, _vr: str, uri: str) -> bytes:
        found = bulk[urljoin(base, uri)]
        used[int(tag, 16)] = found
        return found.content

    own = {
        tag: one
        for tag, one in metadata.items()
        if not tag.startswith(_META_GROUP) and not tag.endswith("0000")
    }
    data_set = Dataset.from_json(own, value)
    data_set.SpecificCharacterSet = "ISO_IR 192"  # JSON is UTF-8
    syntax = EXPLICIT_LITTLE
    pixels = used.get(_PIXEL_DATA)
    if pixels is not None and pixels.media.essence != _OCTETS:
        syntax = _syntax_of(pixels.media)
        if int(data_set.get("NumberOfFrames") or 1) != 1:
            raise UnreadableDataSet("where compressed frames begin cannot be told from one value")
        data_set.PixelData = encapsulate([pixels.content])
        data_set["PixelData"].VR = "OB"
        data_set["PixelData"].is_undefined_length = True
    head = write_head(str(data_set.SOPClassUID), str(data_set.SOPInstanceUID), syntax)
    return head + encoded(data_set, EXPLICIT_LITTLE)


def _syntax_of(media: MediaType) -> str:
    named = media.parameters.get("transfer-syntax", "")
    if FRAME_MEDIA_TYPES.get(named) == media.essence:
        return named
    raise UnreadableDataSet("compressed pixels must name a transfer syntax of their media type")


def _uid(metadata: Mapping[str, Any], tag: str) -> str:
    attribute = metadata.get(tag)
    values: Sequence[Any] = (attribute.get("Value") or []) if isinstance(attribute, dict) else []
    found = values[0] if isinstance(values, list) and values else ""
    return found if isinstance(found, str) and len(found) <= 64 and found.replace(".", "").isdigit() else ""
