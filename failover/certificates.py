"""What certificate and key files hold: the chain, its dates, whether it fits together. Reads files alone.

Of X.509 (RFC 5280) it reads what an operator must be told: who issued whom, and until when. Whether a
certificate is to be believed is decided by the TLS library.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from failover.errors import TlsUnusable

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_LARGEST_BYTES: Final = 2**22  # the CA bundle of a distribution has about 220 KB
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
SOON_S: Final = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is read of one certificate."""

    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Certificates:
    """A file of certificates: the first is our own, each next one issued the one before it."""

    chain: tuple[Certificate, ...]

    @property
    def expires(self) -> datetime:
        """When the first of them expires: from then on callers refuse it."""
        return min(one.not_after for one in self.chain)

    @property
    def expires_day(self) -> str:
        return f"{self.expires:%Y-%m-%d}"

    def warning(self, now: datetime) -> str | None:
        """Return what is wrong with the dates, None when they hold for another 30 days."""
        began = max(one.not_before for one in self.chain)
        if began > now:
            return f"is not valid before {began:%Y-%m-%d %H:%M} UTC: peers refuse it until then"
        left_s = (self.expires - now).total_seconds()
        if left_s <= 0:
            return f"expired on {self.expires_day}: peers refuse it"
        if left_s < SOON_S:
            return f"expires on {self.expires_day}, in {left_s / 86_400:.0f} days"
        return None


def read_certificates(path: Path, *, chain: bool = True) -> Certificates:
    """Return the certificates in a PEM file; a `chain` must be in order. Raises TlsUnusable."""
    found = tuple(_certificates(path, _text(path)))
    if not found:
        raise TlsUnusable(path, "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")
    for place, (one, issuer) in enumerate(pairwise(found), start=1):
        if chain and one.issuer != issuer.subject:
            raise TlsUnusable(
                path, f"certificate {place} is not issued by the one after it: own first, then its issuers"
            )
    return Certificates(found)


def first_pem(path: Path) -> str:
    """Return the first certificate of a PEM file as it stands there. Raises TlsUnusable."""
    found = _PEM.search(_text(path))
    if found is None:
        raise TlsUnusable(path, "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")
    return found[0]


def read_key(path: Path) -> None:
    """Look whether `path` can be a key that we can use by ourselves. Raises TlsUnusable."""
    text = _text(path)
    if "PRIVATE KEY-----" not in text:
        raise TlsUnusable(path, "holds no private key in PEM")
    if "ENCRYPTED" in text:
        raise TlsUnusable(path, "is encrypted: we start without a person; keep it readable by us alone")


def key_warning(path: Path) -> str | None:
    """Return who else can read the key, None when nobody can."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None  # that it cannot be read is told by `read_key`
    if mode & 0o007:
        return f"can be used by every user of this machine: chmod 640 {path}"
    return None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise TlsUnusable(path, f"cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST_BYTES:
        raise TlsUnusable(path, "has more than 4 MiB: no certificate or key")
    return content.decode("latin-1")  # PEM is ASCII; comments beside it may be anything


def _certificates(path: Path, text: str) -> Iterator[Certificate]:
    for place, block in enumerate(_PEM.findall(text), start=1):
        try:
            yield parse_certificate(ssl.PEM_cert_to_DER_cert(block))
        except ValueError as error:
            raise TlsUnusable(path, f"certificate {place} cannot be read") from error


def parse_certificate(der: bytes) -> Certificate:
    """Return what we want of a certificate (RFC 5280 4.1). Raises ValueError."""
    tag, whole, _ = _element(der)
    if tag != _SEQUENCE:
        raise ValueError("not a certificate")
    _, signed, _ = _element(whole)
    tag, _, rest = _element(signed)
    if tag == _VERSION:
        _, _, rest = _element(rest)  # serialNumber
    _, _, rest = _element(rest)  # signature
    _, issuer, rest = _element(rest)
    _, validity, rest = _element(rest)
    _, subject, _ = _element(rest)
    first, not_before, later = _element(validity)
    second, not_after, _ = _element(later)
    return Certificate(issuer, subject, _time(first, not_before), _time(second, not_after))


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag, content and what follows of the first element (X.690 8.1). Raises ValueError."""
    if len(data) < 2:
        raise ValueError("ends too early")
    length, start = data[1], 2
    if length & 0x80:
        size = length & 0x7F
        start += size
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("ends too early")
    return data[0], data[start : start + length], data[start + length :]


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280 4.1.2.5.1: 50 to 99 are of the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
