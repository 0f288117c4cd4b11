"""What an ID token says: to us, now, about this login (OpenID Connect Core 3.1.3.7)? Pure.

That the provider signed it is known before: see `id_token`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from failover.errors import LoginRefused

# How far the provider's clock and ours may be apart: more than NTP ever leaves, too little to matter.
SKEW_S: Final = 60.0
# OpenID Connect Core 2: a subject has at most 255 ASCII characters.
_LONGEST_SUBJECT: Final = 255
# No directory lists a person in more groups; what is longer is not looked at.
_MOST_GROUPS: Final = 4096
PREFIX: Final = "oidc:"
"""How the sessions of this door begin: no user of the password file has a colon in the name."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the token must say. Times are seconds since 1970."""

    issuer: str
    client_id: str
    nonce: str
    began_s: float
    """When this login began."""
    now_s: float


def subject_of(claims: Mapping[str, Any], expected: Expected) -> str:
    """Return whom the token speaks of. Raises LoginRefused, whose sentence holds nothing of the token."""
    if claims.get("iss") != expected.issuer:
        raise LoginRefused("the ID token is of another issuer")
    _for_us(claims, expected.client_id)
    _in_time(claims, expected)
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode()):
        raise LoginRefused("the ID token belongs to another login (nonce)")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
        raise LoginRefused("the ID token names no subject")
    return subject


def _for_us(claims: Mapping[str, Any], client_id: str) -> None:
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or client_id not in audiences:
        raise LoginRefused("the ID token is for another client (aud)")
    party = claims.get("azp")
    # Several audiences: only the party that it was issued to may use it.
    if party != client_id and (party is not None or len(audiences) > 1):
        raise LoginRefused("the ID token was issued to another client (azp)")


def _in_time(claims: Mapping[str, Any], expected: Expected) -> None:
    expires_s, issued_s = _time(claims, "exp"), _time(claims, "iat")
    if expires_s <= expected.now_s - SKEW_S:
        raise LoginRefused("the ID token has expired: are both clocks right?")
    if issued_s > expected.now_s + SKEW_S:
        raise LoginRefused("the ID token comes from the future: are both clocks right?")
    if issued_s < expected.began_s - SKEW_S:
        raise LoginRefused("the ID token is older than this login: are both clocks right?")
    if "nbf" in claims and _time(claims, "nbf") > expected.now_s + SKEW_S:
        raise LoginRefused("the ID token is not valid yet: are both clocks right?")


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**53:
        raise LoginRefused(f"the ID token has no {name}")
    return float(value)


def is_allowed(claims: Mapping[str, Any], claim: str, allowed: Collection[str] | None) -> bool:
    """Whether the token names one of the groups `allowed`; None: everyone is."""
    return allowed is None or not groups_of(claims, claim).isdisjoint(allowed)


def groups_of(claims: Mapping[str, Any], claim: str) -> frozenset[str]:
    """Return the groups in `claim`: by exactly that name, else by the way that its dots lead inwards."""
    found: Any = claims.get(claim)
    if found is None:
        found = claims
        for step in claim.split("."):
            found = found.get(step) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return frozenset((found,))
    if not isinstance(found, list) or len(found) > _MOST_GROUPS:
        return frozenset()
    return frozenset(group for group in found if isinstance(group, str))


def session_name(issuer: str, subject: str) -> str:
    """Return the name of `subject` in our sessions: its cookie tells nobody who it is."""
    digest = hashlib.sha256(f"{issuer}\0{subject}".encode()).digest()[:18]
    return PREFIX + base64.urlsafe_b64encode(digest).decode()


def stamp(issuer: str, client_id: str, claim: str, allowed: Collection[str] | None) -> str:
    """Return what sessions are signed with beside our key: when one of these changes, they end."""
    groups = "" if allowed is None else "\0".join(sorted(allowed))
    return hashlib.sha256(
        "\0".join((issuer, client_id, claim, str(allowed is None), groups)).encode()
    ).hexdigest()
