"""`make fuzz`: hostile bytes for each parser. Only the errors of failover.errors may come out of it.

    python -m tests.fuzz [--seconds 60] [--seed N]

Good messages are mutated (bytes flipped, cut, doubled, lengths made huge) and fed in random pieces. A finding
is printed with its seed and its bytes; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

from pydicom.data.data_manager import DATA_ROOT

from failover.archive.attributes import WANTED
from failover.archive.header import scan
from failover.clock import SystemClock
from failover.dicom.dimse import echo_rq, parse_command
from failover.dicom.encoding import encode
from failover.dicom.negotiation import VERIFICATION, propose
from failover.dicom.part10 import read_head
from failover.dicom.pdu import PduReader
from failover.dicom.units import AssociateRq, UserInformation, padded_ae
from failover.errors import ProtocolError, UnreadableDataSet
from failover.http.framing import ChunkedBody
from failover.http.head import head_end, parse_answer, parse_request
from failover.http.multipart import MultipartParser, PartBytes

_RQ = encode(
    AssociateRq(
        called_bytes=padded_ae("PACS"),
        calling_bytes=padded_ae("CT1"),
        contexts=propose([VERIFICATION]),
        user=UserInformation(max_pdu_bytes=16384, implementation_class_uid="1.2.3"),
    )
)
_REQUEST = (
    b"GET /dicom-web/studies?limit=1 HTTP/1.1\r\nHost: pacs\r\nAccept: */*\r\nContent-Length: 0\r\n\r\n"
)
_ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n"
_CHUNKS = b"3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET / HTTP/1.1\r\n"
_MULTIPART = b"--b\r\nContent-Type: application/dicom\r\n\r\nabc\r\n--b\r\n\r\ndef\r\n--b--\r\n"


def _pieces(raw: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.randrange(4)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def _pdus(raw: bytes, chance: random.Random) -> None:
    reader = PduReader(65536)
    for piece in _pieces(raw, chance):
        list(reader.receive_data(piece))


def _head(raw: bytes, parse: Callable[[bytes], object]) -> None:
    """As the proxy does it: the parser gets what `head_end` has cut off, and nothing before that is whole."""
    end = head_end(raw, 0, 65536)
    if end >= 0:
        parse(raw[:end])


def _request(raw: bytes, chance: random.Random) -> None:
    """What was accepted says the same when it is written down, and when its end was found in pieces."""
    end = head_end(raw, 0, 65536)
    if end < 0:
        return
    head = parse_request(raw[:end])
    again = b"%b %b HTTP/1.%d\r\n" % (head.method, head.target, head.minor_version)
    again += b"".join(b"%b: %b\r\n" % (name, value) for _, name, value in head.headers) + b"\r\n"
    _same(parse_request(again).headers, head.headers)
    buffer, searched, found = b"", 0, -1
    for piece in _pieces(raw, chance):
        buffer += piece
        if found < 0:
            found = head_end(buffer, searched, 65536)
            searched = len(buffer)
    _same(found, end)


def _chunks(raw: bytes, chance: random.Random) -> None:
    """Whole or in pieces, a body has one reading."""

    def read(pieces: list[bytes]) -> tuple[bytes, bytes] | None:
        body, payload, behind = ChunkedBody(), b"", b""
        try:
            for piece in pieces:
                if body.ended:
                    behind += piece
                else:
                    payload += body.feed(piece)
                    behind += body.rest
        except ProtocolError:
            return None
        return payload, behind

    _same(read(_pieces(raw + b"\r\n", chance)), read([raw + b"\r\n"]))


def _parts(raw: bytes, chance: random.Random) -> None:
    """Whole or in pieces, a body has the same parts."""

    def read(pieces: list[bytes]) -> list[object] | None:
        parser, found = MultipartParser("b"), list[object]()
        try:
            for piece in pieces:
                for event in parser.receive_data(piece):
                    if isinstance(event, PartBytes) and found and isinstance(found[-1], bytes):
                        found[-1] += event.content
                    else:
                        found.append(event.content if isinstance(event, PartBytes) else event)
            parser.receive_end()
        except ProtocolError:
            return None
        return found

    _same(read(_pieces(raw, chance)), read([raw]))


def _same(one: object, other: object) -> None:
    if one != other:
        raise AssertionError(f"two readings: {one!r} and {other!r}")


TARGETS: dict[str, tuple[bytes, Callable[[bytes, random.Random], object]]] = {
    "pdu": (_RQ, _pdus),
    "command": (echo_rq(1).encode(), lambda raw, _: parse_command(raw)),
    "request": (_REQUEST, _request),
    "chunks": (_CHUNKS, _chunks),
    "answer": (_ANSWER, lambda raw, _: _head(raw, parse_answer)),
    "multipart": (_MULTIPART, _parts),
}


_OBJECT = (Path(DATA_ROOT) / "test_files" / "MR_small_RLE.dcm").read_bytes()


def _arrival(raw: bytes, _: random.Random) -> None:
    """As a store looks at an object before it keeps it."""
    meta = read_head(raw)
    scan(raw[meta.data_set_offset :], meta.transfer_syntax_uid, WANTED)


TARGETS["object"] = (_OBJECT, _arrival)


def mutated(raw: bytes, chance: random.Random) -> bytes:
    content = bytearray(raw)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(content) or 1)
        match chance.randrange(5):
            case 0 if content:
                content[place] = chance.randrange(256)
            case 1:
                del content[place : place + chance.randrange(1, 9)]
            case 2:
                content[place:place] = content[: chance.randrange(1, 17)]
            case 3:
                content[place : place + 4] = b"\xff\xff\xff\xff"
            case _:
                content[place:place] = bytes(chance.randrange(256) for _ in range(4))
    return bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    clock, tried, found = SystemClock(), 0, 0
    until_s = clock.monotonic() + arguments.seconds
    while clock.monotonic() < until_s:
        seed = arguments.seed * 1_000_000_000 + tried
        chance = random.Random(seed)
        name = chance.choice(list(TARGETS))
        good, target = TARGETS[name]
        raw = mutated(good, chance)
        tried += 1
        try:
            target(raw, chance)
        except (ProtocolError, UnreadableDataSet):
            continue  # refused as it should be
        except Exception as error:
            found += 1
            sys.stdout.write(f"{name}, seed {seed}: {type(error).__name__}: {error}\n  {raw!r}\n")
    sys.stdout.write(f"{tried} inputs, {found} findings\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
