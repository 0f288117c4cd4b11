"""Which bytes a Range asks for (RFC 9110 14), as a table."""

from __future__ import annotations

import pytest

from failover.archive.dicomweb.ranges import NotSatisfiable, Part, asked_part

ETAG = "abc"


@pytest.mark.parametrize(
    ("field", "if_range", "expected"),
    [
        (None, None, None),
        ("bytes=0-9", None, (0, 10)),
        ("bytes=90-", None, (90, 10)),
        ("bytes=90-1000", None, (90, 10)),
        ("bytes=-10", None, (90, 10)),
        ("bytes=-1000", None, (0, 100)),
        ("Bytes = 5 - 5", None, (5, 1)),
        ("bytes=0-9", '"abc"', (0, 10)),
        ("bytes=0-9", '"other"', None),
        ("bytes=0-9", 'W/"abc"', None),
        ("bytes=0-9", "Tue, 24 Nov 2026 10:00:00 GMT", None),
        ("bytes=9-0", None, None),
        ("bytes=0-1,5-6", None, None),
        ("bytes=-", None, None),
        ("bytes=a-b", None, None),
        ("pages=1-2", None, None),
        ("bytes=" + "9" * 40 + "-", None, None),
    ],
)
def test_a_range(field: str | None, if_range: str | None, expected: tuple[int, int] | None) -> None:
    part = asked_part(field, if_range, ETAG, 100)
    assert part == (Part(*expected, 100) if expected else None)
    if part is not None:
        assert part.content_range == f"bytes {part.first}-{part.first + part.length - 1}/100"


@pytest.mark.parametrize(("field", "whole"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0)])
def test_a_range_behind_the_end_is_not_satisfiable(field: str, whole: int) -> None:
    with pytest.raises(NotSatisfiable):
        asked_part(field, None, ETAG, whole)
