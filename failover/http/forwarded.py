"""Who the caller is, and what we tell an upstream about it: Forwarded and X-Forwarded-*. Pure.

What a caller sent of these fields is dropped. Only a trusted proxy is believed, and of it only
X-Forwarded-For, -Host and -Proto: many proxies set those and pass on a `Forwarded` that anyone may have sent.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from failover.http.head import RequestHead

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from."""

    address: str
    """Of the caller itself: the last hop that is not a trusted proxy."""
    hops: tuple[str, ...]
    """From the caller to our peer."""
    host: bytes | None
    """The Host that the caller asked for."""
    scheme: bytes


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    if not trusted:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)


def origin(head: RequestHead, peer: str, scheme: bytes, trusted: Sequence[Network]) -> Origin:
    """Return where the request `head`, received from the address `peer`, comes from."""
    if not is_trusted(peer, trusted):
        return Origin(peer, (peer,), head.host, scheme)
    hops = [peer]
    claimed = [
        item.strip() for value in head.every(b"x-forwarded-for") for item in value.split(b",") if item.strip()
    ]
    # From right to left: each trusted hop vouches for the one before it, the first other one for nobody.
    while claimed and is_trusted(hops[0], trusted):
        address = _address(claimed.pop())
        if address is None:
            break
        hops.insert(0, address)
    host = head.first(b"x-forwarded-host") or head.host
    proto = (head.first(b"x-forwarded-proto") or scheme).lower()
    return Origin(hops[0], tuple(hops), host, proto if proto in (b"http", b"https") else scheme)


def forwarded_fields(source: Origin) -> bytes:
    """Return the lines of Forwarded (RFC 7239) and X-Forwarded-For, -Host and -Proto."""
    addresses = ", ".join(source.hops).encode()
    elements = ", ".join(f"for={_node(hop)}" for hop in source.hops).encode()
    proto = source.scheme
    if source.host is None:
        return (b"Forwarded: %b;proto=%b\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n") % (
            elements,
            proto,
            addresses,
            proto,
        )
    return (
        b'Forwarded: %b;host="%b";proto=%b\r\n'
        b"X-Forwarded-For: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Proto: %b\r\n"
    ) % (elements, source.host, proto, addresses, source.host, proto)


def _address(claimed: bytes) -> str | None:
    """The address in an element of X-Forwarded-For: bare, `[v6]`, or with a port."""
    text = claimed.decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _node(address: str) -> str:
    # RFC 7239 6: an IPv6 address is in brackets, and brackets need quotes.
    return f'"[{address}]"' if ":" in address else address
