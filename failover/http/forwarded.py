"""Who the caller is, and what we tell an upstream about it: Forwarded and X-Forwarded-*. Pure.

What a caller sent of these fields is dropped. Only a trusted proxy is believed: its X-Forwarded-For, -Host
and -Proto, and `Forwarded` (RFC 7239) where none of those came. Many proxies set the former and pass on a
`Forwarded` that anyone may have sent. What has no strict reading is not believed at all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from failover.addresses import Network, is_within
from failover.http.head import RequestHead


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
    return bool(trusted) and is_within(address, trusted)


def origin(head: RequestHead, peer: str, scheme: bytes, trusted: Sequence[Network]) -> Origin:
    """Return where the request `head`, received from the address `peer`, comes from."""
    if not is_trusted(peer, trusted):
        return Origin(peer, (peer,), head.host, scheme)
    if not any(key in _X_FORWARDED for key, _, _ in head.headers):
        return _by_forwarded(head, peer, scheme, trusted)
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
    return _said(hops, head.first(b"x-forwarded-host"), head.first(b"x-forwarded-proto"), head, scheme)


def _by_forwarded(head: RequestHead, peer: str, scheme: bytes, trusted: Sequence[Network]) -> Origin:
    elements = parse_forwarded(b",".join(head.every(b"forwarded"))) or []
    hops, host, proto = [peer], None, None
    while elements and is_trusted(hops[0], trusted):
        element = elements.pop()
        address = _address(element.get(b"for", b""))
        if address is None:
            break
        hops.insert(0, address)
        host, proto = element.get(b"host"), element.get(b"proto")
    return _said(hops, host, proto, head, scheme)


def _said(
    hops: list[str], host: bytes | None, proto: bytes | None, head: RequestHead, scheme: bytes
) -> Origin:
    """A host or scheme that is none is not believed: it would stand in URLs."""
    proto = (proto or scheme).lower()
    return Origin(
        hops[0],
        tuple(hops),
        host if host is not None and _HOST.fullmatch(host) else head.host,
        proto if proto in (b"http", b"https") else scheme,
    )


_X_FORWARDED: Final = frozenset((b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"))
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_PAIR: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(?:([!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]]+)"
    rb'|"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*)")'
)
# What stands between two pairs: of one element, or of two.
_BETWEEN: Final = re.compile(rb";|[ \t]*,[ \t]*")


def parse_forwarded(value: bytes) -> list[dict[bytes, bytes]] | None:
    """Return the elements of a `Forwarded` field (RFC 7239 4), None when it has no strict reading.

    No white space within an element, no parameter twice, no empty element. An address or a host with a port
    may stand without quotes: it is read alike by everyone.
    """
    elements: list[dict[bytes, bytes]] = [{}]
    place = 0
    while True:
        pair = _PAIR.match(value, place)
        if pair is None:
            return None
        name, token, quoted = pair[1].lower(), pair[2], pair[3]
        if name in elements[-1]:
            return None
        elements[-1][name] = token if token is not None else re.sub(rb"\\(.)", rb"\1", quoted)
        place = pair.end()
        if place == len(value):
            return elements
        between = _BETWEEN.match(value, place)
        if between is None:
            return None
        place = between.end()
        if between[0] != b";":
            elements.append({})


def forwarded_fields(source: Origin) -> bytes:
    """Return the lines of Forwarded (RFC 7239) and X-Forwarded-For, -Host and -Proto.

    RFC 7239 4 wants quotes around a host with a port. Orthanc 1.10 takes them for a part of the name and
    builds `http://"pacs:8080"/…`; who refuses a host without them takes it from Host, which is the same.
    """
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
        b"Forwarded: %b;host=%b;proto=%b\r\n"
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
