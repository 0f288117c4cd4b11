"""The multipart parser and writer: what they read, what they refuse, what they write."""

from __future__ import annotations

import pytest

from failover.errors import LimitExceeded, MalformedMultipart
from failover.http.multipart import (
    BodyEnded,
    MultipartParser,
    MultipartWriter,
    PartBegan,
    PartBytes,
    PartEnded,
)

BOUNDARY = "failover-0123456789abcdef0123456789abcdef0123456789abcdef"


def read(body: bytes, boundary: str = "b", **limits: int) -> list[tuple[dict[str, str], bytes]]:
    parser = MultipartParser(boundary, **limits)  # type: ignore[arg-type]
    parts: list[tuple[dict[str, str], bytes]] = []
    for event in parser.receive_data(body):
        match event:
            case PartBegan(headers):
                parts.append((dict(headers), b""))
            case PartBytes(content):
                assert content, "an event without bytes"
                parts[-1] = (parts[-1][0], parts[-1][1] + content)
            case PartEnded() | BodyEnded():
                pass
    parser.receive_end()
    return parts


def test_what_the_writer_writes_the_parser_reads() -> None:
    writer = MultipartWriter(BOUNDARY)
    heads = [{"Content-Type": "application/dicom"}, {"Content-Type": "image/jpeg", "Content-Location": "/a"}]
    contents = [b"DICM\r\n--not", b""]
    body = b"".join(
        writer.part_head(h) + c for h, c in zip(heads, contents, strict=True)
    ) + writer.end()  # fmt: skip
    assert len(body) == writer.length((h, len(c)) for h, c in zip(heads, contents, strict=True))
    assert [content for _, content in read(body, BOUNDARY)] == contents
    assert read(body, BOUNDARY)[1][0] == {"content-type": "image/jpeg", "content-location": "/a"}


@pytest.mark.parametrize(
    ("body", "contents"),
    [
        (b"--b\r\n\r\none\r\n--b--", [b"one"]),  # no head fields, no CRLF at the end
        (b"preamble\r\n--b\r\n\r\none\r\n--b--\r\nepilogue --b", [b"one"]),
        (b"--b  \t\r\nA: 1\r\n\r\none\r\n--b\t\r\n\r\ntwo\r\n--b--  \r\n", [b"one", b"two"]),  # padding
        (b"--b\r\nA: 1\r\n\r\n--b--", [b""]),  # an empty part of some senders, without a CRLF of its own
        (b"--b\r\nA: 1\r\n\r\n\r\n--b--", [b""]),
        (b"--b\r\n\r\n\r\n--bx\r\n--b--", [b"\r\n--bx"]),  # a longer word is no delimiter
        (b"--b\r\n\r\n--b x\r\n--b--", [b"--b x"]),
        (b"--b--", []),
    ],
)
def test_bodies_that_can_be_read(body: bytes, contents: list[bytes]) -> None:
    assert [content for _, content in read(body)] == contents


def test_a_folded_field_is_one_field() -> None:
    body = b'--b\r\nContent-Type: multipart/related;\r\n\ttype="application/dicom"\r\n\r\nx\r\n--b--'
    assert read(body)[0][0] == {"content-type": 'multipart/related; type="application/dicom"'}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n\r\none",  # no close delimiter
        b"--b\r\n\r\none\r\n--b",  # cut within it
        b"--b\r\nno colon\r\n\r\none\r\n--b--",
        b"--b\r\n: no name\r\n\r\none\r\n--b--",
    ],
)
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMultipart):
        read(body)


@pytest.mark.parametrize("boundary", ["", "x" * 71, "ends with space ", "slash\\", "new\nline"])
def test_boundaries_that_are_none(boundary: str) -> None:
    with pytest.raises(MalformedMultipart):
        MultipartParser(boundary)
    with pytest.raises(ValueError):
        MultipartWriter(boundary)


def test_a_head_without_end_is_refused_before_it_is_kept() -> None:
    with pytest.raises(LimitExceeded):
        read(b"--b\r\nA: " + b"x" * 20_000, max_head_bytes=1000)


def test_more_parts_than_allowed_are_refused() -> None:
    with pytest.raises(LimitExceeded):
        read(b"--b\r\n\r\n1\r\n--b\r\n\r\n2\r\n--b--", max_parts=1)


def test_content_is_passed_on_and_not_held_back() -> None:
    parser = MultipartParser(BOUNDARY)
    parser.receive_data(b"--" + BOUNDARY.encode() + b"\r\n\r\n")
    passed = sum(
        len(event.content)
        for _ in range(64)
        for event in parser.receive_data(b"\0" * 65536)
        if isinstance(event, PartBytes)
    )
    assert 64 * 65536 - passed < 100


def test_a_value_cannot_end_its_line() -> None:
    with pytest.raises(ValueError):
        MultipartWriter("b").part_head({"Content-Location": "a\r\nX: y"})
