"""Whose signature counts: that of a key pair which the provider shows, by an algorithm for key pairs."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from failover.credentials.id_token import UnknownKey, claims_of
from failover.errors import LoginRefused
from tests.fakes.identity_provider import PrivateKey, ec_key, public, rsa_key

SAID = {"sub": "anna-1"}


def signed(key: PrivateKey, algorithm: str, kid: str | None = "a", **header: Any) -> str:
    named = {} if kid is None else {"kid": kid}
    return jwt.encode(SAID, key, algorithm, headers={**named, **header})


def joined(header: Mapping[str, Any], signature: bytes = b"") -> str:
    pieces = (json.dumps(header).encode(), json.dumps(SAID).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(piece).decode().rstrip("=") for piece in pieces)


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256"])
def test_signed_by_a_key_that_is_shown(algorithm: str) -> None:
    key: PrivateKey = ec_key() if algorithm == "ES256" else rsa_key()
    other = public(rsa_key(1), "b")
    assert claims_of(signed(key, algorithm), [other, public(key, "a")]) == SAID
    assert claims_of(signed(key, algorithm), [public(key, "a", alg=algorithm)]) == SAID


def test_without_a_name_the_only_key_that_fits_counts() -> None:
    token = signed(ec_key(), "ES256", kid=None)
    assert claims_of(token, [public(rsa_key(), "a"), public(ec_key(), "b")]) == SAID
    with pytest.raises(UnknownKey):
        claims_of(token, [public(ec_key(1), "a"), public(ec_key(), "b")])


@pytest.mark.parametrize("keys", [
    [],
    [public(ec_key(), "b")],
    [public(ec_key(), None)],
    [public(ec_key(), "a", use="enc")],
    [public(ec_key(), "a", alg="ES384")],
    [public(ec_key(), "a", crv="P-384")],
    [public(ec_key(), "a"), public(ec_key(1), "a")],
    [{"kid": "a"}, {"kid": "a", "kty": "RSA"}, {"kid": "a", "kty": "oct", "k": "AAAA"}],
])  # fmt: skip
def test_a_key_that_is_not_shown_may_be_a_new_one(keys: list[dict[str, Any]]) -> None:
    with pytest.raises(UnknownKey):
        claims_of(signed(ec_key(), "ES256"), keys)


def test_another_key_of_that_name() -> None:
    with pytest.raises(LoginRefused) as refused:
        claims_of(signed(rsa_key(), "RS256"), [public(rsa_key(1), "a")])
    assert not isinstance(refused.value, UnknownKey)


def test_none_is_no_signature() -> None:
    for name in ("none", "None", "NONE", "", None, ["none"], {"alg": 1}):
        with pytest.raises(LoginRefused, match=r"alg|none"):
            claims_of(joined({"alg": name, "kid": "a"}), [public(rsa_key(), "a")])
    unsigned = jwt.encode(SAID, "", "none", headers={"kid": "a"})
    with pytest.raises(LoginRefused, match="alg"):
        claims_of(unsigned, [public(rsa_key(), "a")])


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_no_secret(algorithm: str) -> None:
    shown = public(rsa_key(), "a")
    pem = rsa_key().public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    octets = {"kty": "oct", "kid": "a", "k": base64.urlsafe_b64encode(pem).decode().rstrip("=")}
    for secret in (pem, json.dumps(shown).encode(), shown["n"].encode()):
        header = {"alg": algorithm, "kid": "a", "typ": "JWT"}
        start = joined(header).rpartition(".")[0]
        digest = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}[algorithm]
        signature = hmac.digest(secret, start.encode(), digest)
        token = start + "." + base64.urlsafe_b64encode(signature).decode().rstrip("=")
        with pytest.raises(LoginRefused, match="alg"):
            claims_of(token, [shown, octets])


def test_a_signature_is_of_the_whole_token() -> None:
    header, payload, signature = signed(ec_key(), "ES256").split(".")
    other = joined({"alg": "ES256", "kid": "a"}).split(".")[1]
    more = base64.urlsafe_b64encode(b'{"sub": "berta"}').decode().rstrip("=")
    for token in (f"{header}.{more}.{signature}", f"{header}.{payload}.", f"{header}.{payload}.{other}"):
        with pytest.raises(LoginRefused):
            claims_of(token, [public(ec_key(), "a")])


def test_a_key_of_the_token_itself_is_not_looked_at() -> None:
    own = public(ec_key(1), "a")
    token = signed(ec_key(1), "ES256", jwk=own, jku="http://evil.example/keys")
    with pytest.raises(LoginRefused):
        claims_of(token, [public(ec_key(), "a")])


@pytest.mark.filterwarnings("ignore:The RSA key is 1024")
def test_short_keys_and_what_must_be_understood() -> None:
    with pytest.raises(LoginRefused):
        claims_of(signed(rsa_key(0, 1024), "RS256"), [public(rsa_key(0, 1024), "a")])
    with pytest.raises(LoginRefused, match=r"crit|RFC 7519"):
        claims_of(signed(ec_key(), "ES256", crit=["exp"]), [public(ec_key(), "a")])


@pytest.mark.parametrize("token", [
    "", ".", "..", "a.b.c", "é.é.é", "\ud800.a.b", "x" * 300_000, joined({"alg": "RS256", "kid": 7}),
    "W10.e30.AA",  # the header is []
])  # fmt: skip
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(LoginRefused):
        claims_of(token, [public(rsa_key(), "a")])


@pytest.mark.parametrize("key", [
    {"kty": "RSA", "kid": "a"}, {"kty": "RSA", "kid": "a", "n": "!", "e": "AQAB"},
    {"kty": "RSA", "kid": "a", "n": 7, "e": None}, {"kty": "RSA", "kid": "a", "n": "", "e": ""},
])  # fmt: skip
def test_a_key_that_is_none(key: dict[str, Any]) -> None:
    with pytest.raises(LoginRefused):
        claims_of(signed(rsa_key(), "RS256"), [key])
