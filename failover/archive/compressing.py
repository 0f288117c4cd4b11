"""One object file made anew: losslessly compressed, or as it came. In a worker process, see `decoder`.

Nothing is believed: the frames of the new file are read from it again, decoded by what the archive serves
with and by a second library where there is one, and compared with the original bit by bit; its attributes are
carried as bytes, or shown to come back. Whoever asks puts the new file in the place of the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from pydicom import Dataset
from pydicom.filereader import read_dataset

from failover.archive import codecs, encoders, pixels
from failover.archive.content import same_attributes
from failover.archive.pixels import Image
from failover.dicom.data_sets import encoded
from failover.dicom.part10 import read_head, write_head
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE

SYNTAXES: Final = {
    "jpeg-lossless": encoders.JPEG_LOSSLESS,
    "jpeg-ls": encoders.JPEG_LS,
    "htj2k": encoders.HTJ2K,
}
# So that whoever waits for a large object sees that it goes on.
ALIVE: Final = b"."
_PIXEL_TAG: Final = b"\xe0\x7f\x10\x00"
_PLANAR: Final = b"\x28\x00\x06\x00US\x02\x00"  # (0028,0006) in explicit VR little endian, before its value
_SIGNATURES: Final = b"\xfa\xff\xfa\xff"
_GROUP_LENGTH: Final = b"\xe0\x7f\x00\x00"
_META_BYTES: Final = 65536


class Kept(StrEnum):
    """Why an original stays as it is."""

    NO_PIXELS = "no_pixels"
    COMPRESSED = "compressed"  # as it came, video among it
    LOSSY = "lossy"
    FLOAT = "float"
    PALETTE = "palette"
    SIGNED = "signed"  # digitally
    UNSUPPORTED = "unsupported"  # bits, samples or an encoding that would not come back as they are
    NOT_SMALLER = "not_smaller"
    DIFFERS = "differs"  # the decoded samples are not the original's


@dataclass(frozen=True, slots=True)
class Original:
    """What brings an original back from its compressed form."""

    syntax: str
    vr: str
    planar: int
    exact: bool  # every byte of the data set comes back


@dataclass(frozen=True, slots=True)
class Made:
    """The new file. Offsets are from its start; `digest` as the index has it, in hexadecimal."""

    syntax: str
    digest: str
    size_bytes: int
    data_set_offset: int
    pixel_offset: int
    pixel_length: int | None


class Stays(Exception):
    """This original stays as it is."""

    def __init__(self, why: Kept) -> None:
        super().__init__(why.value)
        self.why = why


def compress(source: Path, target: Path, transfer_syntax: str) -> Iterator[bytes]:
    """Write `source` compressed to `target`, synced; yield signs of life, then what became of it as JSON.

    `{"made": …, "original": …}`, or `{"kept": reason}`, then nothing is left at `target`. Raises
    UnreadableDataSet, Undecodable, FileNotFoundError, OSError.
    """
    try:
        try:
            image = pixels.open_image(source)
        except pixels.NoPixels:
            raise Stays(Kept.NO_PIXELS) from None
        _check(image)
        around = _Around(source, image)
        with target.open("xb") as file:
            out = _Out(file, image, transfer_syntax)
            out.write(around.before)
            yield from _fragments(out, image, transfer_syntax)
            out.write(around.after)
            made = out.made(None)
            if made.size_bytes >= source.stat().st_size:
                raise Stays(Kept.NOT_SMALLER)
            os.fsync(file.fileno())
        yield from _prove(image, target, transfer_syntax)
        yield json.dumps({"made": asdict(made), "original": asdict(around.original)}).encode()
    except Stays as stays:
        target.unlink(missing_ok=True)
        yield json.dumps({"kept": stays.why.value}).encode()
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def restore(source: Path, target: Path, original: Original) -> Iterator[bytes]:
    """Write the object at `source`, which `compress` has made, as it came; yield as `compress` does."""
    try:
        image = pixels.open_image(source)
        head, before, after = _raw(source, image, end=_end_of_fragments(source, image))
        del head
        if image.layout.samples > 1:
            before = _with_planar(before, original.planar)
        if original.syntax == IMPLICIT_LITTLE:
            before, after = _transcoded(before, after, EXPLICIT_LITTLE, IMPLICIT_LITTLE)
        with target.open("xb") as file:
            out = _Out(file, image, original.syntax)
            out.write(before)
            length = (image.layout.frame_bits // 8) * image.frames
            out.write(_pixel_head(original, length + length % 2))
            out.pixels_begin()
            for number in range(1, image.frames + 1):
                samples, _ = codecs.decode(image.read_frame(number), image.transfer_syntax, image.layout)
                out.write(_native(samples, image, original.planar))
                yield ALIVE
            out.write(bytes(length % 2))
            out.write(after)
            made = out.made(length + length % 2)
            os.fsync(file.fileno())
        yield json.dumps({"made": asdict(made)}).encode()
    except BaseException:
        target.unlink(missing_ok=True)
        raise


# -- what may be compressed -------------------------------------------------------------------------


def _check(image: Image) -> None:
    """Raises Stays for what is not to be compressed."""
    header, layout = image.header, image.layout
    if image.encapsulated:
        raise Stays(Kept.COMPRESSED)
    if image.is_float:
        raise Stays(Kept.FLOAT)
    if str(header.get("LossyImageCompression") or "").strip() == "01":
        raise Stays(Kept.LOSSY)
    if "PALETTE" in layout.photometric:
        raise Stays(Kept.PALETTE)
    if image.transfer_syntax not in (EXPLICIT_LITTLE, IMPLICIT_LITTLE):
        raise Stays(Kept.UNSUPPORTED)
    plain = layout.samples == 1 or layout.photometric in ("RGB", "YBR_FULL")
    if layout.bits_allocated not in (8, 16) or layout.samples not in (1, 3) or not plain:
        raise Stays(Kept.UNSUPPORTED)
    if layout.photometric not in ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL"):
        raise Stays(Kept.UNSUPPORTED)
    if not (1 <= layout.rows <= 65535 and 1 <= layout.columns <= 65535):
        raise Stays(Kept.UNSUPPORTED)


class _Around:
    """The data set before and behind the pixel data, as it will stand around the compressed one."""

    def __init__(self, source: Path, image: Image) -> None:
        length = (image.layout.frame_bits // 8) * image.frames
        value_bytes = length + length % 2
        head, self.before, self.after = _raw(source, image, end=image.value_offset + image.value_length)
        if image.value_length != value_bytes or _GROUP_LENGTH in self.before[-12:]:
            raise Stays(Kept.UNSUPPORTED)
        if _SIGNATURES in self.before or _SIGNATURES in self.after:
            raise Stays(Kept.SIGNED)
        before, after, exact = self.before, self.after, True
        if image.transfer_syntax == IMPLICIT_LITTLE:
            self.before, self.after = _transcoded(before, after, IMPLICIT_LITTLE, EXPLICIT_LITTLE)
            back = _transcoded(self.before, self.after, EXPLICIT_LITTLE, IMPLICIT_LITTLE)
            exact = back == (before, after)
            if not exact and not all(map(_same, (before, after), back)):
                raise Stays(Kept.UNSUPPORTED)
        if image.layout.samples > 1:
            self.before = _with_planar(self.before, 0)
        vr = head[4:6].decode("ascii") if image.transfer_syntax == EXPLICIT_LITTLE else "OW"
        self.original = Original(image.transfer_syntax, vr, image.layout.planar, exact)


def _raw(source: Path, image: Image, *, end: int) -> tuple[bytes, bytes, bytes]:
    """Return the head of the pixel data's element, and what stands before and behind it. Raises Stays."""
    with source.open("rb") as file:
        start = file.read(_META_BYTES)
        meta = read_head(start)
        if meta.has_tiff_preamble:
            raise Stays(Kept.UNSUPPORTED)  # it points to pixels that would not be there
        head_bytes = 8 if image.transfer_syntax == IMPLICIT_LITTLE else 12
        file.seek(meta.data_set_offset)
        before = file.read(image.value_offset - head_bytes - meta.data_set_offset)
        head = file.read(head_bytes)
        file.seek(end)
        after = file.read()
    # Some writers keep implicit VR under a transfer syntax that has it explicit.
    if head[:4] != _PIXEL_TAG or (head_bytes == 12 and head[4:6] not in (b"OB", b"OW")):
        raise Stays(Kept.UNSUPPORTED)
    return head, before, after


