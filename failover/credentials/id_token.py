"""Is this token signed by one of these keys (RFC 7515, 7517, 7518)? What it says is for `claims`. Pure.

The signature is checked by PyJWT. Importing it costs a process some 8 MB (it loads OpenSSL once more): only
the router does, and only where an identity provider is configured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jwt
from jwt.api_jws import PyJWS

from failover.errors import LoginRefused

# Signatures of a key pair alone. Never none; never HS*, whose key would be a public one.
ALGORITHMS: Final = frozenset(
    f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)
)  # fmt: skip
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
# What of a key we look at: never its certificates or places to fetch it from.
_FIELDS: Final = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y")}
# A token with some hundred groups has 20 KB.
_LONGEST: Final = 256 * 1024

Key = Mapping[str, Any]


class UnknownKey(LoginRefused):
    """None of the keys is the one that the token names: the provider may have a new one."""


def claims_of(token: str, keys: Sequence[Key]) -> dict[str, Any]:
    """Return what `token` says, which one of `keys` has signed. Raises UnknownKey, LoginRefused."""
    if len(token) > _LONGEST:
        raise LoginRefused("the ID token is too long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise LoginRefused("the ID token is none (RFC 7519)") from None
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise LoginRefused("the ID token is not signed by a key pair (alg)")
    if "crit" in header or "b64" in header:
        raise LoginRefused("the ID token wants what we do not know (crit)")
    fitting = [key for key in keys if _fits(key, algorithm, kid)]
    if len(fitting) != 1:
        # Without a kid, or with one given twice, several may fit: to try them all would be guessing.
        raise UnknownKey("the ID token is signed by a key that the provider does not show (kid)")
    return _verified(token, fitting[0], algorithm)


def _fits(key: Key, algorithm: str, kid: str | None) -> bool:
    if kid is not None and key.get("kid") != kid:
        return False
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return False
    if algorithm in _CURVES:
        return key.get("kty") == "EC" and key.get("crv") == _CURVES[algorithm]
    return key.get("kty") == "RSA"


def _verified(token: str, key: Key, algorithm: str) -> dict[str, Any]:
    try:
        public = jwt.PyJWK({name: key[name] for name in _FIELDS[key["kty"]]}, algorithm)
        # RFC 7518 3.3: RSA keys of 2048 bits and more.
        found = PyJWS([algorithm]).decode_complete(
            token, public, [algorithm], {"verify_signature": True, "enforce_minimum_key_length": True}
        )  # fmt: skip
        claims = json.loads(found["payload"])
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError):
        raise LoginRefused("the signature of the ID token is wrong, or its key cannot be used") from None
    if not isinstance(claims, dict):
        raise LoginRefused("the ID token says nothing")
    return claims
