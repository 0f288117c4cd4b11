"""Any parts, in any split, are the same parts; and no garbage makes the parser do anything but refuse."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from failover.errors import FailoverError
from failover.http.multipart import MultipartParser, MultipartWriter, PartBegan, PartBytes, PartEnded

BOUNDARY = "failover-aaaaaaaaaaaaaaaaaaaaaaaa"
DELIMITER = b"\r\n--" + BOUNDARY.encode()
writer = MultipartWriter(BOUNDARY)

# Content that looks like framing is what a parser gets wrong.
pieces = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"--",
        b"\r\n--",
        DELIMITER[:-1],
        DELIMITER + b"x",
        DELIMITER + b" y",
        b"\0",
        b"a",
    ]
)
contents = st.lists(pieces | st.binary(max_size=20), max_size=8).map(b"".join)


def parts_of(body: bytes, cuts: list[int]) -> list[tuple[dict[str, str], bytes, bool]]:
    parser = MultipartParser(BOUNDARY)
    found: list[tuple[dict[str, str], bytes, bool]] = []
    ends = sorted({cut % (len(body) + 1) for cut in cuts} | {len(body)})
    for begin, end in zip([0, *ends], ends, strict=False):
        for event in parser.receive_data(body[begin:end]):
            if isinstance(event, PartBegan):
                found.append((dict(event.headers), b"", False))
            elif isinstance(event, PartBytes):
                found[-1] = (found[-1][0], found[-1][1] + event.content, False)
            elif isinstance(event, PartEnded):
                found[-1] = (found[-1][0], found[-1][1], True)
    parser.receive_end()
    return found


@given(st.lists(contents, max_size=4), st.lists(st.integers(0, 10_000), max_size=40))
def test_any_split_gives_the_same_parts(parts: list[bytes], cuts: list[int]) -> None:
    whole = [p for p in parts if not _is_framing(p)]
    body = b"".join(writer.part_head({"Content-Type": "a/b"}) + p for p in whole) + writer.end()
    assert parts_of(body, cuts) == [({"content-type": "a/b"}, p, True) for p in whole]


@given(st.lists(pieces | st.just(DELIMITER) | st.just(b"--\r\n") | st.binary(max_size=9), max_size=20))
def test_garbage_is_read_or_refused(garbage: list[bytes]) -> None:
    parser = MultipartParser(BOUNDARY, max_head_bytes=100)
    try:
        for piece in garbage:
            parser.receive_data(piece)
        parser.receive_end()
    except FailoverError:
        pass


def _is_framing(content: bytes) -> bool:
    """Whether RFC 2046 forbids this content: it holds its own delimiter."""
    at = -1
    framed = b"\r\n" + content + b"\r\n"
    while (at := framed.find(DELIMITER, at + 1)) >= 0:
        if framed[at + len(DELIMITER) :].lstrip(b" \t").startswith((b"\r\n", b"--")):
            return True
    return False
