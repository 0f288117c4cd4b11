"""Whom the backup may answer, put together from `access.web`: passwords, sessions, what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from failover.app.shared_logins import AskedOfTheRouter
from failover.clock import Clock
from failover.config import Configuration
from failover.control import socket_path
from failover.credentials.password_file import PasswordFile
from failover.credentials.remembered import Remembered
from failover.credentials.sessions import Sessions
from failover.errors import UpstreamTimeout
from failover.health.web_probes import WebSide
from failover.metrics import RouterMetrics
from failover.proxy.admission import Admission, Candidate
from failover.proxy.passwords import PasswordCheck, Passwords

# A search of one study: what takes longer is asked again later.
_PROBE_S: Final = 10.0


def has_logins(configuration: Configuration) -> bool:
    """Whether a caller may show something instead of an address."""
    access = configuration.access.web
    return access is not None and (access.password_file is not None or access.remembered is not None)


def admission_of(
    configuration: Configuration,
    clock: Clock,
    metrics: RouterMetrics,
    key: bytes,
    pass_on: Callable[[Candidate], None] | None = None,
) -> Admission | None:
    """Return what a caller may show instead of an address; None when addresses alone count.

    `key` is that of sessions and hashes. With `pass_on` the router checks passwords, probes, counts and
    writes, and we tell it what the primary accepted.
    """
    access, primary = configuration.access.web, configuration.primary
    if access is None or not has_logins(configuration):
        return None
    passwords: PasswordCheck | None = None
    sessions = remembered = None
    if access.password_file is not None:
        users = PasswordFile(access.password_file, clock)
        passwords = (
            Passwords(users, clock, lambda result: metrics.logins.labels(result).inc())
            if pass_on is None
            else AskedOfTheRouter(users, socket_path(configuration.state_dir, "router"))
        )
        sessions = Sessions(key, passwords.kept_of, lambda: clock.wall().timestamp())
    paths: list[str] = []
    prefix = primary.dicomweb_path.rstrip("/") if primary and primary.dicomweb_path else None
    if access.remembered is not None:
        folder = configuration.state_dir if pass_on is None else None
        remembered = Remembered(folder, key, clock, hold_s=access.remembered.hold)
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
        ask=ask, pass_on=pass_on,
    )  # fmt: skip
