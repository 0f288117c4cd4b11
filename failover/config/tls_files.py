"""What is wrong or unwise in the files that `tls` blocks name. What they hold is read in `certificates`.

`tls_findings` keeps us from starting; `tls_advice` (dates, permissions) does not: after an outage a router
with an expired certificate is better than none.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from failover.config.checks import Finding
from failover.config.problems import KeyPath
from failover.config.schema import Configuration, Upstream
from failover.errors import TlsUnusable
from failover.model import ClientTls, ServerTls


class TlsBlock(NamedTuple):
    """One `tls` block of the configuration."""

    key: KeyPath
    files: ServerTls | ClientTls


def listening(configuration: Configuration) -> dict[str, ServerTls]:
    """Return the files of each listener that speaks TLS, by its name: web, dicom, admin."""
    listen = configuration.listen
    blocks = {"web": listen.web.tls, "dicom": listen.dicom.tls, "admin": listen.admin.tls}
    return {name: block.files for name, block in blocks.items() if block is not None}


def tls_blocks(configuration: Configuration) -> Iterator[TlsBlock]:
    """Yield every `tls` block of the router's side."""
    for name, files in listening(configuration).items():
        yield TlsBlock(("listen", name, "tls"), files)
    for name, upstream in (("primary", configuration.primary), ("backup", configuration.backup)):
        if not isinstance(upstream, Upstream):
            continue
        for key, side in (("web", upstream.web), ("dicom", upstream.dicom)):
            if side is not None and side.tls is not None:
                yield TlsBlock((name, key, "tls"), side.tls.files)


def tls_findings(configuration: Configuration) -> list[Finding]:
    """Return (key path, sentence) for each file of a `tls` block that cannot serve."""
    blocks = list(tls_blocks(configuration))
    if not blocks:
        return []
    from failover.tls import client_context, server_context  # most configurations need no OpenSSL to be read

    found: list[Finding] = []
    for key, files in blocks:
        try:
            if isinstance(files, ServerTls):
                server_context(files)
            else:
                client_context(files)
        except TlsUnusable as error:
            found.append(((*key, _key_of(files, error)), str(error)))
    return found


def tls_advice(configuration: Configuration, now: datetime) -> list[Finding]:
    """Return (key path, sentence) for certificates about to expire, and keys that others can use."""
    from failover.certificates import key_warning, read_certificates

    found: list[Finding] = []
    for key, files in tls_blocks(configuration):
        if files.cert_file is not None:
            warning = read_certificates(files.cert_file).warning(now)
            found += [] if warning is None else [((*key, "cert_file"), warning)]
        if files.key_file is not None:
            warning = key_warning(files.key_file)
            found += [] if warning is None else [((*key, "key_file"), warning)]
    return found


def _key_of(files: ServerTls | ClientTls, error: TlsUnusable) -> str:
    keys = ("key_file", "cert_file", "client_ca_file", "ca_file")
    return next((key for key in keys if getattr(files, key, None) == error.path), "cert_file")
