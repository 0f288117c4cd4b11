"""A JSON array is read item by item, and no byte of it is looked at twice."""

from __future__ import annotations

import re

import pytest

from failover.errors import MalformedBody
from failover.http import json_items
from failover.http.json_items import JsonItems


class Counting:
    """A pattern that counts the bytes which it looked at."""

    looked = 0

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern

    def match(self, text: bytearray, at: int) -> re.Match[bytes] | None:
        found = self._pattern.match(text, at)
        self.looked += (len(text) if found is None else found.end()) - at
        return found


def test_the_work_grows_with_the_bytes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = [name for name in ("_IN_STRING", "_STRING_END") if hasattr(json_items, name)]
    (name,) = patterns
    counting = Counting(getattr(json_items, name))
    monkeypatch.setattr(json_items, name, counting)
    body = b'[{"a":"' + b"x" * 500_000 + rb"\\\"\\" + b"y" * 500_000 + b'"}]'
    reader = JsonItems(max_item_bytes=2**21)
    items: list[bytes] = []
    for at in range(0, len(body), 1000):
        items += reader.receive_data(body[at : at + 1000])
    reader.receive_end()
    assert items == [body[1:-1]]
    assert counting.looked < 2 * len(body)


@pytest.mark.parametrize("string", [rb"\\", rb"\"", rb"\\\"", rb"a\u0022b", b"", b"]}", rb"\\]"])
def test_a_string_ends_at_its_quote_in_any_split(string: bytes) -> None:
    item = b'{"k":"' + string + b'"}'
    body = b"[" + item + b" , " + item + b"]\n"
    for cut in range(len(body)):
        for second in range(cut, len(body)):
            reader = JsonItems(max_item_bytes=100)
            items = reader.receive_data(body[:cut]) + reader.receive_data(body[cut:second])
            items += reader.receive_data(body[second:])
            reader.receive_end()
            assert items == [item, item]


def test_white_space_may_follow_and_nothing_else() -> None:
    reader = JsonItems(max_item_bytes=10)
    assert reader.receive_data(b"[]") == []
    for _ in range(100):
        reader.receive_data(b"  \r\n")
    with pytest.raises(MalformedBody):
        reader.receive_data(b" []")