def _transcoded(before: bytes, after: bytes, old: str, new: str) -> tuple[bytes, bytes]:
    """Return both parts in another transfer syntax. Raises Stays where one of them cannot be written."""
    try:
        first, second = _read(before, old), _read(after, old)
        character_set = first.get("SpecificCharacterSet", "iso8859")
        return encoded(first, new), encoded(second, new, character_set) if second else b""
    except (MemoryError, Stays):
        raise
    except Exception:  # pydicom raises what it likes for a value that it cannot write
        raise Stays(Kept.UNSUPPORTED) from None


def _read(raw: bytes, syntax: str) -> Dataset:
    return read_dataset(BytesIO(raw), syntax == IMPLICIT_LITTLE, True)


def _same(one: bytes, other: bytes) -> bool:
    return same_attributes(_read(one, IMPLICIT_LITTLE), _read(other, IMPLICIT_LITTLE))


def _with_planar(before: bytes, planar: int) -> bytes:
    """PS3.5 8.2: the frames of a codestream are interleaved. Raises Stays where it is not plain."""
    at = before.find(_PLANAR)
    if at < 0 or before.find(_PLANAR, at + 1) >= 0:
        raise Stays(Kept.UNSUPPORTED)
    at += len(_PLANAR)
    return before[:at] + struct.pack("<H", planar) + before[at + 2 :]


