"""How often a password may be tried from one address."""

from __future__ import annotations

from failover.credentials import attempts
from failover.credentials.attempts import MOST, ONE_PER_S, Attempts


def test_ten_failures_then_one_each_half_minute() -> None:
    one = Attempts()
    for _ in range(MOST):
        assert one.wait_s("10.0.0.1", 0.0) == 0.0
        one.failed("10.0.0.1", 0.0)
    assert one.wait_s("10.0.0.1", 0.0) == ONE_PER_S
    assert one.wait_s("10.0.0.1", ONE_PER_S) == 0.0
    one.failed("10.0.0.1", ONE_PER_S)
    assert one.wait_s("10.0.0.1", ONE_PER_S) == ONE_PER_S
    assert one.wait_s("10.0.0.2", 0.0) == 0.0
    assert one.wait_s("10.0.0.1", 1e6) == 0.0


def test_a_good_one_is_not_counted() -> None:
    one = Attempts()
    for _ in range(5 * MOST):
        one.failed("10.0.0.1", 0.0)
        one.forgive("10.0.0.1")
    assert one.wait_s("10.0.0.1", 0.0) == 0.0
    one.forgive("10.0.0.9")


def test_one_machine_is_one_network_of_ipv6() -> None:
    one = Attempts()
    for number in range(MOST):
        one.failed(f"2001:db8::{number}", 0.0)
    assert one.wait_s("2001:db8::ffff", 0.0) == ONE_PER_S
    assert one.wait_s("2001:db8:0:1::1", 0.0) == 0.0


def test_it_is_bounded() -> None:
    one = Attempts()
    for number in range(attempts._MOST_ADDRESSES + 10):
        one.failed(f"unknown {number}", 0.0)
    assert len(one._full_until) == attempts._MOST_ADDRESSES
