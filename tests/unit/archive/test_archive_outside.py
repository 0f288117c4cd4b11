"""A search that matched nothing: "nothing found" only where all that it could match is held."""

from __future__ import annotations

from datetime import date
from typing import Any, cast

import pytest

from failover.archive.index import Index, Window
from failover.archive.outside import could_match_outside
from failover.archive.queries import Level, Query
from failover.dicom.query_keys import AnyOf

TODAY = AnyOf(("20261124",))
SHORT = Window(date(2026, 11, 1), {"1.2": 3})
NO_INDEX = cast(Index, None)  # only asked where a study is named


@pytest.mark.parametrize(("level", "keys", "window", "could"), [
    (Level.STUDY, {0x00080020: TODAY}, SHORT, False),
    (Level.STUDY, {0x00080020: TODAY, 0x00080061: AnyOf(("SR",))}, SHORT, True),
    (Level.SERIES, {0x00080020: TODAY}, SHORT, True),
    (Level.SERIES, {0x00080020: TODAY}, Window(date(2026, 11, 1), {}), False),
    (Level.STUDY, {0x00080020: AnyOf(("20261031",))}, SHORT, True),
])  # fmt: skip
def test_what_is_held_in_part_could_match(
    level: Level, keys: dict[int, Any], window: Window, could: bool
) -> None:
    assert could_match_outside(Query(level, keys), window, NO_INDEX) is could