# -- writing ----------------------------------------------------------------------------------------


class _Out:
    """A Part 10 file that is written, its digest and where its pixel data is."""

    def __init__(self, file: BinaryIO, image: Image, transfer_syntax: str) -> None:
        self._file = file
        self._syntax = transfer_syntax
        meta = image.header.file_meta
        source_ae = str(meta.get("SourceApplicationEntityTitle") or "")
        head = write_head(
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            transfer_syntax,
            source_ae,
        )
        file.write(head)
        self._data_set_offset = len(head)
        self._pixel_offset = 0

    def write(self, piece: bytes) -> None:
        self._file.write(piece)

    def pixels_begin(self) -> None:
        self._pixel_offset = self._file.tell()

    def fill(self, at: int, content: bytes) -> None:
        self._file.seek(at)
        self._file.write(content)
        self._file.seek(0, os.SEEK_END)

    def at(self) -> int:
        return self._file.tell()

    def made(self, pixel_length: int | None) -> Made:
        """Return what was made; the digest is of what a reader of the file gets."""
        self._file.flush()
        size = self._file.tell()
        digest = hashlib.sha256(self._syntax.encode("ascii") + b"\0")
        with open(self._file.name, "rb") as again:
            again.seek(self._data_set_offset)
            while piece := again.read(1 << 20):
                digest.update(piece)
        return Made(
            self._syntax, digest.hexdigest(), size, self._data_set_offset, self._pixel_offset, pixel_length
        )


def _fragments(out: _Out, image: Image, transfer_syntax: str) -> Iterator[bytes]:
    """Write Pixel Data, encapsulated (PS3.5 A.4): the offset table, then a fragment for each frame."""
    out.write(_PIXEL_TAG + b"OB\0\0" + b"\xff\xff\xff\xff")
    out.pixels_begin()
    table = 4 * image.frames if image.frames > 1 else 0
    out.write(_item(table))
    table_at = out.at()
    out.write(bytes(table))
    first, offsets = out.at(), []
    for number in range(1, image.frames + 1):
        samples, _ = codecs.decode(image.read_frame(number), image.transfer_syntax, image.layout)
        try:
            frame = encoders.encode(samples, transfer_syntax)
        except MemoryError:
            raise
        except Exception:  # each library has exceptions of its own
            raise Stays(Kept.UNSUPPORTED) from None
        offsets.append(out.at() - first)
        out.write(_item(len(frame) + len(frame) % 2) + frame + bytes(len(frame) % 2))
        yield ALIVE
    out.write(b"\xfe\xff\xdd\xe0\0\0\0\0")
    if table:
        out.fill(table_at, struct.pack(f"<{image.frames}I", *offsets))


def _item(length: int) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", length)


def _pixel_head(original: Original, length: int) -> bytes:
    if original.syntax == IMPLICIT_LITTLE:
        return _PIXEL_TAG + struct.pack("<I", length)
    return _PIXEL_TAG + original.vr.encode("ascii") + b"\0\0" + struct.pack("<I", length)


def _native(samples: codecs.Array, image: Image, planar: int) -> bytes:
    if planar == 1 and samples.ndim == 3:
        samples = samples.transpose(2, 0, 1)
    return codecs.native_bytes(samples, image.layout)


def _end_of_fragments(source: Path, image: Image) -> int:
    at = image.value_offset
    with source.open("rb") as file:
        while True:
            file.seek(at)
            head = file.read(8)
            if len(head) < 8:
                raise codecs.Undecodable("the pixel data breaks off")
            at += 8 + int.from_bytes(head[4:8], "little")
            if head[:4] == b"\xfe\xff\xdd\xe0":
                return at


# -- proving ----------------------------------------------------------------------------------------


def _prove(image: Image, target: Path, transfer_syntax: str) -> Iterator[bytes]:
    """Compare every frame of the new file with the original. Raises Stays."""
    made = pixels.open_image(target)
    if made.frames != image.frames or made.layout != replace(image.layout, planar=0):
        raise Stays(Kept.DIFFERS)
    for number in range(1, image.frames + 1):
        stored, codestream = image.read_frame(number), made.read_frame(number)
        try:
            served, layout = codecs.decode(codestream, transfer_syntax, made.layout)
        except codecs.Undecodable:
            raise Stays(Kept.DIFFERS) from None
        before, _ = codecs.decode(stored, image.transfer_syntax, image.layout)
        same = layout.photometric == image.layout.photometric and _equal(before, served)
        # What the archive shows is one thing, what the file holds another: bits above the stored ones.
        if not same or _native(served, made, image.layout.planar) != stored:
            raise Stays(Kept.DIFFERS)
        other = encoders.decoded_by_another(codestream, transfer_syntax, layout)
        if other is not None and not _equal(before, other):
            raise Stays(Kept.DIFFERS)
        yield ALIVE


def _equal(one: Any, other: Any) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool(np.array_equal(one, other))
