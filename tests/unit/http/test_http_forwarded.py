"""Who the caller is, and whom we believe about it."""

from __future__ import annotations

import ipaddress

import pytest

from failover.http.forwarded import Origin, forwarded_fields, origin
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
        b'Forwarded: for="[2001:db8::1]", for=10.0.0.1;host="pacs:1";proto=https\r\n'
        b"X-Forwarded-For: 2001:db8::1, 10.0.0.1\r\nX-Forwarded-Host: pacs:1\r\nX-Forwarded-Proto: https\r\n"
    )
