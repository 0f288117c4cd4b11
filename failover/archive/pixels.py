"""Where the frames of a Part 10 file are, and what describes them; one frame read without the others.

Reads the header of the file and, of the pixel data, only what is asked for: a multi-frame object of gigabytes
costs one frame. Blocking: call it in a thread. Leaves decoding to `codecs`.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Final

import pydicom
from pydicom.dataset import FileDataset

from failover.archive.codecs import Layout, Undecodable
from failover.archive.header import inflate
from failover.dicom.part10 import read_head, write_head
from failover.dicom.syntaxes import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.errors import FailoverError, UnreadableDataSet

# Elements larger than this stay on disk when a header is read; JSON gives a BulkDataURI for them.
DEFER_BYTES: Final = 4096
_META_BYTES: Final = 65536  # holds every real File Meta Information
_PIXEL_DATA: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_FLOAT_PIXEL_DATA: Final = frozenset({0x7FE00008, 0x7FE00009})
_ITEM: Final = 0xFFFEE000
_SEQUENCE_DELIMITER: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
# More fragments than this in one object are no image.
_MAX_FRAGMENTS: Final = 1_000_000
# Headers of images that are being looked at: one of them serves all frames of a multi-frame object.
_KEPT_IMAGES: Final = 64

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # what we keep, we show as it is


class NoPixels(FailoverError):
    """The instance has no pixel data: a report, a presentation state, a PDF."""


class NoSuchFrame(FailoverError):
    """The frame number is beyond what the object holds."""


def read_header(path: Path) -> FileDataset:
    """Return the data set at `path`, its large values left on disk (pydicom's deferred reading).

    Raises UnreadableDataSet, FileNotFoundError.
    """
    with path.open("rb") as file:
        return _read(file, path, stop_before_pixels=False)[0]


@dataclass(frozen=True, slots=True)
class _Element:
    tag: int
    length: int
    offset: int
    big_endian_words: bool


@dataclass(slots=True)
class Image:
    """The header of an object with pixel data, and where its pixel data is."""

    path: Path
    header: FileDataset
    transfer_syntax: str
    layout: Layout
    frames: int
    _element: _Element
    _inflated: bytes | None = None
    _table: list[list[tuple[int, int]]] | None = None  # per frame: (offset, length) of its fragments

    @property
    def encapsulated(self) -> bool:
        return self._element.length == _UNDEFINED

    @property
    def value_offset(self) -> int:
        """Where the value of the pixel data begins, in the file (deflated: in what it holds)."""
        return self._element.offset

    @property
    def value_length(self) -> int:
        """How many bytes the value has; only where it is not encapsulated."""
        return self._element.length

    @property
    def is_float(self) -> bool:
        return self._element.tag in _FLOAT_PIXEL_DATA

    def read_frame(self, number: int) -> bytes:
        """Return frame `number`, from 1, as it stands in the file.

        A frame of single bits that does not begin at a byte is shifted, so that it does. Raises NoSuchFrame,
        Undecodable.
        """
        if not 1 <= number <= self.frames:
            raise NoSuchFrame(f"there are {self.frames} frames")
        with self._open() as file:
            if not self.encapsulated:
                return self._native_frame(file, number - 1)
            if self._table is None:
                self._table = _frame_table(file, self._element.offset, self.frames, self.header)
            if number > len(self._table):
                raise NoSuchFrame(f"only {len(self._table)} frames are in the pixel data")
            return b"".join(_pread(file, offset, length) for offset, length in self._table[number - 1])

    @property
    def holds_much(self) -> bool:
        """Whether the object is in memory, because its data set was deflated."""
        return self._inflated is not None

    def _open(self) -> BinaryIO:
        return BytesIO(self._inflated) if self._inflated is not None else self.path.open("rb")

    def _native_frame(self, file: BinaryIO, index: int) -> bytes:
        bits = self.layout.frame_bits
        first, last = index * bits, (index + 1) * bits
        if (last + 7) // 8 > self._element.length:
            raise NoSuchFrame("the pixel data ends before this frame")
        content = self._native_bytes(file, first // 8, (last + 7) // 8)
        if first % 8:
            shifted = int.from_bytes(content, "little") >> (first % 8)
            content = shifted.to_bytes(len(content), "little")
        return content[: (bits + 7) // 8]

    def _native_bytes(self, file: BinaryIO, begin: int, end: int) -> bytes:
        if not (self._element.big_endian_words and self.layout.bits_allocated <= 8):
            return _pread(file, self._element.offset + begin, end - begin)
        # PS3.5 A.3: samples of a byte in big-endian words stand in pairs, the second one first.
        even = begin - begin % 2
        words = bytearray(_pread(file, self._element.offset + even, end + end % 2 - even))
        words[0::2], words[1::2] = words[1::2], words[0::2]
        return bytes(words[begin - even : end - even])


def open_image(path: Path) -> Image:
    """Return the image at `path`. Raises UnreadableDataSet, NoPixels, Undecodable, FileNotFoundError."""
    with path.open("rb") as file:
        header, syntax, source, inflated = _read(file, path, stop_before_pixels=True)
        element = _pixel_element(source, syntax)
    frames = max(1, whole(header.get("NumberOfFrames"), 1))
    return Image(path, header, syntax, layout_of(header), frames, element, inflated)


class Images:
    """The images opened last, so that the next frame of the same object needs no second look at its header.

    For several threads. A file of the archive never changes under its path, so a path is key enough.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[Path, Image] = OrderedDict()

    def open(self, path: Path) -> Image:
        """As `open_image`."""
        with self._lock:
            if (image := self._kept.get(path)) is not None:
                self._kept.move_to_end(path)
                return image
        image = open_image(path)
        if image.frames == 1 or image.holds_much:
            return image  # nobody will ask for its next frame, or keeping it would cost more than opening it
        with self._lock:
            self._kept[path] = image
            while len(self._kept) > _KEPT_IMAGES:
                self._kept.popitem(last=False)
        return image


def layout_of(header: pydicom.Dataset) -> Layout:
    """Return how the samples of one frame are described."""
    allocated = whole(header.get("BitsAllocated"), 8)
    stored = min(allocated, whole(header.get("BitsStored"), allocated) or allocated)
    return Layout(
        rows=whole(header.get("Rows"), 0),
        columns=whole(header.get("Columns"), 0),
        samples=whole(header.get("SamplesPerPixel"), 1),
        photometric=str(header.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper(),
        planar=whole(header.get("PlanarConfiguration"), 0),
        bits_allocated=allocated,
        bits_stored=stored,
        signed=whole(header.get("PixelRepresentation"), 0) == 1,
        high_bit=whole(header.get("HighBit"), stored - 1),
    )


def whole(value: Any, default: int) -> int:
    """Return a header's number; `default` where it is missing or no number."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return default


def _read(
    file: BinaryIO, path: Path, *, stop_before_pixels: bool
) -> tuple[FileDataset, str, BinaryIO, bytes | None]:
    """Return header, transfer syntax, and the source of its bytes, standing where reading ended."""
    meta = read_head(file.read(_META_BYTES))
    inflated: bytes | None = None
    source = file
    defer: int | None = DEFER_BYTES
    if meta.transfer_syntax_uid == DEFLATED:
        file.seek(meta.data_set_offset)
        head = write_head(meta.sop_class_uid, meta.sop_instance_uid, EXPLICIT_LITTLE)
        inflated = head + inflate(file.read())
        source, defer = BytesIO(inflated), None
    source.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that break their VR are shown, not reported
            header = pydicom.dcmread(source, defer_size=defer, stop_before_pixels=stop_before_pixels)
    except (FailoverError, FileNotFoundError):
        raise
    except Exception as error:  # pydicom raises whatever its struct and codec calls raise
        raise UnreadableDataSet(f"the data set cannot be read: {type(error).__name__}") from error
    header.filename = str(path)
    return header, meta.transfer_syntax_uid, source, inflated


def _pixel_element(source: BinaryIO, syntax: str) -> _Element:
    """Return the element of the pixel data, at which `source` stands. Raises NoPixels."""
    order = ">" if syntax == EXPLICIT_BIG else "<"
    head = source.read(8)
    if len(head) < 8:
        raise NoPixels("the instance has no pixel data")
    group, element = struct.unpack_from(order + "HH", head)
    if (group << 16 | element) not in _PIXEL_DATA:
        raise NoPixels("the instance has no pixel data")
    # Some writers keep implicit VR under a transfer syntax that has it explicit: look, as pydicom does.
    explicit = syntax != IMPLICIT_LITTLE and head[4:6].isalpha() and head[4:6].isupper()
    length_field = source.read(4) if explicit else head[4:8]
    (length,) = struct.unpack(order + "I", length_field)
    words = syntax == EXPLICIT_BIG and head[4:6] == b"OW"
    return _Element(group << 16 | element, length, source.tell(), words)


def _frame_table(
    file: BinaryIO, offset: int, frames: int, header: FileDataset
) -> list[list[tuple[int, int]]]:
    """Return for each frame the (offset, length) of its fragments (PS3.5 A.4)."""
    fragments = _fragments(file, offset)
    if not fragments:
        raise Undecodable("the pixel data has no fragments")
    (table_at, table_length), *fragments = fragments
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    starts = _offset_table(file, header, table_at, table_length)
    if len(starts) > 1 and fragments:
        base = fragments[0][0] - 8
        return _grouped(fragments, {base + start for start in starts})
    # No offset table, and more fragments than frames: a frame begins where a codestream does.
    begins = {at - 8 for at, _ in fragments if _pread(file, at, 3) in (b"\xff\xd8\xff", b"\xff\x4f\xff")}
    return _grouped(fragments, begins)


def _grouped(fragments: list[tuple[int, int]], begins: set[int]) -> list[list[tuple[int, int]]]:
    grouped: list[list[tuple[int, int]]] = []
    for at, length in fragments:
        if at - 8 in begins or not grouped:
            grouped.append([])
        grouped[-1].append((at, length))
    return grouped


def _fragments(file: BinaryIO, offset: int) -> list[tuple[int, int]]:
    """Return (offset, length) of each item, the basic offset table first."""
    found: list[tuple[int, int]] = []
    at = offset
    while len(found) <= _MAX_FRAGMENTS:
        head = _pread(file, at, 8)
        if len(head) < 8:
            return found
        group, element, length = struct.unpack("<HHI", head)
        tag = group << 16 | element
        if tag == _SEQUENCE_DELIMITER:
            return found
        if tag != _ITEM or length == _UNDEFINED:
            raise Undecodable("the pixel data is not made of items")
        found.append((at + 8, length))
        at += 8 + length
    raise Undecodable(f"more than {_MAX_FRAGMENTS} fragments")


def _offset_table(file: BinaryIO, header: FileDataset, table_at: int, table_length: int) -> list[int]:
    """The extended offset table (7FE0,0001) if there is one, else the basic one."""
    extended = header.get("ExtendedOffsetTable")
    if isinstance(extended, bytes) and extended:
        return [n for (n,) in struct.iter_unpack("<Q", extended[: len(extended) // 8 * 8])]
    content = _pread(file, table_at, table_length // 4 * 4)
    return [n for (n,) in struct.iter_unpack("<I", content[: len(content) // 4 * 4])]


def _pread(file: BinaryIO, offset: int, length: int) -> bytes:
    if isinstance(file, BytesIO):
        return bytes(file.getbuffer()[offset : offset + length])
    remaining = os.fstat(file.fileno()).st_size - offset
    return os.pread(file.fileno(), max(0, min(length, remaining)), offset)
