"""The certificates of the router's listeners: followed while their files are replaced, expiry as a metric."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from failover.clock import Clock
from failover.config import Configuration
from failover.config.tls_files import listening
from failover.metrics import RouterMetrics
from failover.tls import ServerIdentity

_log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
# HTTP/2 is not ours: a browser that offers it hears so in the handshake (RFC 7301).
_ALPN = {"web": ("http/1.1",), "admin": ("http/1.1",), "dicom": ()}


class Identities:
    """One `ServerIdentity` for each listener that speaks TLS."""

    def __init__(
        self,
        configuration: Configuration,
        metrics: RouterMetrics,
        clock: Clock,
        *,
        only: Collection[str] = tuple(_ALPN),
    ) -> None:
        """Of the listeners in `only`. Raises TlsUnusable, when a file changed since the check."""
        self._clock = clock
        self._metrics = metrics
        self._found = {
            name: ServerIdentity(name, files, clock, alpn=_ALPN[name])
            for name, files in listening(configuration).items()
            if name in only
        }
        for identity in self._found.values():
            warning = identity.certificates.warning(clock.wall())
            if warning is not None:
                _log.warning(
                    "certificate",
                    listener=identity.listener,
                    why=warning,
                    file=str(identity.settings.cert_file),
                )
        self._show()

    def of(self, listener: str) -> ServerIdentity | None:
        """Return the identity of web, dicom or admin; None: it speaks plain."""
        return self._found.get(listener)

    def change(self, configuration: Configuration) -> list[str]:
        """Follow the files that the configuration names now, and look at them. Raises TlsUnusable."""
        for name, files in listening(configuration).items():
            identity = self._found.get(name)
            if identity is not None and identity.settings != files:
                identity.change(files)
        return self.look(at_once=True)

    async def follow(self) -> None:
        """Look for replaced files until cancelled."""
        while self._found:
            await self._clock.sleep(LOOK_EVERY_S)
            self.look()

    def look(self, *, at_once: bool = False) -> list[str]:
        """Take replaced files into use; return a sentence for each that cannot serve."""
        found = [(identity, identity.look(at_once=at_once)) for identity in self._found.values()]
        self._show()
        return [f"listen.{identity.listener}.tls: {why}" for identity, why in found if why is not None]

    def _show(self) -> None:
        for name, identity in self._found.items():
            self._metrics.certificate_expiry.set(identity.certificates.expires.timestamp(), name)
