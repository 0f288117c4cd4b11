"""Where the frames of a held object lie in its file, told by the index and the item tags alone.

So a frame that goes out as it stands needs no decoder: nothing of a sender's is parsed but eight bytes an
item, and those are bounded. What is not plain (frames in several fragments, colour, single bits, other byte
orders) is left to `pixels`, in a decoder. `FrameTables` reads, and blocks: call it in a thread.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final

from failover.archive.held import Held
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE

Extent = tuple[int, int]  # offset from the start of the file, length

_ITEM: Final = 0xFFFEE000
_SEQUENCE_DELIMITER: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
# Tables of objects that are being looked at, and the most fragments of one: 16 x 20,000 take 40 MB at worst.
_KEPT_TABLES: Final = 16
_MAX_FRAGMENTS: Final = 20_000


def frame_count(held: Held) -> int | None:
    """Return how many frames the object says it has; None where only its file tells (no pixels, deflated)."""
    if held.pixel_offset is None:
        return None
    return max(1, _number(held.attributes(), "00280008") or 1)


def native_frames(held: Held, numbers: Sequence[int]) -> list[Extent] | None:
    """Return where uncompressed frames (from 1) lie that go out as they stand; None: a decoder must look."""
    if held.transfer_syntax_uid not in (EXPLICIT_LITTLE, IMPLICIT_LITTLE):
        return None
    if held.pixel_offset is None or held.pixel_length is None:
        return None
    attributes = held.attributes()
    rows, columns = _number(attributes, "00280010"), _number(attributes, "00280011")
    bits = _number(attributes, "00280100")
    # Of several samples the index does not know whether they are interleaved.
    if not rows or not columns or bits not in (8, 16, 32, 64) or _number(attributes, "00280002") != 1:
        return None
    size = rows * columns * bits // 8
    count = max(1, _number(attributes, "00280008") or 1)
    if not all(1 <= number <= count and number * size <= held.pixel_length for number in numbers):
        return None
    return [(held.pixel_offset + (number - 1) * size, size) for number in numbers]


class FrameTables:
    """Where encapsulated frames lie, kept for the objects asked for last. For several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        # Also by the place of the pixels: what went and came again may lie there behind another head.
        self._kept: OrderedDict[tuple[str, int], list[Extent]] = OrderedDict()

    def of(self, held: Held, numbers: Sequence[int]) -> list[Extent] | None:
        """Return where these frames (from 1) lie, each in one fragment; None: a decoder must look.

        Raises FileNotFoundError.
        """
        if held.pixel_offset is None or held.pixel_length is not None:
            return None
        key = held.file, held.pixel_offset
        with self._lock:
            table = self._kept.get(key)
            if table is not None:
                self._kept.move_to_end(key)
        if table is None:
            table = _fragments(held.path, held.pixel_offset)
            with self._lock:
                self._kept[key] = table
                while len(self._kept) > _KEPT_TABLES:
                    self._kept.popitem(last=False)
        # PS3.5 A.4: without the basic offset table that comes first, a fragment each is a frame each.
        frames = table[1:]
        if len(frames) != frame_count(held) or not all(1 <= number <= len(frames) for number in numbers):
            return None
        return [frames[number - 1] for number in numbers]


def _fragments(path: Path, offset: int) -> list[Extent]:
    """Return where the content of each item is, the offset table first; [] where they are not plain."""
    found: list[Extent] = []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end = os.fstat(descriptor).st_size
        while len(found) <= _MAX_FRAGMENTS:
            head = os.pread(descriptor, 8, offset)
            if len(head) < 8:
                return []
            group, element, length = struct.unpack("<HHI", head)
            tag = group << 16 | element
            if tag == _SEQUENCE_DELIMITER:
                return found
            if tag != _ITEM or length == _UNDEFINED or offset + 8 + length > end:
                return []
            found.append((offset + 8, length))
            offset += 8 + length
    finally:
        os.close(descriptor)
    return []


def _number(attributes: dict[str, dict[str, Any]], tag: str) -> int | None:
    values = attributes.get(tag, {}).get("Value") or [None]
    return values[0] if isinstance(values[0], int) else None
