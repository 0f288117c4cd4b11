"""What a person should see of one frame: modality LUT, window, palette or colour space, to an 8-bit picture.

Leaves decoding to `codecs` and the choice of media type to `dicomweb`. Blocking and hungry for memory: called
in the processes of `decoders`, which bounds how many frames are in work at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
import pydicom
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo
from pydicom.pixels.processing import apply_color_lut

from failover.archive import codecs
from failover.archive.codecs import Array, Layout, Undecodable
from failover.archive.pixels import Image, whole
from failover.dicom.syntaxes import EXPLICIT_BIG
from failover.errors import FailoverError

# A picture for people needs no more pixels than this on its longer side.
MAX_VIEWPORT: Final = 8192
# A viewport beyond it is not filled: a few bytes of a query must not cost a decoder its memory.
_MOST_ENLARGED: Final = 16 * 2**20
_MOST_IN_MOTION: Final = 64 * 2**20  # pixels of one GIF
_FRAME_MS: Final = 100.0  # where the object tells no rate
_NEARLY: Final = 1e-6  # what shares of a side lose when they are multiplied
_JPEG_QUALITY: Final = 90
_ALL_VALUES: Final = 65536  # of samples of 16 bits
_TOLD_AS: Final = "failover-window"  # text chunk of a PNG: kind, centre, width


class NoSuchRegion(FailoverError):
    """Nothing of the frame lies in the region that is asked for."""


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window (PS3.3 C.11.2.1): centre and width in units of the modality LUT's output."""

    centre: float
    width: float
    function: str = "LINEAR"  # LINEAR, LINEAR_EXACT or SIGMOID


@dataclass(frozen=True, slots=True)
class Region:
    """What of a frame is shown: in its pixels or, with `shares`, in shares of its columns and rows.

    It may reach beyond the frame; what is there of it counts.
    """

    left: float
    top: float
    width: float
    height: float
    mirrored: bool = False  # left and right
    upended: bool = False  # top and bottom
    shares: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """How one frame is asked for (PS3.18 8.3.5): `viewport` is (width, height), which it fills or fits."""

    window: Window | None = None
    viewport: tuple[int, int] | None = None
    quality: int = _JPEG_QUALITY
    media_type: str = "image/jpeg"
    region: Region | None = None


def decoded_frame(image: Image, number: int) -> bytes:
    """Return one frame uncompressed, little endian, interleaved. Raises NoSuchFrame, Undecodable."""
    stored = image.read_frame(number)
    if image.layout.bits_allocated == 1 or (
        image.transfer_syntax in codecs.UNCOMPRESSED
        and image.transfer_syntax != EXPLICIT_BIG
        and (image.layout.samples == 1 or image.layout.planar == 0)
    ):
        return stored  # it is what is asked for
    if image.is_float:
        raise Undecodable("float pixels of another byte order")
    pixels, layout = codecs.decode(stored, image.transfer_syntax, image.layout)
    return codecs.native_bytes(pixels, layout)


def render(image: Image, number: int, view: View) -> bytes:
    """Return one frame as PNG, JPEG or GIF. Raises NoSuchFrame, NoSuchRegion, Undecodable."""
    picture, used = _picture(image, number, view)
    out = BytesIO()
    if view.media_type == "image/png":
        told = PngInfo()
        if used is not None:  # the viewer's drag goes on from it, and its label names it
            told.add_text(_TOLD_AS, f"{used.kind},{used.window.centre:.6g},{used.window.width:.6g}")
        # three times as fast as the default, a tenth larger
        picture.save(out, "PNG", compress_level=1, pnginfo=told)
    elif view.media_type == "image/gif":
        picture.save(out, "GIF")
    else:
        picture.save(out, "JPEG", quality=view.quality)
    return out.getvalue()


def animate(image: Image, numbers: list[int], view: View) -> bytes:
    """Return frames as one GIF that plays, over and over, at the object's own rate. Raises as `render`."""
    first, _ = _picture(image, numbers[0], view)
    if first.width * first.height * len(numbers) > _MOST_IN_MOTION:
        raise Undecodable("too much for one picture in motion: name fewer frames, or a smaller viewport")
    rest = (_picture(image, number, view)[0] for number in numbers[1:])
    out = BytesIO()
    first.save(out, "GIF", save_all=True, append_images=rest, duration=round(_frame_ms(image.header)), loop=0)
    return out.getvalue()


