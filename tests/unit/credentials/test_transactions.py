"""Logins under way: of one browser, for ten minutes, once."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest

from failover.credentials import transactions
from failover.credentials.transactions import LIFETIME_S, LONGEST_PATH, Transactions, began_of


def numbered() -> Callable[[int], bytes]:
    numbers = iter(range(10_000))
    return lambda count: next(numbers).to_bytes(count, "big")


def a_desk() -> Transactions:
    return Transactions(b"k" * 32, numbered())


def test_what_was_begun_is_redeemed_once() -> None:
    desk = a_desk()
    one, cookie = desk.begin("/patients?id=1", 100.5)
    assert desk.redeem(one.state, ["rubbish", cookie], 200.0) == one
    assert one.to == "/patients?id=1"
    assert desk.redeem(one.state, [cookie], 201.0) is None


def test_the_state_of_another_browser_is_none() -> None:
    desk = a_desk()
    mine, _ = desk.begin("/", 100.0)
    other, cookie = desk.begin("/", 100.0)
    assert desk.redeem(mine.state, [cookie], 101.0) is None
    assert desk.redeem(mine.state, [], 101.0) is None
    assert desk.redeem(other.state, [cookie], 101.0) is not None  # its own was not used up by that


def test_several_tabs_each_come_back() -> None:
    desk = a_desk()
    begun = [desk.begin(f"/{number}", 100.0) for number in range(3)]
    cookies = [cookie for _, cookie in begun]
    assert [desk.redeem(one.state, cookies, 110.0) for one, _ in begun] == [one for one, _ in begun]


@pytest.mark.parametrize(("age_s", "good"), [(LIFETIME_S, True), (LIFETIME_S + 1, False), (-1, False)])
def test_it_lasts_ten_minutes(age_s: float, good: bool) -> None:
    desk = a_desk()
    one, cookie = desk.begin("/", 100.0)
    assert (desk.redeem(one.state, [cookie], 100 + age_s) is not None) is good


def test_a_cookie_that_was_touched_is_none() -> None:
    desk = a_desk()
    one, cookie = desk.begin("/", 100.0)
    name, began, path, signature = cookie.split(".")
    evil = base64.urlsafe_b64encode(b"//evil.example").decode().rstrip("=")
    for touched in (
        f"{name}.{began}.{evil}.{signature}", f"{name}.999.{path}.{signature}", f"{name}.{began}.{path}.",
        f"{name}.{began}.{path}", cookie + "x", "", "...", "a.b.c.d", cookie * 100,
        Transactions(b"K" * 32, numbered()).begin("/", 100.0)[1],
    ):  # fmt: skip
        assert desk.redeem(one.state, [touched], 101.0) is None
    assert desk.redeem(one.state, [cookie], 101.0) is not None


def test_what_the_provider_and_the_browser_see() -> None:
    one, cookie = a_desk().begin("/patients?PatientID=4711", 100.0)
    assert len({one.state, one.nonce, one.verifier, one.challenge}) == 4
    # RFC 7636 4.1: 43 to 128 unreserved characters.
    assert len(one.verifier) == 43
    digest = base64.urlsafe_b64encode(hashlib.sha256(one.verifier.encode()).digest()).decode().rstrip("=")
    assert one.challenge == digest
    assert not {one.state, one.nonce, one.verifier} & set(cookie.split("."))
    assert "4711" not in one.state + one.nonce


def test_a_path_that_no_cookie_holds_is_left_out() -> None:
    desk = a_desk()
    one, cookie = desk.begin("/" + "a" * LONGEST_PATH, 100.0)
    assert one.to == ""
    longest = "/" + "a" * (LONGEST_PATH - 1)
    one, cookie = desk.begin(longest, 100.0)
    assert len(cookie) < 3600
    assert desk.redeem(one.state, [cookie], 101.0) == one


def test_rather_none_than_one_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "_MOST_REDEEMED", 2)
    desk = a_desk()
    first, second, third = (desk.begin("/", 100.0) for _ in range(3))
    for one, cookie in (first, second):
        assert desk.redeem(one.state, [cookie], 100.0) is not None
    assert desk.redeem(third[0].state, [third[1]], 100.0) is None
    assert desk.redeem(first[0].state, [first[1]], 100.0) is None
    late, cookie = desk.begin("/", 701.0)
    assert desk.redeem(late.state, [cookie], 701.0) is not None


def test_what_is_only_looked_at_is_not_used_up() -> None:
    desk = a_desk()
    one, cookie = desk.begin("/", 100.0)
    assert [desk.find(one.state, [cookie], 101.0) for _ in range(2)] == [one, one]
    assert desk.find(one.state, [], 101.0) is None
    assert desk.redeem(one.state, [cookie], 101.0) == one


def test_the_oldest_is_found_without_a_key() -> None:
    _, cookie = a_desk().begin("/", 123.9)
    assert began_of(cookie.encode()) == 123
    assert [began_of(odd) for odd in (b"", b"a.b.c.d", b"a.1.c", b"a." + b"9" * 99 + b".c.d")] == [0, 0, 0, 0]
