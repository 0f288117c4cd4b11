"""One frame of pixel data: bytes as they stand in the file → an array, whatever the transfer syntax.

Leaves to `pixels` where a frame's bytes are, and to `rendering` what a person should see. No file and no
socket here, but C libraries that read hostile bytes: the size that a codestream announces is compared with
Rows and Columns before anything is decoded, so that no frame takes more memory than its header admits.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt

from failover.dicom.syntaxes import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.errors import FailoverError

Array = npt.NDArray[Any]

UNCOMPRESSED: Final = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})

# The media type of a frame that is sent as it is stored (PS3.18 table 8.7.3-5).
FRAME_MEDIA_TYPES: Final = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.100": "video/mpeg2",
    "1.2.840.10008.1.2.4.101": "video/mpeg2",
    "1.2.840.10008.1.2.4.102": "video/mp4",
    "1.2.840.10008.1.2.4.103": "video/mp4",
    "1.2.840.10008.1.2.4.104": "video/mp4",
    "1.2.840.10008.1.2.4.105": "video/mp4",
    "1.2.840.10008.1.2.4.106": "video/mp4",
    "1.2.840.10008.1.2.4.107": "video/H265",
    "1.2.840.10008.1.2.4.108": "video/H265",
    "1.2.840.10008.1.2.4.110": "image/jxl",
    "1.2.840.10008.1.2.4.111": "image/jxl",
    "1.2.840.10008.1.2.4.112": "image/jxl",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
}
_JPEG: Final = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70)}
_JPEG_LS: Final = {f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)}
_JPEG_2000: Final = {f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93)}
_HTJ2K: Final = {f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)}
_JPEG_XL: Final = {f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)}
_RLE: Final = "1.2.840.10008.1.2.5"

# A decoded frame beyond this is refused: the largest real ones (slides, mammography) have below 200 MB.
MAX_FRAME_BYTES: Final = 512 * 2**20


class Undecodable(FailoverError):
    """The frame cannot be turned into pixels: broken, too large, or a syntax that we do not know."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one frame's samples are described (PS3.3 C.7.6.3); `planar` 1: all red, all green, all blue."""

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    high_bit: int | None = None  # None: the stored bits are the lowest ones

    @property
    def frame_bits(self) -> int:
        """Bits of one uncompressed frame; YBR_FULL_422 leaves out every other chroma sample."""
        pixels = self.rows * self.columns
        if self.photometric == "YBR_FULL_422" and self.samples == 3:
            return pixels * 2 * self.bits_allocated
        return pixels * self.samples * self.bits_allocated

    def check(self) -> None:
        """Raises Undecodable where no array of a sane size is described."""
        if self.rows < 1 or self.columns < 1 or self.samples not in (1, 3, 4):
            raise Undecodable("rows, columns or samples per pixel describe no image")
        if self.bits_allocated not in (1, 8, 16, 32, 64):
            raise Undecodable("bits allocated that no image has")
        if self.frame_bits // 8 > MAX_FRAME_BYTES:
            raise Undecodable(f"a frame of more than {MAX_FRAME_BYTES} bytes")


def can_decode(transfer_syntax: str) -> bool:
    """Return whether frames of this transfer syntax can be decoded here; video cannot."""
    return transfer_syntax in UNCOMPRESSED or transfer_syntax in _DECODERS


def decode(frame: bytes, transfer_syntax: str, layout: Layout) -> tuple[Array, Layout]:
    """Return the samples of one frame, (rows, columns) or (rows, columns, samples), and what they now are.

    Colour comes out interleaved; what a codec converts to RGB on its way is RGB in the returned layout.
    Raises Undecodable.
    """
    layout.check()
    if transfer_syntax in UNCOMPRESSED:
        return _native(frame, transfer_syntax, layout)
    decoder = _DECODERS.get(transfer_syntax)
    if decoder is None:
        raise Undecodable(f"transfer syntax {transfer_syntax} cannot be decoded here")
    try:
        pixels, photometric = decoder(frame, layout)
    except (Undecodable, MemoryError):
        raise
    except Exception as error:  # each library has exceptions of its own
        raise Undecodable(f"the frame is broken: {type(error).__name__}") from error
    pixels = np.asarray(pixels)
    expected = (layout.rows, layout.columns) + ((layout.samples,) if layout.samples > 1 else ())
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.shape != expected:
        raise Undecodable("the frame has another size than its header says")
    if transfer_syntax == _RLE:  # PS3.5 G: whole cells, as they stand uncompressed
        size = pixels.dtype.itemsize
        pixels = pixels.view(f"{'i' if layout.signed else 'u'}{size}")
        return pixels, replace(layout, photometric=photometric, planar=0)
    return _as_described(pixels, layout), replace(layout, photometric=photometric, planar=0, high_bit=None)


