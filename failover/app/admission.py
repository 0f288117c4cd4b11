"""Whom the backup may answer, put together from `access.web`: passwords, sessions, what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from failover.clock import Clock
from failover.config import Configuration
from failover.credentials.password_file import PasswordFile
from failover.credentials.remembered import Remembered, read_key
from failover.credentials.sessions import Sessions
from failover.errors import UpstreamTimeout
from failover.health.web_probes import WebSide
from failover.metrics import RouterMetrics
from failover.proxy.admission import Admission, Passwords

# A search of one study: what takes longer is asked again later.
_PROBE_S: Final = 10.0


def admission_of(configuration: Configuration, clock: Clock, metrics: RouterMetrics) -> Admission | None:
    """Return what a caller may show instead of an address; None when addresses alone count.

    Raises StorageError when the key of sessions and hashes cannot be kept.
    """
    access, primary = configuration.access.web, configuration.primary
    if access is None or (access.password_file is None and access.remembered is None):
        return None
    key = read_key(configuration.state_dir)
    passwords = sessions = remembered = None
    if access.password_file is not None:
        passwords = Passwords(
            PasswordFile(access.password_file, clock),
            clock,
            lambda result: metrics.logins.labels(result).inc(),
        )
        sessions = Sessions(key, passwords.kept_of, lambda: clock.wall().timestamp())
    paths: list[str] = []
    prefix = primary.dicomweb_path.rstrip("/") if primary and primary.dicomweb_path else None
    if access.remembered is not None:
        remembered = Remembered(configuration.state_dir, key, clock, hold_s=access.remembered.hold)
        given = access.remembered.paths or ([prefix] if prefix is not None else [])
        paths = [path.rstrip("/") or "/" for path in given]

    async def ask(path: str, fields: Mapping[str, str]) -> int:
        """On a connection of its own: what a kept one has shown before must not count."""
        assert primary is not None
        assert primary.web is not None
        side = WebSide(primary.web.url, primary.web.client_tls)
        try:
            async with asyncio.timeout(_PROBE_S):
                status, _ = await side.ask("GET", path, dict(fields), most_bytes=1)
        except TimeoutError:
            raise UpstreamTimeout("no answer in time") from None
        finally:
            await side.close()
        return status

    return Admission(
        clock, passwords=passwords, sessions=sessions, remembered=remembered, paths=paths, prefix=prefix,
        ask=ask,
    )  # fmt: skip
