"""The router's listening sockets: opened here or by the supervisor, which keeps them over a router's death.

While the router is away, callers wait in the backlog instead of being refused.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from failover.config import Configuration
from failover.errors import PortTaken

_ENVIRONMENT: Final = "FAILOVER_LISTENERS"
# How many callers may wait while the router comes back: three seconds of a busy morning.
_BACKLOG: Final = 4096
NAMES: Final = ("web", "dicom", "admin")
DICOM_TLS: Final = "dicom_tls"
"""The second DICOM port, where listen.dicom.tls has a port of its own."""


def bind(key: str, host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises PortTaken; its message names the key and the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise PortTaken(f"{key}: {host} is no address of this machine ({error.strerror})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise PortTaken(f"{key}: cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def open_all(configuration: Configuration) -> dict[str, socket.socket]:
    """Return the router's listening sockets by name. Raises PortTaken; then none stays open."""
    opened: dict[str, socket.socket] = {}
    try:
        for name in NAMES:
            wanted = getattr(configuration.listen, name)
            opened[name] = bind(f"listen.{name}", wanted.host, wanted.port)
        dicom = configuration.listen.dicom
        if dicom.tls is not None and dicom.tls.port is not None:
            opened[DICOM_TLS] = bind("listen.dicom.tls", dicom.host, dicom.tls.port)
    except PortTaken:
        for listener in opened.values():
            listener.close()
        raise
    return opened


def bequeath(listeners: dict[str, socket.socket]) -> dict[str, str]:
    """Return the environment by which a child process finds the sockets that it inherits."""
    return {_ENVIRONMENT: ",".join(f"{name}={listener.fileno()}" for name, listener in listeners.items())}


def are_inherited() -> bool:
    """Return whether a supervisor left us sockets."""
    return bool(os.environ.get(_ENVIRONMENT))


def inherited() -> dict[str, socket.socket] | None:
    """Return the sockets that a supervisor left us, None when there is no supervisor."""
    text = os.environ.pop(_ENVIRONMENT, "")
    if not text:
        return None
    listeners: dict[str, socket.socket] = {}
    for entry in text.split(","):
        name, _, descriptor = entry.partition("=")
        listener = socket.socket(fileno=int(descriptor))
        listener.setblocking(False)
        listeners[name] = listener
    return listeners
