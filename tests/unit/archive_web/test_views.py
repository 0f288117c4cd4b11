"""What a query says of a picture."""

from __future__ import annotations

import math

import pytest

from failover.archive.dicomweb.views import BadView, of_rendered, of_wado_uri
from failover.archive.rendering import Region, View, Window


def rendered(text: str) -> View:
    return of_rendered(dict([part.split("=") for part in text.split("&") if part]), "image/png", (9, 9))


def wado_uri(text: str) -> View:
    return of_wado_uri(dict([part.split("=") for part in text.split("&") if part]), "image/png")


def test_a_viewport_may_name_a_region_and_leave_out_what_is_usual() -> None:
    assert rendered("").viewport == (9, 9)
    assert rendered("viewport=5,6") == View(None, (5, 6), 90, "image/png")
    assert rendered("viewport=5,6,1.5,2,3,4").region == Region(1.5, 2, 3, 4)
    assert rendered("viewport=5,6,,,3,4").region == Region(0, 0, 3, 4)
    assert rendered("viewport=5,6,1,2").region == Region(1, 2, math.inf, math.inf)
    assert rendered("viewport=5,6,,,-3,-4").region == Region(0, 0, 3, 4, mirrored=True, upended=True)
    assert rendered("window=40,400,sigmoid&quality=7") == View(
        Window(40, 400, "SIGMOID"), (9, 9), 7, "image/png"
    )


@pytest.mark.parametrize(
    "wrong",
    ["viewport=5", "viewport=0,1", "viewport=8193,1", "viewport=1e3,1", "viewport=5,6,-1", "viewport=5,6,nan",
     "viewport=5,6,0,0,0,1", "viewport=5,6,0,0,1,1,1", "viewport=5,6,inf", "window=1", "window=1,0",
     "window=1,2,odd", "window=1,2,linear,3", "window=nan,1", "quality=0", "quality=101", "quality=x"],
)  # fmt: skip
def test_what_names_no_picture_is_refused(wrong: str) -> None:
    with pytest.raises(BadView):
        rendered(wrong)


def test_wado_uri_says_it_in_its_own_words() -> None:
    assert wado_uri("requestType=WADO") == View(None, None, 90, "image/png")
    assert wado_uri("rows=10&columns=20").viewport == (20, 10)
    assert wado_uri("rows=10").viewport == (8192, 10)
    assert wado_uri("windowCenter=40&windowWidth=400").window == Window(40, 400)
    assert wado_uri("region=0.25,0,0.75,0.5").region == Region(0.25, 0, 0.5, 0.5, shares=True)
    assert wado_uri("imageQuality=3").quality == 3


@pytest.mark.parametrize(
    "wrong",
    ["rows=0", "columns=9999", "rows=1.5", "windowCenter=1", "windowWidth=1", "windowCenter=1&windowWidth=0",
     "region=0,0,1", "region=0,0,1,1,1", "region=0.5,0,0.5,1", "region=0,0,1.1,1", "region=-0.1,0,1,1",
     "region=a,b,c,d", "imageQuality=0"],
)  # fmt: skip
def test_wado_uri_is_refused_what_names_no_picture(wrong: str) -> None:
    with pytest.raises(BadView):
        wado_uri(wrong)
