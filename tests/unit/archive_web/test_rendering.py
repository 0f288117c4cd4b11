"""What a person sees: windows, inversion, palettes, colour, size."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from pydicom.dataset import Dataset

from failover.archive.codecs import Undecodable
from failover.archive.pixels import open_image
from failover.archive.rendering import NoSuchRegion, Region, View, Window, animate, decoded_frame, render
from tests.unit.archive_web.samples import FILES, image

PNG, GIF = View(media_type="image/png"), View(media_type="image/gif")
RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16


def seen(path: Path, view: View = PNG, frame: int = 1) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(Picture.open(BytesIO(render(open_image(path), frame, view))))


def test_a_window_is_linear_as_the_standard_has_it(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1: x <= c - 0.5 - (w-1)/2 is black, x > c - 0.5 + (w-1)/2 white.
    path = image(tmp_path / "a.dcm", RAMP)
    grey = seen(path, View(window=Window(2048, 4096), media_type="image/png"))
    expected = np.clip(((RAMP - 2047.5) / 4095 + 0.5) * 255, 0, 255).astype(np.uint8)
    assert np.array_equal(grey, expected)


def test_the_objects_own_window_and_rescale_count(tmp_path: Path) -> None:
    path = image(
        tmp_path / "a.dcm",
        RAMP,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=[0, 5],
        WindowWidth=[2, 9],
    )
    grey = seen(path)
    assert grey[RAMP < 1022].max() == 0
    assert grey[RAMP > 1026].min() == 255


def test_without_a_window_darkest_and_brightest_span_the_greys(tmp_path: Path) -> None:
    pixels = RAMP.copy()
    pixels[0, 0] = 60000
    grey = seen(image(tmp_path / "a.dcm", pixels, PixelPaddingValue=60000))
    assert grey[0, 1] < 3
    assert grey[15, 15] == 255


def test_monochrome_1_is_inverse(tmp_path: Path) -> None:
    normal = seen(image(tmp_path / "a.dcm", RAMP))
    inverse = seen(image(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(inverse, 255 - normal)


def test_one_value_everywhere_is_no_division_by_zero(tmp_path: Path) -> None:
    assert seen(image(tmp_path / "a.dcm", np.full((4, 4), 7, np.uint8))).shape == (4, 4)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [1e-9, 1, 4096, 1e12])
def test_any_window_gives_a_picture(tmp_path: Path, function: str, width: float) -> None:
    view = View(window=Window(1000, width, function), media_type="image/png")
    assert seen(image(tmp_path / "a.dcm", RAMP), view).shape == (16, 16)


def test_colour_palette_and_ybr_come_as_rgb() -> None:
    red = [254, 0, 0]
    for name in ("SC_rgb_rle.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_jpeg_dcmtk.dcm"):
        assert np.abs(seen(FILES / name)[5, 5].astype(int) - red).max() <= 3, name
    assert seen(FILES / "examples_palette.dcm").shape == (350, 800, 3)


def test_a_viewport_keeps_the_proportions() -> None:
    view = View(viewport=(100, 100), media_type="image/jpeg")
    assert seen(FILES / "examples_palette.dcm", view).shape == (44, 100, 3)


def test_each_frame_is_its_own() -> None:
    path = FILES / "examples_ybr_color.dcm"
    assert not np.array_equal(seen(path, frame=1), seen(path, frame=20))


def test_a_decoded_frame_is_little_endian_and_interleaved() -> None:
    assert decoded_frame(open_image(FILES / "MR_small_bigendian.dcm"), 1) == decoded_frame(
        open_image(FILES / "MR_small.dcm"), 1
    )
    planes = open_image(FILES / "ExplVR_BigEnd.dcm")  # planar configuration 1
    assert planes.layout.planar == 1
    stored = np.frombuffer(planes.read_frame(1), np.uint8).reshape(3, 60, 80)
    assert decoded_frame(planes, 1) == stored.transpose(1, 2, 0).tobytes()


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("<u2", {"WindowCenter": 900, "WindowWidth": 700, "RescaleSlope": 2, "RescaleIntercept": -1024}),
        ("<i2", {"WindowCenter": -100, "WindowWidth": 999, "RescaleSlope": -1, "RescaleIntercept": 3}),
        ("<i2", {"WindowCenter": 1, "WindowWidth": 1, "PhotometricInterpretation": "MONOCHROME1"}),
        ("u1", {"WindowCenter": 100, "WindowWidth": 80, "VOILUTFunction": "SIGMOID"}),
    ],
)
def test_a_large_picture_has_the_greys_of_its_small_parts(
    tmp_path: Path, kind: str, attributes: dict[str, object]
) -> None:
    # More pixels than there are values are looked up; fewer are worked out one by one.
    limits = np.iinfo(np.dtype(kind))
    made = np.random.default_rng(7).integers(limits.min, limits.max, (512, 256), endpoint=True)
    pixels = made.astype(kind)
    whole = seen(image(tmp_path / "whole.dcm", pixels, **attributes))
    halves = [
        seen(image(tmp_path / f"{n}.dcm", part, **attributes)) for n, part in enumerate(np.split(pixels, 8))
    ]
    assert np.array_equal(whole, np.concatenate(halves))
    assert len(np.unique(whole)) > 1


@pytest.mark.parametrize("side", [16, 512])  # worked out one by one, or looked up
def test_overlays_in_unused_bits_are_not_seen(tmp_path: Path, side: int) -> None:
    plain = np.resize(np.arange(4096, dtype=np.uint16), (side, side))
    overlaid = plain | (np.arange(side, dtype=np.uint16) % 2 << 15)
    stored = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
    expected = seen(image(tmp_path / "plain.dcm", plain, **stored))
    assert np.array_equal(seen(image(tmp_path / "overlaid.dcm", overlaid, **stored)), expected)
    high = {**stored, "HighBit": 15}
    assert np.array_equal(seen(image(tmp_path / "high.dcm", plain << 4, **high)), expected)


def test_a_picture_says_the_window_that_it_was_made_with(tmp_path: Path) -> None:
    def told(path: Path, view: View = PNG) -> str | None:
        return Picture.open(BytesIO(render(open_image(path), 1, view))).info.get("failover-window")

    lut = Dataset()
    lut.add_new("LUTDescriptor", "SS", [300, -100, 8])
    lut.add_new("LUTData", "OW", (b"\0" * 100 + bytes(range(1, 101)) + b"\xff" * 100))
    shaped = image(tmp_path / "lut.dcm", RAMP.astype(np.int16), VOILUTSequence=[lut])
    assert told(shaped) == "lut,50,100"  # entries 100 to 199 stand for the values 0 to 99
    assert told(shaped, View(window=Window(1, 2), media_type="image/png")) is None
    assert told(image(tmp_path / "own.dcm", RAMP, WindowCenter=40, WindowWidth=400)) == "own,40,400"
    assert told(image(tmp_path / "none.dcm", RAMP)) == "values,2040,4080"


def test_a_region_is_cut_out_before_it_is_fitted(tmp_path: Path) -> None:
    path = image(tmp_path / "a.dcm", RAMP, WindowCenter=2048, WindowWidth=4096)
    whole = seen(path)

    def cut(region: Region, viewport: tuple[int, int] | None = None) -> np.ndarray:
        return seen(path, View(viewport=viewport, region=region, media_type="image/png"))

    assert np.array_equal(cut(Region(4, 2, 8, 6)), whole[2:8, 4:12])
    assert np.array_equal(cut(Region(4.5, 2.5, 1, 1)), whole[2:4, 4:6])
    assert np.array_equal(cut(Region(12, 12, math.inf, 99)), whole[12:, 12:])
    assert np.array_equal(cut(Region(0.1, 0.5, 0.9, 0.25, shares=True)), whole[8:12, 1:])
    assert np.array_equal(cut(Region(0, 0, 4, 4, mirrored=True)), whole[:4, 3::-1])
    assert np.array_equal(cut(Region(0, 0, 4, 4, upended=True)), whole[3::-1, :4])
    assert cut(Region(0, 0, 16, 8), (4, 4)).shape == (2, 4)
    for outside in (Region(16, 0, 1, 1), Region(0, 99, math.inf, math.inf)):
        with pytest.raises(NoSuchRegion):
            cut(outside)


def test_a_picture_is_as_large_as_its_viewport_lets_it_be(tmp_path: Path) -> None:
    path = image(tmp_path / "a.dcm", RAMP[:, :8])
    sizes = {
        viewport: seen(path, View(viewport=viewport, media_type="image/png")).shape
        for viewport in ((4, 4), (8, 16), (100, 64), (16, 999), (1, 1))
    }
    assert sizes == {
        (4, 4): (4, 2),
        (8, 16): (16, 8),
        (100, 64): (64, 32),
        (16, 999): (32, 16),
        (1, 1): (1, 1),
    }
    assert seen(path, View(viewport=(8192, 8192), media_type="image/png")).size <= 17 * 2**20


@pytest.mark.parametrize(
    ("rates", "frame_ms"),
    [
        ({}, 100),
        ({"FrameTime": "40", "CineRate": "5"}, 40),
        ({"CineRate": "5"}, 200),
        ({"RecommendedDisplayFrameRate": "10", "CineRate": "5"}, 100),
        ({"FrameTime": "0"}, 20),
        ({"CineRate": "-1"}, 20),
        ({"FrameTime": "1000000"}, 10_000),
    ],
)
def test_a_loop_plays_at_the_rate_that_its_object_tells(
    tmp_path: Path, rates: dict[str, str], frame_ms: int
) -> None:
    loop = np.stack([RAMP, RAMP[::-1]])
    made = animate(open_image(image(tmp_path / "a.dcm", loop, **rates)), [1, 2], GIF)
    moving = Picture.open(BytesIO(made))
    assert (moving.n_frames, moving.info["duration"]) == (2, frame_ms)  # type: ignore[attr-defined]


def test_what_is_too_much_for_one_moving_picture_is_refused(tmp_path: Path) -> None:
    loop = open_image(image(tmp_path / "a.dcm", RAMP))
    with pytest.raises(Undecodable, match="fewer frames"):
        animate(loop, [1] * (64 * 2**20 // RAMP.size + 1), GIF)
    with pytest.raises(Undecodable, match="smaller viewport"):
        animate(loop, [1] * (64 * 2**20 // 64**2 + 1), View(viewport=(64, 64), media_type="image/gif"))
