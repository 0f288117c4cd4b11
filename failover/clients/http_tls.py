"""TLS for our own HTTP requests by aiohttp: its options, and why a connection could not be opened."""

from __future__ import annotations

import ssl
from typing import TypedDict

import aiohttp

from failover.model import ClientTls
from failover.tls import client_context, failure


class TlsOptions(TypedDict, total=False):
    ssl: ssl.SSLContext
    server_hostname: str | None


def tls_options(tls: ClientTls | None) -> TlsOptions:
    """Return what `ClientSession.request` is given. Raises TlsUnusable.

    Asked for at each request: when a file was replaced, new connections are made with the new one.
    """
    return {} if tls is None else {"ssl": client_context(tls), "server_hostname": tls.server_name}


def connect_failure(error: aiohttp.ClientConnectorError) -> str:
    """Return why no connection was opened, short and without addresses."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        return failure(cause) if isinstance(cause, OSError) else "certificate verify failed"
    return failure(error.os_error)
