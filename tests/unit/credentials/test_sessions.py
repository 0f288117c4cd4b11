"""Our own sessions: whose they are, and what ends them."""

from __future__ import annotations

import pytest

from failover.credentials.sessions import LIFETIME_S, Sessions


class Site:
    def __init__(self) -> None:
        self.users = {"anna": "hash 1"}
        self.now_s = 1e9
        self.sessions = Sessions(b"k" * 32, self.users.get, lambda: self.now_s)


def test_a_session_lasts_its_time() -> None:
    site = Site()
    token = site.sessions.token("anna")
    assert site.sessions.user_of(token) == "anna"
    site.now_s += LIFETIME_S - 1
    assert site.sessions.user_of(token) == "anna"
    site.now_s += 1
    assert site.sessions.user_of(token) is None


def test_a_new_password_or_no_user_ends_it() -> None:
    site = Site()
    token = site.sessions.token("anna")
    site.users["anna"] = "hash 2"
    assert site.sessions.user_of(token) is None
    del site.users["anna"]
    assert site.sessions.user_of(token) is None
    with pytest.raises(KeyError):
        site.sessions.token("anna")


def test_another_key_knows_it_not() -> None:
    site = Site()
    stranger = Sessions(b"x" * 32, site.users.get, lambda: site.now_s)
    assert site.sessions.user_of(stranger.token("anna")) is None


@pytest.mark.parametrize("change", [
    lambda token: b"",
    lambda token: token[:-1],
    lambda token: token + b"A",
    lambda token: token.replace(b"YW5uYQ", b"YmVydGE"),  # another user
    lambda token: b".".join([token.split(b".")[0], b"1000099999", token.split(b".")[2]]),
    lambda token: b"YmVydGE.1000000100." + b"A" * 43,  # nobody's, "signed"
    lambda token: b"\xff\xfe.1.x",
    lambda token: token.split(b".")[0] + b".\xb2.x",  # a digit, but no number
    lambda token: b"a" * 10_000,
])  # fmt: skip
def test_nothing_else_is_a_session(change: object) -> None:
    site = Site()
    assert callable(change)
    assert site.sessions.user_of(change(site.sessions.token("anna"))) is None
