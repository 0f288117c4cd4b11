"""Who the caller is, and whom we believe about it."""

from __future__ import annotations

import ipaddress

import pytest

from failover.http.forwarded import Origin, forwarded_fields, origin, parse_forwarded
from failover.http.head import parse_request

TRUSTED = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]


def asked(*lines: str) -> bytes:
    return "\r\n".join(["GET / HTTP/1.1", "Host: pacs", *lines, "", ""]).encode()


def test_a_stranger_is_not_believed() -> None:
    head = parse_request(
        asked("X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil")
    )
    assert origin(head, "9.9.9.9", b"http", TRUSTED) == Origin("9.9.9.9", ("9.9.9.9",), b"pacs", b"http")


@pytest.mark.parametrize(("claimed", "address", "hops"), [
    ("1.1.1.1", "1.1.1.1", ("1.1.1.1", "10.0.0.1")),
    ("6.6.6.6, 1.1.1.1", "1.1.1.1", ("1.1.1.1", "10.0.0.1")),  # only the last hop is vouched for
    ("1.1.1.1, 10.0.0.2", "1.1.1.1", ("1.1.1.1", "10.0.0.2", "10.0.0.1")),
    ("rubbish", "10.0.0.1", ("10.0.0.1",)),
    ("[2001:db8::1]:443", "2001:db8::1", ("2001:db8::1", "10.0.0.1")),
    ("1.1.1.1:5000", "1.1.1.1", ("1.1.1.1", "10.0.0.1")),
])  # fmt: skip
def test_a_trusted_proxy_is_believed(claimed: str, address: str, hops: tuple[str, ...]) -> None:
    head = parse_request(
        asked(f"X-Forwarded-For: {claimed}", "X-Forwarded-Proto: https", "X-Forwarded-Host: h")
    )
    assert origin(head, "10.0.0.1", b"http", TRUSTED) == Origin(address, hops, b"h", b"https")


def test_fields() -> None:
    lines = forwarded_fields(Origin("2001:db8::1", ("2001:db8::1", "10.0.0.1"), b"pacs:1", b"https"))
    assert lines == (
        b'Forwarded: for="[2001:db8::1]", for=10.0.0.1;host=pacs:1;proto=https\r\n'
        b"X-Forwarded-For: 2001:db8::1, 10.0.0.1\r\nX-Forwarded-Host: pacs:1\r\nX-Forwarded-Proto: https\r\n"
    )


@pytest.mark.parametrize(("lines", "expected"), [
    (["Forwarded: for=1.1.1.1;host=pacs.example;proto=https"],
     Origin("1.1.1.1", ("1.1.1.1", "10.0.0.1"), b"pacs.example", b"https")),
    (['Forwarded: For="[2001:db8::1]:4711" ; proto=https'], None),  # white space within an element
    (['Forwarded: For="[2001:db8::1]:4711";Proto=HTTPS;by=_x;secret="a,b;c"'],
     Origin("2001:db8::1", ("2001:db8::1", "10.0.0.1"), b"pacs", b"https")),
    # Each trusted hop vouches for the one before it, in its own field or in the same one.
    (["Forwarded: for=6.6.6.6;host=evil, for=1.1.1.1;host=a, for=10.0.0.2;host=b"],
     Origin("1.1.1.1", ("1.1.1.1", "10.0.0.2", "10.0.0.1"), b"a", b"http")),
    (["Forwarded: for=6.6.6.6", "Forwarded: for=1.1.1.1"],
     Origin("1.1.1.1", ("1.1.1.1", "10.0.0.1"), b"pacs", b"http")),
    (["Forwarded: for=unknown;host=evil"], None), (["Forwarded: for=_hidden"], None),
    (["Forwarded: host=evil;proto=https"], None),
    (['Forwarded: for=1.1.1.1;host="evil/path?"'],
     Origin("1.1.1.1", ("1.1.1.1", "10.0.0.1"), b"pacs", b"http")),
    (["Forwarded: for=1.1.1.1;for=2.2.2.2"], None), (["Forwarded: for=1.1.1.1,"], None),
    (["Forwarded: for=1.1.1.1,,for=2.2.2.2"], None), (['Forwarded: for="1.1.1.1'], None),
    (["Forwarded: for=1.1.1.1 proto=https"], None), (["Forwarded: for=1.1.1.1;"], None),
    # Who sends X-Forwarded-* may have passed on a Forwarded that anyone wrote.
    (["Forwarded: for=6.6.6.6;host=evil", "X-Forwarded-For: 1.1.1.1"],
     Origin("1.1.1.1", ("1.1.1.1", "10.0.0.1"), b"pacs", b"http")),
    (["Forwarded: for=6.6.6.6;host=evil", "X-Forwarded-Proto: https"],
     Origin("10.0.0.1", ("10.0.0.1",), b"pacs", b"https")),
    (['X-Forwarded-Host: "evil', "X-Forwarded-For: 1.1.1.1"],
     Origin("1.1.1.1", ("1.1.1.1", "10.0.0.1"), b"pacs", b"http")),
    (["X-Forwarded-Host: a, b"], Origin("10.0.0.1", ("10.0.0.1",), b"pacs", b"http")),
])  # fmt: skip
def test_forwarded_of_a_trusted_proxy(lines: list[str], expected: Origin | None) -> None:
    told = origin(parse_request(asked(*lines)), "10.0.0.1", b"http", TRUSTED)
    assert told == (expected or Origin("10.0.0.1", ("10.0.0.1",), b"pacs", b"http"))


def test_forwarded_of_a_stranger_is_not_believed() -> None:
    head = parse_request(asked("Forwarded: for=1.1.1.1;host=evil;proto=https"))
    assert origin(head, "9.9.9.9", b"http", TRUSTED) == Origin("9.9.9.9", ("9.9.9.9",), b"pacs", b"http")


def test_what_we_write_is_read_alike() -> None:
    ours = Origin("2001:db8::1", ("2001:db8::1", "10.0.0.1"), b"pacs:1", b"https")
    line = forwarded_fields(ours).partition(b"\r\n")[0].removeprefix(b"Forwarded: ")
    assert parse_forwarded(line) == [
        {b"for": b"[2001:db8::1]"}, {b"for": b"10.0.0.1", b"host": b"pacs:1", b"proto": b"https"},
    ]  # fmt: skip
