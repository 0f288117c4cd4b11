"""The small pure rules: what is held, what a store's answer says, where WebSocket frames end."""

from __future__ import annotations

import re

import pytest

from failover.http.head import parse_answer
from failover.proxy.classify import Asked, WebRoute
from failover.proxy.hold import (
    HOLD_BYTES,
    HOLD_CHUNKED_S,
    STORE_ANSWER_BYTES,
    Delivery,
    is_empty_search,
    plan,
)
from failover.proxy.stow import acknowledges_nothing
from failover.proxy.tunnel import FrameBorders
from failover.routing.selection import Kind

READ = Asked(WebRoute.QIDO, Kind.READ, b"")
STORE = Asked(WebRoute.STOW, Kind.STORE, b"")
OTHER = Asked(WebRoute.OTHER, Kind.OTHER, b"")


@pytest.mark.parametrize(("asked", "lines", "judged", "delivery", "limit_bytes", "limit_s"), [
    (READ, "Content-Length: 1048576", False, "hold", HOLD_BYTES, None),
    (READ, "Content-Length: 1048577", False, "stream", 0, None),
    (READ, "Transfer-Encoding: chunked", False, "hold", HOLD_BYTES, HOLD_CHUNKED_S),
    (READ, "X: until close", False, "hold", HOLD_BYTES, HOLD_CHUNKED_S),
    (READ, "Transfer-Encoding: chunked", True, "hold", HOLD_BYTES, None),
    (READ, "Content-Type: text/event-stream; x", False, "stream", 0, None),
    (OTHER, "Content-Length: 1", False, "stream", 0, None),
    (STORE, "Transfer-Encoding: chunked", False, "hold", STORE_ANSWER_BYTES, None),
])  # fmt: skip
def test_delivery(
    asked: Asked, lines: str, judged: bool, delivery: str, limit_bytes: int, limit_s: float | None
) -> None:
    head = parse_answer(f"HTTP/1.1 200 OK\r\n{lines}\r\n\r\n".encode())
    chosen = plan(asked, head, judged=judged)
    assert (chosen.delivery, chosen.limit_bytes, chosen.limit_s) == (Delivery(delivery), limit_bytes, limit_s)


def test_empty_searches() -> None:
    assert is_empty_search(READ, b"[]")
    assert is_empty_search(READ, b" [ ]\n")
    assert is_empty_search(READ, b"[\r\n\t]\n")
    assert is_empty_search(READ, b"")
    assert not is_empty_search(READ, b"[{}]")
    assert not is_empty_search(Asked(WebRoute.WADO, Kind.READ, b""), b"[]")


JSON = b'{"%b":{"vr":"SQ","Value":[{"00081155":{"vr":"UI","Value":["1.2"]}}]}}'
XML = (
    b'<NativeDicomModel><DicomAttribute tag="%b" vr="SQ" keyword="x"><Item number="1">'
    b'<DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2</Value></DicomAttribute></Item>'
    b"</DicomAttribute></NativeDicomModel>"
)


@pytest.mark.parametrize(("status", "body", "nothing"), [
    (200, JSON % b"00081199", False), (200, JSON % b"00081198", False), (200, JSON % b"00081190", True),
    (200, b"[" + JSON % b"00081199" + b"]", False), (200, b'{"00081199":{"vr":"SQ"}}', True),
    (200, b'{"00081199":{"vr":"SQ","Value":[]}}', True),
    (200, b'{"00081199":{"vr":"SQ","Value":[{}]}}', True),
    (200, b'{"00081199":{"Value":[{"00081155":{"Value":5}}]}}', True),
    (200, XML % b"00081199", False), (200, XML % b"00081198", False), (200, XML % b"00081190", True),
    (200, re.sub(rb"<(/?)", rb"<\1dcm:", XML % b"00081199"), False),
    (200, b'<NativeDicomModel><DicomAttribute tag="00081199" vr="SQ"/></NativeDicomModel>', True),
    (200, b"", True), (200, b"<html>ok</html>", True), (200, b"{broken", True), (200, b"[" * 100_000, True),
    (204, b"", True), (202, b"", False), (409, b"", False), (500, b"", False),
])  # fmt: skip
def test_store_answers(status: int, body: bytes, nothing: bool) -> None:
    assert acknowledges_nothing(status, body) is nothing


@pytest.mark.parametrize("frame", [
    b"\x81\x05hello", b"\x89\x00", b"\x82\x7e\x01\x00" + b"x" * 256,
    b"\x82\x7f" + (70_000).to_bytes(8) + b"x" * 70_000,
    b"\x81\x83mask" + b"abc",
])  # fmt: skip
def test_frame_borders(frame: bytes) -> None:
    borders = FrameBorders()
    for place in range(0, len(frame), 1 if len(frame) < 1000 else 997):
        step = 1 if len(frame) < 1000 else 997
        borders.feed(frame[place : place + step])
        assert borders.between is (place + step >= len(frame))
    borders.feed(frame + frame)
    assert borders.between
