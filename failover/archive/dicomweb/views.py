"""How a caller wants a frame to be shown: what the query says, as a View. Pure.

`of_rendered` reads the parameters of WADO-RS (PS3.18 8.3.5), `of_wado_uri` those of WADO-URI (PS3.18 9.5).
What a picture is made of says `rendering`. Parameters that are not known here are read over (PS3.18 8.3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from failover.archive.rendering import MAX_VIEWPORT, Region, View, Window
from failover.errors import FailoverError

_SHAPES: Final = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_LARGEST: Final = 1e9  # of windows and places: far beyond what an object can hold
_QUALITY: Final = "90"


class BadView(FailoverError):
    """The query is none that a picture can be made by: 400. The message says what may stand there."""


def of_rendered(query: Mapping[str, str], media_type: str, viewport: tuple[int, int] | None = None) -> View:
    """Return the view that `viewport`, `window` and `quality` name; `viewport` where none is given.

    Raises BadView.
    """
    with _else_told(
        "viewport=width,height[,left,top,width,height];"
        " window=centre,width,linear|linear-exact|sigmoid; quality=1…100"
    ):
        region = None
        if "viewport" in query:
            width, height, *rest = query["viewport"].split(",")
            viewport = _side(width), _side(height)
            region = _pixels(rest) if rest else None
        window = None
        if "window" in query:
            centre, width, *shape = query["window"].split(",")
            (name,) = shape or ["linear"]
            window = _window(centre, width, _SHAPES[name.lower()])
        return View(window, viewport, _quality(query.get("quality", _QUALITY)), media_type, region)


def of_wado_uri(query: Mapping[str, str], media_type: str) -> View:
    """Return the view that `rows`, `columns`, `region`, `windowCenter`, `windowWidth`, `imageQuality` name.

    Raises BadView.
    """
    with _else_told(
        "rows and columns: 1 to 8192; windowCenter goes with windowWidth; region=left,top,right,bottom,"
        " each 0.0…1.0; imageQuality=1…100"
    ):
        viewport = None
        if "rows" in query or "columns" in query:
            # PS3.18 8.2.2 until 2019: of one alone the other follows.
            viewport = (
                _side(query.get("columns", str(MAX_VIEWPORT))),
                _side(query.get("rows", str(MAX_VIEWPORT))),
            )
        window = None
        if "windowCenter" in query or "windowWidth" in query:
            window = _window(query["windowCenter"], query["windowWidth"], "LINEAR")
        region = _share(query["region"].split(",")) if "region" in query else None
        return View(window, viewport, _quality(query.get("imageQuality", _QUALITY)), media_type, region)


@contextmanager
def _else_told(what: str) -> Iterator[None]:
    """Raise BadView, which says `what` may stand there, for what cannot be read."""
    try:
        yield
    except (ValueError, KeyError):
        raise BadView(what) from None


def _side(text: str) -> int:
    side = int(text)
    if not 1 <= side <= MAX_VIEWPORT:
        raise ValueError(text)
    return side


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or abs(number) >= _LARGEST:
        raise ValueError(text)
    return number


def _window(centre: str, width: str, function: str) -> Window:
    window = Window(_number(centre), _number(width), function)
    if window.width <= 0:
        raise ValueError(width)
    return window


def _quality(text: str) -> int:
    quality = int(text)
    if not 1 <= quality <= 100:
        raise ValueError(text)
    return quality


def _pixels(texts: list[str]) -> Region:
    """PS3.18 8.3.5.1.3: left, top, width, height in pixels of the frame; what is left out reaches its edge.

    A negative width or height mirrors what is shown.
    """
    if len(texts) > 4:
        raise ValueError(texts)
    left, top, width, height = (*texts, *[""] * (4 - len(texts)))
    across = _number(width) if width else math.inf
    down = _number(height) if height else math.inf
    region = Region(_number(left or "0"), _number(top or "0"), abs(across), abs(down), across < 0, down < 0)
    if min(region.left, region.top) < 0 or not region.width or not region.height:
        raise ValueError(texts)
    return region


def _share(texts: list[str]) -> Region:
    """PS3.18 9.5.1.2: left, top, right, bottom as shares of the frame's columns and rows."""
    left, top, right, bottom = (_number(text) for text in texts)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(texts)
    return Region(left, top, right - left, bottom - top, shares=True)
