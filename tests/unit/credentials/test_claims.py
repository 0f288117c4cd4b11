"""What an ID token must say to be ours, of now, and of this login."""

from __future__ import annotations

from typing import Any

import pytest

from failover.credentials import claims
from failover.errors import LoginRefused

NOW_S = 1_800_000_000.0
EXPECTED = claims.Expected("https://idp.example/realm", "failover", "n-1", NOW_S - 20, NOW_S)
GOOD: dict[str, Any] = {
    "iss": "https://idp.example/realm", "aud": "failover", "sub": "anna-1", "nonce": "n-1",
    "exp": NOW_S + 300, "iat": NOW_S - 1,
}  # fmt: skip
LEFT_OUT = object()


def said(**more: Any) -> dict[str, Any]:
    return {name: value for name, value in {**GOOD, **more}.items() if value is not LEFT_OUT}


@pytest.mark.parametrize("more", [
    {}, {"aud": ["failover"]}, {"aud": ["other", "failover"], "azp": "failover"}, {"azp": "failover"},
    {"exp": NOW_S - 59}, {"iat": NOW_S + 59}, {"iat": NOW_S - 79}, {"nbf": NOW_S + 59},
])  # fmt: skip
def test_a_token_for_us(more: dict[str, Any]) -> None:
    assert claims.subject_of(said(**more), EXPECTED) == "anna-1"


@pytest.mark.parametrize(("more", "reason"), [
    ({"iss": "https://idp.example/realm/"}, "another issuer"),
    ({"iss": LEFT_OUT}, "another issuer"),
    ({"aud": "other"}, "aud"),
    ({"aud": ["other"]}, "aud"),
    ({"aud": LEFT_OUT}, "aud"),
    ({"aud": {"failover": 1}}, "aud"),
    ({"aud": ["other", "failover"]}, "azp"),
    ({"aud": ["other", "failover"], "azp": "other"}, "azp"),
    ({"azp": "other"}, "azp"),
    ({"exp": NOW_S - 60}, "expired"),
    ({"exp": LEFT_OUT}, "exp"),
    ({"exp": str(NOW_S + 300)}, "exp"),
    ({"exp": True}, "exp"),
    ({"exp": float("inf")}, "exp"),
    ({"exp": float("nan")}, "exp"),
    ({"iat": NOW_S + 61}, "future"),
    ({"iat": NOW_S - 81}, "older than this login"),
    ({"iat": LEFT_OUT}, "iat"),
    ({"nbf": NOW_S + 61}, "not valid yet"),
    ({"nonce": "n-2"}, "nonce"),
    ({"nonce": LEFT_OUT}, "nonce"),
    ({"nonce": None}, "nonce"),
    ({"sub": LEFT_OUT}, "subject"),
    ({"sub": ""}, "subject"),
    ({"sub": "a" * 256}, "subject"),
    ({"sub": "anna\nlevel=info"}, "subject"),
    ({"sub": 7}, "subject"),
])  # fmt: skip
def test_a_token_that_is_not(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(LoginRefused, match=reason):
        claims.subject_of(said(**more), EXPECTED)


@pytest.mark.parametrize(("content", "claim", "groups"), [
    ({"groups": ["a", "b", 7]}, "groups", {"a", "b"}),
    ({"groups": "a"}, "groups", {"a"}),
    ({"groups": None}, "groups", set()),
    ({}, "groups", set()),
    ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", {"a"}),
    ({"https://hospital.example/groups": ["a"]}, "https://hospital.example/groups", {"a"}),
    ({"realm_access": ["roles"]}, "realm_access.roles", set()),
    ({"groups": ["a"] * 5000}, "groups", set()),
])  # fmt: skip
def test_groups(content: dict[str, Any], claim: str, groups: set[str]) -> None:
    assert claims.groups_of(content, claim) == groups


def test_one_of_the_groups_is_enough_and_none_is_not() -> None:
    assert claims.is_allowed({"groups": ["b"]}, "groups", ["a", "b"])
    assert not claims.is_allowed({"groups": ["B"]}, "groups", ["a", "b"])
    assert not claims.is_allowed({}, "groups", ["a"])
    assert claims.is_allowed({}, "groups", None)


def test_a_session_says_nothing_of_the_user_and_changes_with_the_door() -> None:
    name = claims.session_name("https://idp.example", "anna-1")
    assert name.startswith("oidc:")
    assert "anna" not in name
    assert name != claims.session_name("https://other.example", "anna-1")
    stamps = {
        claims.stamp(issuer, client, claim, groups)
        for issuer in "ab" for client in "ab" for claim in "ab" for groups in (None, [], ["a"], ["a", "b"])
    }  # fmt: skip
    assert len(stamps) == 32
    assert claims.stamp("i", "c", "g", ["a", "b"]) == claims.stamp("i", "c", "g", ["b", "a"])