def stored_values(pixels: Array, layout: Layout) -> Array:
    """Return what the stored bits of decoded samples say (PS3.5 8.1.1).

    Between them and the ends of the cell other bits may stand, such as overlays. For looking at alone:
    samples that are kept or sent keep every bit. Of all codecs only RLE has whole cells too.
    """
    bits = pixels.dtype.itemsize * 8
    high = layout.bits_stored - 1 if layout.high_bit is None else layout.high_bit
    low = high + 1 - layout.bits_stored
    if low < 0 or high >= bits or layout.bits_stored == bits or layout.bits_allocated != bits:
        return pixels  # no such bits, or all of them
    # Up to the cell's end and down again: the sign is then that of the highest stored bit.
    values = pixels << (bits - 1 - high)
    values >>= bits - layout.bits_stored
    return values


def native_bytes(pixels: Array, layout: Layout) -> bytes:
    """Return decoded samples as an uncompressed little-endian frame, interleaved (planar 0)."""
    size = layout.bits_allocated // 8
    kind = pixels.dtype.kind
    return pixels.astype(np.dtype(f"<{kind}{size}"), copy=False).tobytes()


# -- uncompressed -----------------------------------------------------------------------------------


def _native(frame: bytes, transfer_syntax: str, layout: Layout) -> tuple[Array, Layout]:
    if len(frame) * 8 < layout.frame_bits:
        raise Undecodable("the frame is shorter than its header says")
    pixels = layout.rows * layout.columns
    if layout.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")
        return bits[:pixels].reshape(layout.rows, layout.columns), layout
    order = ">" if transfer_syntax == EXPLICIT_BIG else "<"
    dtype = np.dtype(f"{order}{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}")
    if layout.photometric == "YBR_FULL_422" and layout.samples == 3:
        return _from_422(np.frombuffer(frame, dtype, pixels * 2), layout)
    flat = np.frombuffer(frame, dtype, pixels * layout.samples)
    flat = flat.astype(dtype.newbyteorder("="), copy=False)
    if layout.samples == 1:
        return flat.reshape(layout.rows, layout.columns), layout
    if layout.planar == 1:
        planes = flat.reshape(layout.samples, layout.rows, layout.columns)
        return planes.transpose(1, 2, 0), replace(layout, planar=0)
    return flat.reshape(layout.rows, layout.columns, layout.samples), layout


def _from_422(flat: Array, layout: Layout) -> tuple[Array, Layout]:
    """PS3.3 C.7.6.3.1.2: Y1 Y2 Cb Cr for each two pixels."""
    quads = flat.reshape(-1, 4)
    full = np.empty((quads.shape[0], 2, 3), flat.dtype)
    full[:, 0, 0], full[:, 1, 0] = quads[:, 0], quads[:, 1]
    full[:, :, 1], full[:, :, 2] = quads[:, 2:3], quads[:, 3:4]
    return full.reshape(layout.rows, layout.columns, 3), replace(layout, photometric="YBR_FULL", planar=0)


# -- compressed -------------------------------------------------------------------------------------


def _jpeg(frame: bytes, layout: Layout) -> tuple[Array, str]:
    stream = _jpeg_head(frame)
    stream.check(layout)
    if layout.samples == 1:
        return imagecodecs.jpeg8_decode(frame), layout.photometric
    if not _has_colour_transform(stream, layout):
        # Components that are RGB already: the library would guess YCbCr from the lack of a marker.
        return imagecodecs.jpeg8_decode(frame, colorspace="RGB", outcolorspace="RGB"), layout.photometric
    return imagecodecs.jpeg8_decode(frame, colorspace="YCBCR", outcolorspace="RGB"), "RGB"


def _has_colour_transform(stream: _JpegHead, layout: Layout) -> bool:
    if stream.lossless:
        return False  # process 14: samples are what the header of the object says
    if stream.adobe_transform is not None:
        return stream.adobe_transform == 1
    if bytes(stream.component_ids) == b"RGB":
        return False
    return stream.has_jfif or layout.photometric != "RGB"


def _jpeg_ls(frame: bytes, layout: Layout) -> tuple[Array, str]:
    _jpeg_head(frame).check(layout)
    return imagecodecs.jpegls_decode(frame), layout.photometric


def _jpeg_2000(frame: bytes, layout: Layout) -> tuple[Array, str]:
    _check_siz(frame, layout)
    pixels = imagecodecs.jpeg2k_decode(frame, numthreads=1)
    # The multiple component transform (RCT, ICT) is undone by the decoder.
    return pixels, "RGB" if layout.photometric in ("YBR_RCT", "YBR_ICT") else layout.photometric


