"""A file is compressed only where every pixel and attribute is shown to come back, and why others stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from failover.archive import codecs, encoders, pixels
from failover.archive.arrival import Arrived, examine
from failover.archive.compressing import SYNTAXES, Original, compress, restore
from tests.unit.archive.objects import data_set, part10

SIZE = 32


def an_image(pixels_of: np.ndarray[Any, Any] | None = None, **attributes: Any) -> Dataset:
    """Return a smooth image with some noise, as compression likes it."""
    if pixels_of is None:
        y, x = np.mgrid[0:SIZE, 0:SIZE]
        pixels_of = (500 + 3 * x + 7 * y + np.random.default_rng(7).integers(0, 4, (SIZE, SIZE))).astype(
            "<u2"
        )
    bits = 8 * pixels_of.dtype.itemsize
    settings = {
        "Rows": SIZE,
        "Columns": SIZE,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels_of.dtype.kind == "i"),
        "PixelData": pixels_of.tobytes(),
    }
    return data_set(**(settings | attributes))


def colour(planar: int = 0) -> Dataset:
    samples = np.zeros((SIZE, SIZE, 3), np.uint8)
    samples[..., 0] = np.arange(SIZE)
    samples[..., 2] = 200
    stored = samples.transpose(2, 0, 1) if planar else samples
    image = an_image(
        np.ascontiguousarray(stored), SamplesPerPixel=3, PhotometricInterpretation="RGB", Rows=SIZE
    )
    image.PlanarConfiguration = planar
    image.private_block(0x0009, "A MAKER", create=True).add_new(1, "LO", "kept")
    image.DataSetTrailingPadding = b"\0" * 6
    return image


def frames(count: int) -> Dataset:
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    stack = np.stack([(x * y + 40 * n).astype("<u2") for n in range(count)])
    return an_image(stack, NumberOfFrames=count)


BLACK = np.zeros((SIZE, SIZE), np.uint8)
NOISE = np.random.default_rng(1).integers(0, 65536, (SIZE, SIZE)).astype("<u2")
SIGNED = (np.mgrid[0:SIZE, 0:SIZE][0] * 20 - 300).astype("<i2")


def made(folder: Path, content: bytes, how: str = "jpeg-lossless") -> tuple[dict[str, Any], Path, Path]:
    """Compress an object; return what is said, the original and the new file."""
    source, target = folder / "source.dcm", folder / "target.dcm"
    source.write_bytes(content)
    return said(compress(source, target, SYNTAXES[how])), source, target


def said(pieces: Any) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads(b"".join(pieces).lstrip(b"."))
    return outcome


@pytest.mark.parametrize("how", SYNTAXES)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    "image",
    [
        an_image(),
        an_image(SIGNED),
        an_image(SIGNED, BitsStored=12, HighBit=11),
        an_image(np.full((SIZE, SIZE), 7, np.uint8)),
        colour(),
        colour(planar=1),
        frames(3),
    ],
    ids=["unsigned", "signed", "signed, 12 bits stored", "bytes", "colour", "planes", "frames"],
)
def test_every_pixel_is_there_and_the_original_comes_back(
    tmp_path: Path, image: Dataset, syntax: UID, how: str
) -> None:
    outcome, source, target = made(tmp_path, part10(image, syntax), how)
    new, original = outcome["made"], Original(**outcome["original"])
    assert target.stat().st_size == new["size_bytes"] < source.stat().st_size
    compressed, plain = pixels.open_image(target), pixels.open_image(source)
    assert compressed.transfer_syntax == SYNTAXES[how]
    for number in range(1, plain.frames + 1):
        one, _ = codecs.decode(plain.read_frame(number), syntax, plain.layout)
        other, _ = codecs.decode(compressed.read_frame(number), SYNTAXES[how], compressed.layout)
        assert np.array_equal(one, other)
    header = pydicom.dcmread(target)
    assert header.SOPInstanceUID == image.SOPInstanceUID
    assert "LossyImageCompression" not in header
    assert header.get("PlanarConfiguration", 0) == 0
    it = examine(Arrived(target, None))
    assert (it.digest.hex(), it.meta.data_set_offset, it.pixel_offset, it.pixel_length) == (
        new["digest"], new["data_set_offset"], new["pixel_offset"], None,
    )  # fmt: skip

    back = tmp_path / "back.dcm"
    again = said(restore(target, back, original))["made"]
    assert original.exact
    assert examine(Arrived(back, None)).digest == examine(Arrived(source, None)).digest
    assert again["pixel_length"] == examine(Arrived(back, None)).pixel_length


def test_jpeg_lossless_is_of_the_first_selection_value_and_no_other() -> None:
    """PS3.5 A.4.2: .70 is process 14 with predictor 1; any other predictor is .57."""
    codestream = encoders.encode(np.arange(64, dtype=np.uint16).reshape(8, 8), encoders.JPEG_LOSSLESS)
    scan = codestream.index(b"\xff\xda")
    assert codestream[scan + 4 + 1 + 2 * codestream[scan + 4]] == 1


def a_lossy(samples: np.ndarray[Any, Any]) -> Dataset:
    image = an_image(samples)
    image.LossyImageCompression = "01"
    return image


def signed_digitally() -> Dataset:
    image = an_image()
    item = Dataset()
    item.MACIDNumber = 1
    image.DigitalSignaturesSequence = [item]
    return image


def in_jpeg() -> bytes:
    image = an_image(np.zeros((SIZE, SIZE), np.uint8))
    image.PixelData = encapsulate([bytes(imagecodecs.jpeg8_encode(np.zeros((SIZE, SIZE), np.uint8)))])
    image["PixelData"].is_undefined_length = True
    return part10(image, "1.2.840.10008.1.2.4.50")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (part10(a_lossy(np.zeros((SIZE, SIZE), np.uint8))), "lossy"),
        (part10(signed_digitally()), "signed"),
        (part10(an_image(BLACK, PhotometricInterpretation="PALETTE COLOR")), "palette"),
        (in_jpeg(), "compressed"),
        (part10(an_image(NOISE)), "not_smaller"),
        (part10(an_image(np.zeros((SIZE, SIZE), "<u4"))), "unsupported"),
        (part10(data_set(PixelData=None, Rows=None)), "no_pixels"),
        # Bits above the stored ones that are no sign would not come back.
        (part10(an_image(SIGNED, BitsStored=8, HighBit=7)), "differs"),
        (b"II*\0" + bytes(124) + part10(an_image())[128:], "unsupported"),
    ],
    ids=["lossy", "signed", "palette", "jpeg", "noise", "32 bits", "no pixels", "high bits", "tiff"],
)  # fmt: skip
def test_what_stays_as_it_is_and_why(tmp_path: Path, content: bytes, why: str) -> None:
    outcome, source, target = made(tmp_path, content)
    assert outcome == {"kept": why}
    assert not target.exists()
    assert source.read_bytes() == content


def test_a_codec_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an encoder that loses the lowest bit, when an object is compressed, then the original stays."""
    monkeypatch.setitem(
        encoders._ENCODERS,
        encoders.JPEG_LOSSLESS,
        lambda samples: encoders._jpeg_lossless(samples & np.uint16(0xFFFE)),
    )
    outcome, _, target = made(tmp_path, part10(an_image()))
    assert outcome == {"kept": "differs"}
    assert not target.exists()


def test_a_decoder_of_ours_that_lies_is_found_out_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = codecs.decode

    def decode(frame: bytes, syntax: str, layout: codecs.Layout) -> tuple[codecs.Array, codecs.Layout]:
        if syntax != encoders.JPEG_LOSSLESS:
            return honest(frame, syntax, layout)
        samples, layout = honest(frame, syntax, layout)
        return samples + np.uint16(1), layout

    monkeypatch.setitem(
        encoders._ENCODERS,
        encoders.JPEG_LOSSLESS,
        lambda samples: encoders._jpeg_lossless(samples - np.uint16(1)),
    )
    monkeypatch.setattr(codecs, "decode", decode)
    outcome, _, _ = made(tmp_path, part10(an_image()))
    assert outcome == {"kept": "differs"}
