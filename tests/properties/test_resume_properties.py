"""Wherever an upstream dies, the caller's one response ends with each part once, or is broken visibly."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from failover.errors import ProtocolError
from failover.http.head import AnswerHead
from failover.http.json_items import JsonItems
from failover.http.multipart import MultipartParser, MultipartWriter, PartBegan, PartBytes
from failover.proxy.items import Items
from failover.proxy.parts import Parts
from failover.proxy.passage import CannotContinue, Passage
from failover.proxy.resume import Opaque

FIRST, SECOND = "first-0123456789abcdefgh", "second-0123456789abcdefg"
WHOLE_BYTES = 40

parts = st.dictionaries(
    st.integers(1, 9999).map(lambda n: f"/dicom-web/studies/1.{n}"), st.binary(max_size=120), max_size=6
)
cuts = st.lists(st.integers(0, 5000), max_size=30)


def body_of(content: dict[str, bytes], boundary: str, order: list[str], prefix: str) -> bytes:
    writer = MultipartWriter(boundary)
    return (
        b"".join(
            writer.part_head(
                {
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(len(content[name])),
                    "Content-Location": prefix + name,
                }
            )
            + content[name]
            for name in order
        )
        + writer.end()
    )


def head_of(boundary: str) -> AnswerHead:
    kind = f'multipart/related; type="application/octet-stream"; boundary={boundary}'.encode()
    return AnswerHead(headers=[(b"content-type", b"Content-Type", kind)], status=200)


def fed(receive: Callable[[bytes], list[bytes]], body: bytes, at: list[int]) -> bytes:
    ends = sorted({cut % (len(body) + 1) for cut in at} | {len(body)})
    out: list[bytes] = []
    for begin, end in zip([0, *ends], ends, strict=False):
        out += receive(body[begin:end])
    return b"".join(out)


def parsed(body: bytes, boundary: str) -> dict[str, bytes]:
    parser = MultipartParser(boundary)
    found: dict[str, bytes] = {}
    name = ""
    for event in parser.receive_data(body):
        if isinstance(event, PartBegan):
            location = event.headers["content-location"]
            name = location[location.index("/dicom-web") :]
            assert name not in found, "twice"
            found[name] = b""
        elif isinstance(event, PartBytes):
            found[name] += event.content
    parser.receive_end()
    return found


@given(parts, st.randoms(use_true_random=False), cuts, cuts, st.integers(0, 5000))
def test_parts_resume_wherever_the_first_answer_dies(
    content: dict[str, bytes], chance, one: list[int], two: list[int], death: int
) -> None:
    order = list(content)
    first = body_of(content, FIRST, order, "http://primary:8042")
    chance.shuffle(order)
    second = body_of(content, SECOND, order, "http://archive/x")
    passage = Parts(FIRST, frames=False, whole_bytes=WHOLE_BYTES)
    out = fed(passage.receive, first[: death % (len(first) + 1)], one)
    assert passage.resume(head_of(SECOND), vouched=True)
    try:
        out += fed(passage.receive, second, two) + b"".join(passage.end())
    except CannotContinue:
        # Only when long parts stand before the one that was begun: it is broken, not wrong.
        assert any(len(value) > WHOLE_BYTES for value in content.values())
        return
    assert parsed(out, FIRST) == content


@given(parts, cuts)
def test_an_answer_that_does_not_die_is_the_same_for_the_caller(
    content: dict[str, bytes], at: list[int]
) -> None:
    body = body_of(content, FIRST, list(content), "http://primary:8042")
    passage = Parts(FIRST, frames=False, whole_bytes=WHOLE_BYTES)
    out = fed(passage.receive, body, at) + b"".join(passage.end())
    assert out == body


objects = st.dictionaries(
    st.integers(1, 999).map(lambda n: f"1.2.{n}"),
    st.text('ab"\\[]{}:, éü漢', max_size=20),
    max_size=6,
)


def items_of(content: dict[str, str], order: list[str], **style) -> bytes:
    return json.dumps(
        [{"00080018": {"vr": "UI", "Value": [uid]}, "x": {"n": [[content[uid]]]}} for uid in order], **style
    ).encode()


@given(objects, st.randoms(use_true_random=False), cuts, cuts, st.integers(0, 5000), st.booleans())
def test_items_resume_wherever_the_first_answer_dies(
    content: dict[str, str], chance, one: list[int], two: list[int], death: int, ascii_only: bool
) -> None:
    order = list(content)
    first = items_of(content, order, ensure_ascii=ascii_only)
    chance.shuffle(order)
    second = items_of(content, order, indent=1)
    passage = Items("00080018")
    out = fed(passage.receive, first[: death % (len(first) + 1)], one)
    head = AnswerHead(headers=[(b"content-type", b"Content-Type", b"application/dicom+json")], status=200)
    assert passage.resume(head, vouched=True)
    out += fed(passage.receive, second, two) + b"".join(passage.end())
    found = json.loads(out)
    assert sorted(item["00080018"]["Value"][0] for item in found) == sorted(content)
    assert {item["00080018"]["Value"][0]: item["x"]["n"][0][0] for item in found} == content


@given(st.binary(max_size=60).map(lambda noise: b"[" + noise), cuts)
def test_whatever_comes_items_are_read_or_refused(body: bytes, at: list[int]) -> None:
    reader = JsonItems(max_item_bytes=1000)
    try:
        fed(reader.receive_data, body, at)
        reader.receive_end()
    except ProtocolError:
        return
    assert isinstance(json.loads(body, strict=False) if body else [], list)


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 300), cuts, cuts)
def test_an_opaque_body_goes_on_only_with_the_same_bytes(
    body: bytes, death: int, changed: int, one: list[int], two: list[int]
) -> None:
    head = AnswerHead(
        headers=[(b"content-type", b"Content-Type", b"image/jpeg")], status=200, content_length=len(body)
    )
    death %= len(body) + 1

    def run(second: bytes) -> bytes:
        passage: Passage = Opaque("image/jpeg", len(body))
        out = fed(passage.receive, body[:death], one)
        assert passage.resume(head, vouched=True)
        return out + fed(passage.receive, second, two) + b"".join(passage.end())

    assert run(body) == body
    if changed < death:
        other = bytearray(body)
        other[changed] ^= 1
        try:
            run(bytes(other))
        except CannotContinue:
            return
        raise AssertionError("went on with other bytes")