def _htj2k(frame: bytes, layout: Layout) -> tuple[Array, str]:
    _check_siz(frame, layout)
    pixels = imagecodecs.htj2k_decode(frame, planar=False)
    return pixels, "RGB" if layout.photometric in ("YBR_RCT", "YBR_ICT") else layout.photometric


def _jpeg_xl(frame: bytes, layout: Layout) -> tuple[Array, str]:
    return imagecodecs.jpegxl_decode(
        frame, numthreads=1
    ), "RGB" if layout.samples == 3 else layout.photometric


def _rle(frame: bytes, layout: Layout) -> tuple[Array, str]:
    size = layout.bits_allocated // 8
    if size == 0:
        raise Undecodable("RLE of single bits")
    shape = (layout.samples, layout.rows, layout.columns)
    dtype = np.dtype(f"<u{size}")
    # PS3.5 G.5: 64 bytes of header; each byte of a sample is a segment of its own, most significant first.
    (count,) = struct.unpack_from("<I", frame)
    if count != layout.samples * size:
        raise Undecodable("RLE with another number of segments than the header says")
    planes = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype), dtype)[: math.prod(shape)].reshape(
        shape
    )
    if layout.samples == 1:
        return planes[0], layout.photometric
    return planes.transpose(1, 2, 0), layout.photometric


_DECODERS: Final[dict[str, Callable[[bytes, Layout], tuple[Array, str]]]] = {
    **dict.fromkeys(_JPEG, _jpeg),
    **dict.fromkeys(_JPEG_LS, _jpeg_ls),
    **dict.fromkeys(_JPEG_2000, _jpeg_2000),
    **dict.fromkeys(_HTJ2K, _htj2k),
    **dict.fromkeys(_JPEG_XL, _jpeg_xl),
    _RLE: _rle,
}


def _as_described(pixels: Array, layout: Layout) -> Array:
    """Give decoded samples the width and the sign that the object's header says."""
    size = max(1, layout.bits_allocated // 8)
    if not layout.signed:
        if pixels.dtype.kind == "i":
            pixels = pixels.view(np.dtype(f"u{pixels.dtype.itemsize}"))
        return pixels.astype(np.dtype(f"u{size}"), copy=False)
    if pixels.dtype.kind == "i":
        return pixels.astype(np.dtype(f"i{size}"), copy=False)
    # A codec without signs: the sign bit is the highest of the stored ones.
    wide = pixels.astype(np.dtype(f"u{size}"), copy=False).view(np.dtype(f"i{size}"))
    shift = size * 8 - layout.bits_stored
    return (wide << shift) >> shift if shift > 0 else wide


# -- what a codestream says of itself ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _JpegHead:
    rows: int
    columns: int
    component_ids: tuple[int, ...]
    lossless: bool
    has_jfif: bool
    adobe_transform: int | None

    def check(self, layout: Layout) -> None:
        if (self.rows, self.columns, len(self.component_ids)) != (
            layout.rows,
            layout.columns,
            layout.samples,
        ):
            raise Undecodable("the codestream announces another size than its header says")


def _jpeg_head(frame: bytes) -> _JpegHead:
    """Read the markers up to SOF (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2). Raises Undecodable."""
    if frame[:2] != b"\xff\xd8":
        raise Undecodable("no JPEG codestream")
    at, has_jfif, adobe = 2, False, None
    while at + 4 <= len(frame):
        if frame[at] != 0xFF:
            break
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", frame, at + 2)
        body = frame[at + 4 : at + 2 + length]
        if marker == 0xE0 and body[:5] == b"JFIF\0":
            has_jfif = True
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                break
            rows, columns = struct.unpack_from(">HH", body, 1)
            ids = tuple(body[6 + 3 * n] for n in range(body[5]))
            return _JpegHead(rows, columns, ids, marker in (0xC3, 0xC7, 0xCB, 0xCF), has_jfif, adobe)
        at += 2 + length
    raise Undecodable("a JPEG codestream without a frame header")


def _check_siz(frame: bytes, layout: Layout) -> None:
    """ISO/IEC 15444-1 A.5.1: the SIZ marker follows SOC; in a JP2 file it is in the jp2c box."""
    at = frame.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(frame) < at + 42:
        raise Undecodable("no JPEG 2000 codestream")
    columns, rows, left, top = struct.unpack_from(">IIII", frame, at + 8)
    (components,) = struct.unpack_from(">H", frame, at + 40)
    if (rows - top, columns - left, components) != (layout.rows, layout.columns, layout.samples):
        raise Undecodable("the codestream announces another size than its header says")
