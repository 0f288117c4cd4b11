"""TLS by BCP 195 (RFC 9325): contexts for our listeners and towards upstreams, made of files that may change.

TLS 1.2 and 1.3 alone, forward secrecy and AEAD alone, no compression, no renegotiation. A context is never
changed: when its files are replaced a new one is made for new connections, and open ones keep theirs. Where
connections are accepted is in `doors`; what the files hold is in `certificates`.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from failover.certificates import Certificates, read_certificates, read_key
from failover.clock import Clock
from failover.errors import TlsUnusable
from failover.model import ClientTls, ServerTls

_log = structlog.get_logger(__name__)

# RFC 9325 4.2: ephemeral elliptic curves for the key, AEAD for the data. TLS 1.3 has nothing else. Level 2:
# RSA keys of 2048 bits and more, no SHA-1 (RFC 9325 4.5), also where the distribution would allow them.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
# RFC 9325 3.4: keys of session tickets must not live long; they live as long as their context.
FRESH_S: Final = 24 * 3600.0
_Stamp = tuple[tuple[int, int, int], ...]
_WHY: Final = {
    "EE_KEY_TOO_SMALL": "its key is too short: RSA needs 2048 bits",
    "CA_KEY_TOO_SMALL": "the key of an issuer in it is too short: RSA needs 2048 bits",
    "CA_MD_TOO_WEAK": "it is signed with a digest that is not safe any more: SHA-256 is",
}


def server_context(settings: ServerTls, *, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """Return the context of a listener. With `client_ca_file` a caller must show a certificate of that CA.

    Raises TlsUnusable; its message names the file and the cause.
    """
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    _load_chain(context, settings.cert_file, settings.key_file)
    if settings.client_ca_file is not None:
        _load_ca(context, settings.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _client_context(settings: ClientTls) -> ssl.SSLContext:
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.ca_file is not None:
        _load_ca(context, settings.ca_file)
    else:
        context.load_default_certs()
    if settings.cert_file is not None and settings.key_file is not None:
        _load_chain(context, settings.cert_file, settings.key_file)
    return context


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def _load_chain(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    read_certificates(cert_file)
    read_key(key_file)
    try:
        context.load_cert_chain(cert_file, key_file, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsUnusable(key_file, f"is not the key of the certificate in {cert_file}") from error
        raise TlsUnusable(cert_file, _why(error)) from error
    except OSError as error:
        raise TlsUnusable(cert_file, f"cannot be read: {error.strerror}") from error


def _load_ca(context: ssl.SSLContext, ca_file: Path) -> None:
    read_certificates(ca_file, chain=False)
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError as error:
        raise TlsUnusable(ca_file, _why(error)) from error
    except OSError as error:
        raise TlsUnusable(ca_file, f"cannot be read: {error.strerror}") from error


def _why(error: ssl.SSLError) -> str:
    reason = error.reason or "unknown"
    return _WHY.get(reason, f"cannot be used: {reason.replace('_', ' ').lower()}")


def _stamp(files: Iterator[Path]) -> _Stamp:
    """What changes when a file is replaced or written; a missing file is a state of its own."""
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


class ServerIdentity:
    """One listener's certificate, followed while its files are replaced.

    `context` is for the next connection. Files that cannot serve change nothing: they are told once, and the
    old certificate goes on.
    """

    def __init__(
        self, listener: str, settings: ServerTls, clock: Clock, *, alpn: tuple[str, ...] = ()
    ) -> None:
        """Raises TlsUnusable."""
        self.listener = listener
        self.settings = settings
        self._clock = clock
        self._alpn = alpn
        self._stamp = self._seen = self._refused = self._now()
        self.context = server_context(settings, alpn=alpn)
        self.certificates = read_certificates(settings.cert_file)
        self._made_s = clock.monotonic()

    def _now(self) -> _Stamp:
        return _stamp(iter(self.settings.files))

    def look(self, *, at_once: bool = False) -> str | None:
        """Take new files into use. Return why they cannot be, None when all is well.

        Certificate and key are two files: unless told `at_once`, new ones are read when two looks saw them
        alike, so that nobody meets half a pair.
        """
        now = self._now()
        settled, self._seen = at_once or now == self._seen, now
        old = self._clock.monotonic() - self._made_s > FRESH_S
        known = now == self._stamp or (now == self._refused and not at_once)
        if not settled or (known and not old):
            return None
        try:
            context = server_context(self.settings, alpn=self._alpn)
            certificates = read_certificates(self.settings.cert_file)
        except TlsUnusable as error:
            if now != self._refused or at_once:
                _log.error("new certificate not taken", listener=self.listener, why=str(error))
            self._refused, self._made_s = now, self._clock.monotonic()
            return str(error)
        if now != self._stamp:
            _log.info("certificate taken", listener=self.listener, expires=certificates.expires_day)
        self.context, self.certificates = context, certificates
        self._stamp = self._refused = now
        self._made_s = self._clock.monotonic()
        return None

    def change(self, settings: ServerTls) -> None:
        """Follow other files from now on. Raises TlsUnusable; then nothing changed."""
        context = server_context(settings, alpn=self._alpn)
        self.certificates = read_certificates(settings.cert_file)
        self.settings, self.context = settings, context
        self._stamp = self._seen = self._refused = self._now()
        self._made_s = self._clock.monotonic()


class _Made:
    """A client's context, and the state of the files that it was made of."""

    __slots__ = ("context", "refused", "stamp")

    def __init__(self, context: ssl.SSLContext, stamp: _Stamp) -> None:
        self.context, self.stamp, self.refused = context, stamp, stamp


_made: dict[ClientTls, _Made] = {}
# The probes have a thread of their own.
_making: Final = threading.Lock()


def client_context(settings: ClientTls) -> ssl.SSLContext:
    """Return the context for the next connection to an upstream; made anew when one of its files changed.

    Raises TlsUnusable when none could ever be made; later bad files are told once and the old ones go on.
    """
    stamp = _stamp(iter(settings.files))
    with _making:
        made = _made.get(settings)
        if made is not None and stamp in (made.stamp, made.refused):
            return made.context
        try:
            context = _client_context(settings)
        except TlsUnusable as error:
            if made is None:
                raise
            _log.error("new certificate not taken", towards=settings.server_name, why=str(error))
            made.refused = stamp
            return made.context
        _made[settings] = _Made(context, stamp)
        return context


def failure(error: OSError) -> str:
    """Return why a connection could not be opened, without addresses: TLS's reason, or the system's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message.lower()}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'handshake failed').replace('_', ' ').lower()}"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    return os.strerror(error.errno).lower() if error.errno else "no connection"


def certificates_of(settings: ServerTls | ClientTls) -> Certificates | None:
    """Return what the certificate file holds; None when there is none. Raises TlsUnusable."""
    return None if settings.cert_file is None else read_certificates(settings.cert_file)