def _frame_ms(header: pydicom.Dataset) -> float:
    """PS3.3 C.7.6.5: by the time between frames, or a rate."""
    time_ms = _number(header.get("FrameTime"))
    if time_ms is None:
        rate = _number(header.get("RecommendedDisplayFrameRate")) or _number(header.get("CineRate"))
        time_ms = 1000 / rate if rate else _FRAME_MS
    return min(max(time_ms, 20.0), 10_000.0)  # a GIF counts in hundredths of a second, and browsers from two


def _picture(image: Image, number: int, view: View) -> tuple[Picture.Image, Used | None]:
    """One frame as it is to be seen, and the window where none was asked for."""
    if image.is_float:
        pixels, layout = _float_frame(image, number)
    else:
        pixels, layout = codecs.decode(image.read_frame(number), image.transfer_syntax, image.layout)
    used = None
    if layout.samples > 1:
        picture = Picture.fromarray(_colour(pixels, layout))
    elif layout.photometric == "PALETTE COLOR":
        picture = Picture.fromarray(_palette(codecs.stored_values(pixels, layout), image.header))
    else:
        grey, used = greyscale(pixels, layout, image.header, number, view.window)
        picture = Picture.fromarray(grey)
    return _fitted(_cut(picture, view.region), view.viewport), used


def _cut(picture: Picture.Image, region: Region | None) -> Picture.Image:
    """PS3.18 8.3.5.1.3: each pixel that the region touches. Raises NoSuchRegion."""
    if region is None:
        return picture
    across, down = (picture.width, picture.height) if region.shares else (1, 1)
    left, top = region.left * across, region.top * down
    right, bottom = left + region.width * across, top + region.height * down
    box = (
        math.floor(left + _NEARLY), math.floor(top + _NEARLY),
        math.ceil(min(right, picture.width) - _NEARLY), math.ceil(min(bottom, picture.height) - _NEARLY),
    )  # fmt: skip
    if box[0] >= box[2] or box[1] >= box[3]:
        raise NoSuchRegion("the region lies outside the picture")
    picture = picture.crop(box)
    if region.mirrored:
        picture = picture.transpose(Picture.Transpose.FLIP_LEFT_RIGHT)
    return picture.transpose(Picture.Transpose.FLIP_TOP_BOTTOM) if region.upended else picture


def _fitted(picture: Picture.Image, viewport: tuple[int, int] | None) -> Picture.Image:
    """As large as it can be within the viewport, undistorted (PS3.18 8.3.5.1.3)."""
    if viewport is None:
        return picture
    by = min(viewport[0] / picture.width, viewport[1] / picture.height)
    by = min(by, max(1.0, math.sqrt(_MOST_ENLARGED / (picture.width * picture.height))))
    size = max(1, round(picture.width * by)), max(1, round(picture.height * by))
    if size == picture.size:
        return picture
    return picture.resize(size, Picture.Resampling.BILINEAR, reducing_gap=2.0)


@dataclass(frozen=True, slots=True)
class Used:
    """The window of a picture asked for without: the object's `own`, its `lut`'s stretch, all `values`."""

    kind: str
    window: Window


def greyscale(
    pixels: Array, layout: Layout, header: pydicom.Dataset, number: int, window: Window | None
) -> tuple[Array, Used | None]:
    """Return 8-bit greys, 0 black: modality LUT, then `window`, else the object's VOI, else min to max."""
    groups = functional_groups(header, number)
    named = window or own_window(header, groups) or _voi_lut(header)
    if named is not None and pixels.dtype.itemsize <= 2 and pixels.size > _ALL_VALUES:
        # Each grey follows from its own value alone, so each possible value is worked out once.
        possible = np.arange(0, 1 << 8 * pixels.dtype.itemsize, dtype=np.uint32)
        possible = possible.astype(f"u{pixels.dtype.itemsize}").view(pixels.dtype)
        table, used = _greys(codecs.stored_values(possible, layout), header, groups, window)
        return np.take(table, pixels.view(f"u{pixels.dtype.itemsize}")), used
    return _greys(codecs.stored_values(pixels, layout), header, groups, window)


