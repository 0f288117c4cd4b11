"""Whether an address of a peer lies in given networks: the one place that says so. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def who(address: str) -> str:
    """Return what stands for one caller when callers are counted: an IPv6 machine has a /64 to call from."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def is_within(address: str, networks: Iterable[Network]) -> bool:
    """Whether `address`, as a socket gives it, is in one of `networks`; what is no address is in none.

    An IPv4 caller of an IPv6 socket (`::ffff:10.0.0.1`) is the IPv4 caller; a zone (`fe80::1%eth0`) is no
    part of the address.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
