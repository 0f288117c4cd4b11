"""The options of the sockets that DICOM is spoken over. Linux has all of them; others do without."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

# A peer that vanished without a word is noticed after 60 + 4 x 15 s, also while we owe it the next word.
_KEEPALIVE: Final = tuple([
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)
])  # fmt: skip
_QUICKACK: Final = int(getattr(socket, "TCP_QUICKACK", -1))


def set_options(raw: socket.socket) -> None:
    """No delay, and keep-alive. What a listener has, the connections accepted from it have (Linux)."""
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            raw.setsockopt(socket.IPPROTO_TCP, option, value)


def acknowledge(raw: socket.socket) -> None:
    """Send the ACK that the kernel would delay."""
    if _QUICKACK >= 0:
        with contextlib.suppress(OSError):  # the kernel forgets the option, so it is set each time
            raw.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
