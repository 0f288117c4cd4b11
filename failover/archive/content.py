"""Do two Part 10 files hold the same object, however each is encoded? Asked only when their bytes differ.

The same image comes twice in other clothes: implicit or explicit VR, another character set, compressed on the
way. That is no conflict. What cannot be shown to be the same counts as different: then both are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import BaseTag

from failover.archive import codecs, pixels

# Above this two decoded objects would not fit our memory together; they then count as different.
MAX_DECODED_BYTES: Final = 128 * 2**20
_PIXEL_DATA: Final = 0x7FE00010
# What compression may change, and padding: PS3.3 C.7.6.1.1.5, C.7.6.3.1.2; PS3.10 7.2.
_ENCODING: Final = frozenset({0x00080001, 0x00080005, 0x00280004, 0x00280006, 0xFFFCFFFC})
_BINARY: Final = frozenset({"OB", "OW", "OB or OW", "UN", "OD", "OF", "OL", "OV"})


def same_object(one: Path, other: Path, *, ours: bool = False) -> bool:
    """Return whether the files hold the same attributes and pixels. Never raises for their content.

    `ours`: we have compressed `one`, and proven that it can be decoded.
    """
    try:
        with pydicom.dcmread(one) as first, pydicom.dcmread(other) as second:
            return same_attributes(first, second) and _same_pixels(first, second, ours=ours)
    except Exception:
        # pydicom raises whatever a broken value makes it raise; different is the safe answer.
        return False


def same_attributes(one: Dataset, other: Dataset) -> bool:
    """Return whether both say the same, pixel data and what only tells its encoding aside."""
    tags, others = _tags(one), _tags(other)
    return tags == others and all(_same_element(one, other, tag) for tag in tags)


def _tags(data_set: Dataset) -> list[BaseTag]:
    tags = (BaseTag(tag) for tag in sorted(data_set.keys()))
    return [tag for tag in tags if tag.element != 0 and tag not in _ENCODING and tag != _PIXEL_DATA]


def _same_element(one: Dataset, other: Dataset, tag: BaseTag) -> bool:
    raw: object = one.get_item(tag)
    raw_other: object = other.get_item(tag)
    if isinstance(raw, RawDataElement) and isinstance(raw_other, RawDataElement):
        same_endian = raw.is_little_endian == raw_other.is_little_endian
        same_charset = one.get("SpecificCharacterSet") == other.get("SpecificCharacterSet")
        if same_endian and same_charset and raw.value == raw_other.value and raw.value is not None:
            return True
    first, second = one[tag], other[tag]
    if first.VR == "SQ" or second.VR == "SQ":
        return first.VR == second.VR and _same_items(first, second)
    if first.VR in _BINARY and second.VR in _BINARY:
        return bytes(first.value or b"").rstrip(b"\0 ") == bytes(second.value or b"").rstrip(b"\0 ")
    if first.is_empty and second.is_empty:
        return True
    return bool(first.value == second.value)


def _same_items(one: DataElement, other: DataElement) -> bool:
    items, others = list(one.value or ()), list(other.value or ())
    return len(items) == len(others) and all(
        same_attributes(item, other_item) for item, other_item in zip(items, others, strict=True)
    )


def _same_pixels(one: Dataset, other: Dataset, *, ours: bool) -> bool:
    if (_PIXEL_DATA in one) != (_PIXEL_DATA in other):
        return False
    if _PIXEL_DATA not in one:
        return True
    syntax, other_syntax = one.file_meta.TransferSyntaxUID, other.file_meta.TransferSyntaxUID
    both_native = not syntax.is_encapsulated and not other_syntax.is_encapsulated
    if syntax == other_syntax or (both_native and syntax.is_little_endian and other_syntax.is_little_endian):
        return bytes(one.PixelData).rstrip(b"\0") == bytes(other.PixelData).rstrip(b"\0")
    size = int(one.get("NumberOfFrames") or 1) * int(one.Rows) * int(one.Columns) * 2
    if size * int(one.get("SamplesPerPixel") or 1) > MAX_DECODED_BYTES:
        return False
    if ours and not other_syntax.is_encapsulated:
        return _same_frames(Path(str(one.filename)), Path(str(other.filename)))
    frames = zip(iter_pixels(one), iter_pixels(other), strict=True)
    return all(np.array_equal(frame, other_frame) for frame, other_frame in frames)


def _same_frames(compressed: Path, plain: Path) -> bool:
    """Compare what we have compressed, and proven to be decodable, with a file whose frames need no codec."""
    image, other = pixels.open_image(compressed), pixels.open_image(plain)
    return image.frames == other.frames and all(
        np.array_equal(_samples(image, number), _samples(other, number))
        for number in range(1, image.frames + 1)
    )


def _samples(image: pixels.Image, number: int) -> codecs.Array:
    return codecs.decode(image.read_frame(number), image.transfer_syntax, image.layout)[0]