def _greys(
    pixels: Array, header: pydicom.Dataset, groups: list[pydicom.Dataset], window: Window | None
) -> tuple[Array, Used | None]:
    values = _modality(pixels, header, groups)
    used: Used | None = None
    if window is not None:
        grey = _windowed(values, window)
    elif (lut := _voi_lut(header)) is not None:
        used, grey = Used("lut", _stretch_of(lut)), _through_lut(values, lut)
    else:
        own = own_window(header, groups)
        used = Used("own", own) if own else Used("values", _min_max(values, pixels, header))
        grey = _windowed(values, used.window)
    return (255 - grey if _is_inverse(header) else grey), used


def own_window(header: pydicom.Dataset, groups: list[pydicom.Dataset]) -> Window | None:
    """Return the first window that the object itself names, per frame, shared or at the top level."""
    for place in [*(_item(group, "FrameVOILUTSequence") for group in groups), header]:
        if place is None:
            continue
        centre, width = _number(place.get("WindowCenter")), _number(place.get("WindowWidth"))
        if centre is not None and width is not None and width > 0:
            return Window(centre, width, str(place.get("VOILUTFunction") or "LINEAR").strip().upper())
    return None


def functional_groups(header: pydicom.Dataset, number: int) -> list[pydicom.Dataset]:
    """Return the functional groups of a frame, its own first, then the shared ones (PS3.3 C.7.6.16)."""
    found: list[pydicom.Dataset] = []
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if per_frame and len(per_frame) >= number:
        found.append(per_frame[number - 1])
    shared = header.get("SharedFunctionalGroupsSequence")
    if shared:
        found.append(shared[0])
    return found


def _is_inverse(header: pydicom.Dataset) -> bool:
    """PS3.3 C.11.6.1.2: the presentation LUT shape, where there is one, says it; else MONOCHROME1."""
    shape = str(header.get("PresentationLUTShape") or "").strip().upper()
    monochrome_1 = str(header.get("PhotometricInterpretation") or "").strip().upper() == "MONOCHROME1"
    return monochrome_1 if shape not in ("INVERSE",) else True


def _modality(pixels: Array, header: pydicom.Dataset, groups: list[pydicom.Dataset]) -> Array:
    sequence = header.get("ModalityLUTSequence")
    if sequence:
        lut, first = _lut(sequence[0])
        return lut[np.clip(pixels.astype(np.int64) - first, 0, len(lut) - 1)].astype(np.float32)
    for place in [*(_item(group, "PixelValueTransformationSequence") for group in groups), header]:
        if place is None:
            continue
        slope, intercept = _number(place.get("RescaleSlope")), _number(place.get("RescaleIntercept"))
        if slope is not None and intercept is not None and slope != 0:
            return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return pixels.astype(np.float32)


def _windowed(values: Array, window: Window) -> Array:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    centre, width = window.centre, window.width
    with np.errstate(over="ignore", invalid="ignore"):
        if window.function == "SIGMOID":
            scaled = 255.0 / (1.0 + np.exp(-4.0 * (values - centre) / max(width, 1e-6)))
        elif window.function == "LINEAR_EXACT" or width <= 1:
            scaled = ((values - centre) / max(width, 1e-6) + 0.5) * 255.0
        else:
            scaled = ((values - (centre - 0.5)) / (width - 1.0) + 0.5) * 255.0
        return np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255).astype(np.uint8)


