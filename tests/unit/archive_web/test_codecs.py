"""Frames of every transfer syntax that we read, against the uncompressed original or pydicom's decoders."""

from __future__ import annotations

import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.pixels import convert_color_space, pixel_array

from failover.archive.codecs import (
    Layout,
    Undecodable,
    can_decode,
    decode,
    native_bytes,
    stored_values,
)
from failover.archive.pixels import NoPixels, NoSuchFrame, open_image
from tests.unit.archive_web.samples import FILES, image


def decoded(name: str, frame: int = 1):  # type: ignore[no-untyped-def]
    opened = open_image(FILES / name)
    return decode(opened.read_frame(frame), opened.transfer_syntax, opened.layout)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_one_picture_in_many_syntaxes_has_the_same_pixels(name: str) -> None:
    original, _ = decoded("MR_small.dcm")
    pixels, _ = decoded(name)
    assert pixels.dtype == original.dtype
    assert np.array_equal(pixels, original)


@pytest.mark.parametrize(
    "name",
    [
        "693_J2KI.dcm",
        "ExplVR_BigEnd.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "JPEG2000.dcm",
        "SC_jpeg_no_color_transform.dcm",
        "SC_jpeg_no_color_transform_2.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+n1.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_jpeg_app14_dcmd.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_rle_16bit_2frame.dcm",
        "SC_rgb_rle_32bit.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "examples_jpeg2k.dcm",
        "image_dfl.dcm",
        "examples_ybr_color.dcm",
        "liver_1frame.dcm",
        "rtdose.dcm",
        "rtdose_rle.dcm",
    ],
)
def test_pixels_are_those_that_pydicom_reads(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pixel_array(pydicom.dcmread(FILES / name), index=0)
    pixels, layout = decoded(name)
    if layout.samples == 3 and layout.photometric.startswith("YBR"):
        pixels = convert_color_space(pixels, layout.photometric, "RGB")
    assert np.array_equal(pixels, expected)


def test_every_frame_of_an_object_is_found() -> None:
    name = "SC_rgb_rle_16bit_2frame.dcm"
    expected = pixel_array(FILES / name)
    for number in (1, 2):
        assert np.array_equal(decoded(name, number)[0], expected[number - 1])
    with pytest.raises(NoSuchFrame):
        decoded(name, 3)


def test_frames_in_fragments_are_found_by_table_or_by_codestream(tmp_path: Path) -> None:
    frames = [np.full((64, 64), n * 40, np.uint8) for n in range(3)]
    streams = [imagecodecs.jpegls_encode(f) for f in frames]
    rows = [(s[:20] + b"", s[20:]) for s in streams]  # each frame in two fragments
    items = b"".join(_item(part) for pair in rows for part in (pair[0], pair[1] + b"\0" * (len(pair[1]) % 2)))
    for table in (b"", _offsets(rows)):
        path = image(tmp_path / "f.dcm", np.zeros((3, 64, 64), np.uint8))
        header = pydicom.dcmread(path)
        header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"
        header.PixelData = _item(table) + items
        header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True
        header.save_as(path)
        opened = open_image(path)
        for number, frame in enumerate(frames, 1):
            pixels, _ = decode(opened.read_frame(number), opened.transfer_syntax, opened.layout)
            assert np.array_equal(pixels, frame)


def _item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + len(content).to_bytes(4, "little") + content


def _offsets(rows: list[tuple[bytes, bytes]]) -> bytes:
    at, table = 0, b""
    for first, second in rows:
        table += at.to_bytes(4, "little")
        at += 16 + len(first) + len(second) + len(second) % 2
    return table


def test_single_bits_that_begin_within_a_byte(tmp_path: Path) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (5, 3, 3), np.uint8)
    path = image(tmp_path / "bits.dcm", np.zeros((5, 3, 3), np.uint8))
    header = pydicom.dcmread(path)
    header.BitsAllocated = header.BitsStored = 1
    header.HighBit = 0
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    header.PixelData = packed + b"\0" * (len(packed) % 2)
    header.save_as(path)
    opened = open_image(path)
    for number in range(5):
        pixels, _ = decode(opened.read_frame(number + 1), opened.transfer_syntax, opened.layout)
        assert np.array_equal(pixels, bits[number])


