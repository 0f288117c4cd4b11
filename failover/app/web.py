"""The proxy put together from the configuration, for the router (the first web worker) and for the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

from failover.addresses import Network, is_within
from failover.clock import Clock
from failover.config import Configuration
from failover.config.schema import LOOPBACK, Backup, Upstream
from failover.control import ask, socket_path
from failover.health.passive import LiveTraffic
from failover.metrics import RouterMetrics
from failover.model import UpstreamName
from failover.proxy.admission import Admission
from failover.proxy.copies import WebCopies
from failover.proxy.server import Proxy, WebUpstream
from failover.routing.board import RouteBoard
from failover.shares import Bound, Shares
from failover.spool import Spool
from failover.tls import ServerIdentity

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP


def spool_of(configuration: Configuration, shares: Shares) -> Spool:
    """Return where bodies are kept; all processes of `shares` have its bounds together."""
    return Spool(
        configuration.state_dir / "spool",
        memory_bytes=configuration.listen.web.spool_memory,
        disk_bytes=configuration.listen.web.spool_disk,
        shares=shares,
    )


def proxy_of(
    configuration: Configuration,
    board: RouteBoard,
    traffic: Mapping[UpstreamName, LiveTraffic],
    metrics: RouterMetrics,
    clock: Clock,
    spool: Spool,
    identity: ServerIdentity | None,
    admission: Admission | None,
    shares: Shares,
    *,
    component: str = "router",
) -> Proxy:
    """Return the proxy of one web worker; `component` names it in the access log."""
    return Proxy(
        configuration.listen.web,
        web_upstreams(configuration),
        board,
        traffic,
        admits_of(configuration),
        metrics,
        clock,
        spool,
        identity,
        admission=admission,
        copies=web_copies_of(configuration, metrics, shares),
        shares=shares,
        hedge=configuration.policy.hedge,
        component=component,
    )


def upstreams(configuration: Configuration) -> dict[UpstreamName, Upstream]:
    assert configuration.primary is not None, "the configuration was checked: a router needs a primary"
    return {PRIMARY: configuration.primary, BACKUP: configuration.backup_upstream}


def web_upstreams(configuration: Configuration) -> dict[UpstreamName, WebUpstream]:
    """Return what the proxy is told: where each web side is and what it can do."""
    embedded = configuration.backup == "embedded"
    found = {}
    for name, upstream in upstreams(configuration).items():
        if upstream.web is None:
            continue
        parts = urlsplit(upstream.web.url)
        archive = embedded and name is BACKUP
        found[name] = WebUpstream(
            name=name,
            host=parts.hostname or "",
            port=parts.port or 0,
            tls=upstream.web.client_tls,
            dicomweb_path=upstream.dicomweb_path,
            takes_unsafe=not archive,
            has_viewer=archive,
            is_archive=archive,
            pass_credentials=isinstance(upstream, Backup) and upstream.pass_credentials,
            names=tuple(upstream.web.names),
        )
    return found


def expecting(configuration: Configuration) -> Callable[[str, int, float], Awaitable[None]]:
    """Return how the archive is told what a copy will show."""
    archive = socket_path(configuration.state_dir, "archive")

    async def expect(originator_ae: str, message_id: int, for_s: float) -> None:
        told = {"originator_ae": originator_ae, "message_id": message_id, "for_s": for_s}
        await ask(archive, "copy.expect", told)

    return expect


def web_copies_of(configuration: Configuration, metrics: RouterMetrics, shares: Shares) -> WebCopies | None:
    """Return what copies STOW on its way to the primary; None when the backup has no DICOMweb."""
    backup = configuration.backup_upstream
    if backup.web is None or backup.dicomweb_path is None:
        return None
    embedded = configuration.backup == "embedded"
    return WebCopies(
        backup.web.url + backup.dicomweb_path.rstrip("/"),
        expecting(configuration) if embedded else None,
        metrics,
        tee=configuration.replication.tee and embedded,
        waiting_bytes=shares[Bound.COPY_BYTES],
        processes=configuration.listen.web.workers,
    )


def admits_of(configuration: Configuration) -> Callable[[str], bool]:
    """Return whether the archive may answer a caller at this address through the router (`access.web`)."""
    access = configuration.access.web
    networks: Sequence[Network] = LOOPBACK if access is None else access.addresses

    def admits(host: str) -> bool:
        return is_within(host, networks)

    return admits