def _min_max(values: Array, pixels: Array, header: pydicom.Dataset) -> Window:
    """A window over all values, those that are padding left out (PS3.3 C.7.5.1.1.2)."""
    finite = np.isfinite(values)
    padding = header.get("PixelPaddingValue")
    if padding is not None:
        limit = whole(header.get("PixelPaddingRangeLimit"), whole(padding, 0))
        low, high = sorted((whole(padding, 0), limit))
        finite &= ~((pixels >= low) & (pixels <= high))
    seen = values[finite]
    if seen.size == 0:
        return Window(0.5, 1.0, "LINEAR_EXACT")
    least, most = float(seen.min()), float(seen.max())
    return Window((least + most) / 2, max(most - least, 1.0), "LINEAR_EXACT")


def _voi_lut(header: pydicom.Dataset) -> tuple[Array, int] | None:
    """The first VOI LUT, where the object has no window; where it has both, the window is taken."""
    sequence = header.get("VOILUTSequence")
    if not sequence or _number(header.get("WindowWidth")) is not None:
        return None
    return _lut(sequence[0])


def _through_lut(values: Array, lut: tuple[Array, int]) -> Array:
    table, first = lut
    grey = (table.astype(np.float32) * (255.0 / max(float(table.max()), 1.0))).astype(np.uint8)
    return grey[np.clip(values.astype(np.int64) - first, 0, len(grey) - 1)]


def _stretch_of(lut: tuple[Array, int]) -> Window:
    """Return the window nearest to a LUT: the values at which it is neither darkest nor brightest."""
    table, first = lut
    least, most = int(table.min()), int(table.max())
    within = np.flatnonzero((table > least) & (table < most))
    low, high = (int(within[0]), int(within[-1])) if within.size else (0, len(table) - 1)
    return Window(first + (low + high + 1) / 2, max(1.0, high - low + 1.0))


def _lut(item: pydicom.Dataset) -> tuple[Array, int]:
    """Return a LUT's entries and the value that the first one stands for (PS3.3 C.11.1.1)."""
    try:
        count, first, bits = (int(n) for n in item["LUTDescriptor"].value)
        content = item["LUTData"].value
    except (KeyError, TypeError, ValueError) as error:
        raise Undecodable("a LUT without descriptor or entries") from error
    count = count & 0xFFFF or 65536
    if isinstance(content, bytes):
        size = 1 if bits <= 8 and len(content) < 2 * count else 2
        entries = np.frombuffer(content[: len(content) // size * size], f"<u{size}")
    else:
        entries = np.asarray(content, np.int64)
    if entries.size == 0:
        raise Undecodable("a LUT without entries")
    return entries[:count].astype(np.int64), first


def _palette(pixels: Array, header: pydicom.Dataset) -> Array:
    try:
        coloured = apply_color_lut(pixels, header)
    except Exception as error:  # what a broken palette raises is not documented
        raise Undecodable("the palette cannot be used") from error
    return _to_8_bits(coloured, 16 if coloured.dtype.itemsize > 1 else 8)[:, :, :3]


def _colour(pixels: Array, layout: Layout) -> Array:
    grey = _to_8_bits(pixels, layout.bits_stored)
    if layout.photometric in ("YBR_FULL", "YBR_FULL_422"):
        return np.asarray(Picture.fromarray(np.ascontiguousarray(grey), "YCbCr").convert("RGB"))
    return np.ascontiguousarray(grey[:, :, :3])


def _to_8_bits(pixels: Array, bits: int) -> Array:
    unsigned = pixels.view(np.dtype(f"u{pixels.dtype.itemsize}"))
    return (unsigned >> max(0, bits - 8)).astype(np.uint8) if bits > 8 else unsigned.astype(np.uint8)


def _float_frame(image: Image, number: int) -> tuple[Array, Layout]:
    order = ">" if image.transfer_syntax == EXPLICIT_BIG else "<"
    if image.encapsulated:
        raise Undecodable("float pixels are never encapsulated")
    image.layout.check()
    flat = np.frombuffer(image.read_frame(number), f"{order}f{image.layout.bits_allocated // 8}")
    return flat.reshape(image.layout.rows, image.layout.columns), image.layout


def _item(group: pydicom.Dataset, keyword: str) -> pydicom.Dataset | None:
    sequence = group.get(keyword)
    return sequence[0] if sequence else None


def _number(value: Any) -> float | None:
    """The first value as a finite number; None where there is none."""
    try:
        number = float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None
