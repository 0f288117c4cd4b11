"""Whom the backup may answer, put together from `access.web`: passwords, the provider, sessions, what is
remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from failover.app.shared_logins import AskedOfTheRouter, ProviderAtTheRouter
from failover.clock import Clock
from failover.config import Configuration
from failover.config.access import Oidc
from failover.control import socket_path
from failover.credentials import claims
from failover.credentials.password_file import PasswordFile
from failover.credentials.remembered import Remembered
from failover.credentials.sessions import Sessions
from failover.errors import UpstreamTimeout
from failover.health.web_probes import WebSide
from failover.metrics import RouterMetrics
from failover.proxy.admission import Admission, Candidate
from failover.proxy.challenge import PROVIDER_CALLBACK
from failover.proxy.passwords import PasswordCheck, Passwords
from failover.proxy.provider import ProviderCheck

# A search of one study: what takes longer is asked again later.
_PROBE_S: Final = 10.0


def has_logins(configuration: Configuration) -> bool:
    """Whether a caller may show something instead of an address."""
    access = configuration.access.web
    return access is not None and (
        access.password_file is not None or access.remembered is not None or access.oidc is not None
    )


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
    provider: ProviderCheck | None = None
    sessions = remembered = None
    if access.password_file is not None:
        users = PasswordFile(access.password_file, clock)
        passwords = (
            Passwords(users, clock, lambda result: metrics.logins.labels(result).inc())
            if pass_on is None
            else AskedOfTheRouter(users, socket_path(configuration.state_dir, "router"))
        )
    if access.oidc is not None:
        if pass_on is None:
            provider = _provider_of(access.oidc, clock, metrics)
        else:
            oidc = access.oidc
            stamp = claims.stamp(oidc.issuer, oidc.client_id, oidc.groups_claim, oidc.groups)
            provider = ProviderAtTheRouter(
                oidc.origin, stamp, socket_path(configuration.state_dir, "router")
            )  # fmt: skip
    if passwords is not None or provider is not None:
        sessions = Sessions(key, _kept_of(passwords, provider), lambda: clock.wall().timestamp())
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
        clock, passwords=passwords, provider=provider, sessions=sessions, remembered=remembered, paths=paths,
        prefix=prefix, ask=ask, pass_on=pass_on,
    )  # fmt: skip


def _kept_of(
    passwords: PasswordCheck | None, provider: ProviderCheck | None
) -> Callable[[str], str | None]:  # fmt: skip
    """Return what a session is signed with: the user's password as it is kept, or the provider's stamp."""

    def kept_of(user: str) -> str | None:
        if user.startswith(claims.PREFIX):
            return None if provider is None else provider.stamp
        return None if passwords is None else passwords.kept_of(user)

    return kept_of


def _provider_of(oidc: Oidc, clock: Clock, metrics: RouterMetrics) -> ProviderCheck:
    # What checks signatures costs 8 MB: only the router has it, and only where it is needed.
    from failover.clients.identity_provider import Client
    from failover.proxy.provider_logins import ProviderLogins

    client = Client(
        oidc.issuer, oidc.client_id, oidc.origin + PROVIDER_CALLBACK.decode(), oidc.client_secret_file,
        oidc.ca_file,
    )  # fmt: skip
    return ProviderLogins(
        client, clock, origin=oidc.origin, scopes=oidc.scopes, groups_claim=oidc.groups_claim,
        groups=oidc.groups, counts=lambda result: metrics.logins.labels(result).inc(),
        shows=metrics.identity_provider_up.set,
    )  # fmt: skip