@pytest.mark.parametrize("bits_stored", [12, 16])
def test_signed_samples_survive_a_codec_without_signs(bits_stored: int) -> None:
    half = 2 ** (bits_stored - 1)
    samples = np.array([[-half, -1], [0, half - 1]], np.int16)
    stream = imagecodecs.jpeg8_encode(
        samples.view(np.uint16) & np.uint16(2**bits_stored - 1), lossless=True, predictor=1, bitspersample=16
    )
    layout = Layout(2, 2, 1, "MONOCHROME2", 0, 16, bits_stored, signed=True)
    pixels, _ = decode(stream, "1.2.840.10008.1.2.4.70", layout)
    assert np.array_equal(pixels, samples)
    assert native_bytes(pixels, layout) == samples.astype("<i2").tobytes()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"])
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (10, 12), (16, 15)])
@pytest.mark.parametrize("signed", [False, True])
def test_what_stands_beside_the_stored_bits_is_not_shown_and_not_lost(
    syntax: str, stored: int, high: int, signed: bool
) -> None:
    """Given overlays in the unused bits, then what is looked at is the samples, and what is sent is all."""
    least = -(2 ** (stored - 1)) if signed else 0
    values = np.arange(least, least + 2**stored, 2 ** (stored - 4))[:16].reshape(4, 4)
    low = high + 1 - stored
    ours = (2**stored - 1) << low
    beside = np.random.default_rng(3).integers(0, 2**16, (4, 4)) & ~ours
    cells = (((values << low) & ours) | beside).astype("<u2")
    layout = Layout(4, 4, 1, "MONOCHROME2", 0, 16, stored, signed, high)
    frame = cells.tobytes()
    if syntax == "1.2.840.10008.1.2.2":
        frame = cells.astype(">u2").tobytes()
    elif syntax == "1.2.840.10008.1.2.5":
        frame = _run_lengths(cells)
    pixels, decoded_layout = decode(frame, syntax, layout)
    assert np.array_equal(stored_values(pixels, decoded_layout), values)
    assert native_bytes(pixels, decoded_layout) == cells.tobytes()


def _run_lengths(cells: np.ndarray) -> bytes:
    """PS3.5 G: sixteen samples of two bytes, each half a segment that is one literal run."""
    halves = [cells.view(np.uint8).reshape(-1, 2)[:, n].tobytes() for n in (1, 0)]
    segments = [b"\x0f" + half + b"\0" for half in halves]
    return np.array([2, 64, 64 + 18] + [0] * 13, "<u4").tobytes() + b"".join(segments)


def test_htj2k_is_read() -> None:
    samples = np.arange(64 * 64, dtype=np.int16).reshape(64, 64) - 1000
    layout = Layout(64, 64, 1, "MONOCHROME2", 0, 16, 16, signed=True)
    pixels, _ = decode(imagecodecs.htj2k_encode(samples), "1.2.840.10008.1.2.4.201", layout)
    assert np.array_equal(pixels, samples)


GREY = Layout(100, 100, 1, "MONOCHROME2", 0, 8, 8, signed=False)
SMALL_JPEG = imagecodecs.jpeg8_encode(np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize(
    ("frame", "syntax", "layout"),
    [
        (b"\0" * 9999, "1.2.840.10008.1.2.1", GREY),  # too short
        (b"", "1.2.840.10008.1.2.4.50", GREY),
        (b"\xff\xd8" + b"\0" * 50, "1.2.840.10008.1.2.4.50", GREY),
        (SMALL_JPEG, "1.2.840.10008.1.2.4.50", GREY),  # another size than the header says
        (SMALL_JPEG[:60], "1.2.840.10008.1.2.4.50", GREY),
        (b"\xff\x4f\xff\x51" + b"\xff" * 60, "1.2.840.10008.1.2.4.90", GREY),
        (b"\x01\0\0\0" + b"\0" * 60, "1.2.840.10008.1.2.5", GREY),
        (b"", "1.2.840.10008.1.2.5", GREY),
        (b"\0" * 100, "1.2.840.10008.1.2.4.102", GREY),  # video
        (b"\0" * 100, "1.2.3.4", GREY),
        (b"", "1.2.840.10008.1.2.1", Layout(0, 1, 1, "MONOCHROME2", 0, 8, 8, False)),
        (b"", "1.2.840.10008.1.2.1", Layout(65535, 65535, 1, "MONOCHROME2", 0, 16, 16, False)),
        (b"", "1.2.840.10008.1.2.1", Layout(1, 1, 7, "RGB", 0, 8, 8, False)),
        (b"", "1.2.840.10008.1.2.1", Layout(1, 1, 1, "MONOCHROME2", 0, 24, 24, False)),
    ],
)
def test_what_is_no_picture_is_refused(frame: bytes, syntax: str, layout: Layout) -> None:
    with pytest.raises(Undecodable):
        decode(frame, syntax, layout)


def test_objects_without_pixels_say_so() -> None:
    for name in ("test-SR.dcm", "rtplan.dcm"):
        with pytest.raises(NoPixels):
            open_image(FILES / name)


def test_video_is_known_and_cannot_be_decoded() -> None:
    assert can_decode("1.2.840.10008.1.2.4.70")
    assert not can_decode("1.2.840.10008.1.2.4.102")


def test_two_billion_frames_are_a_claim(tmp_path: Path) -> None:
    path = image(tmp_path / "claim.dcm", np.zeros((2, 2), np.uint8), NumberOfFrames=2**31 - 1)
    opened = open_image(path)
    assert opened.read_frame(1) == b"\0\0\0\0"
    with pytest.raises(NoSuchFrame):
        opened.read_frame(2**31 - 1)
