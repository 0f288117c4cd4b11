"""Whether an address lies in networks: as sockets write addresses."""

from __future__ import annotations

import ipaddress

import pytest

from failover.addresses import is_within

NETWORKS = [ipaddress.ip_network(text) for text in ("10.1.0.0/16", "fe80::/10", "::1/128")]


@pytest.mark.parametrize(("address", "within"), [
    ("10.1.2.3", True), ("10.2.2.3", False), ("::ffff:10.1.2.3", True), ("::ffff:10.2.2.3", False),
    ("fe80::1%eth0", True), ("::1", True), ("::2", False), ("unknown", False), ("", False),
    ("010.1.2.3", False),
])  # fmt: skip
def test_an_address_as_a_socket_gives_it(address: str, within: bool) -> None:
    assert is_within(address, NETWORKS) is within
    assert not is_within(address, [])
