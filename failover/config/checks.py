"""What several keys together make wrong or unsafe, and what is merely unwise. Pure.

`problems` keep us from starting; `advice` is what `failover check` adds for a configuration that will run.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from failover.config.problems import KeyPath
from failover.config.schema import Access, ArchiveAccess, Configuration, Oidc, Upstream, UpstreamTls

_WILDCARDS: Final = ("0.0.0.0", "::")
Finding = tuple[KeyPath, str]
_NO_LEDGER: Final = (
    "is none of ours: nobody knows what it took and the primary lacks, so reads never return by themselves"
    " after a failover. Bring that over by hand, then say `failover force primary --reason …` and"
    " `failover auto`"
)


class Listener(NamedTuple):
    """One of our own listening addresses."""

    key: KeyPath
    host: str
    port: int


def problems(
    configuration: Configuration, *, archive_alone: bool = False, compare_addresses: bool = True
) -> list[Finding]:
    """Return (key path, sentence) for each thing that is legal by itself and must not be started.

    `compare_addresses` False leaves out collisions and circles, for a file whose addresses are not all known.
    """
    found: list[Finding] = []
    if not archive_alone:
        found += _upstream_problems(configuration)
        found += _router_doors(configuration)
        found += _probe_problems(configuration)
        found += _hedge_problems(configuration)
    if _has_archive(configuration, archive_alone):
        found += _archive_doors(configuration)
    if compare_addresses:
        found += _port_problems(listeners(configuration, archive_alone=archive_alone))
        found += [] if archive_alone else _loops(configuration)
    return found


def advice(configuration: Configuration) -> list[Finding]:
    """Return (key path, sentence) for what will run, but hardly as it was meant."""
    health, policy = configuration.health, configuration.policy
    limits = configuration.listen.dicom
    found: list[Finding] = []
    if health.fast_interval > health.interval:
        found.append(
            (("health", "fast_interval"), "is longer than health.interval: doubt would slow probes down")
        )
    if health.timeout >= policy.fail_after:
        found.append((("health", "timeout"), "is not shorter than policy.fail_after"))
    if health.dicom.timeout >= policy.fail_after:
        found.append((("health", "dicom", "timeout"), "is not shorter than policy.fail_after"))
    if limits.reserve >= limits.max_associations:
        found.append(
            (("listen", "dicom", "reserve"), "leaves no place to AE titles that access.dicom does not name")
        )
    if (
        configuration.window_days > configuration.archive.retention.days
        and configuration.backup == "embedded"
    ):
        found.append(
            (("replication", "window_days"), "is longer than archive.retention.days: fetched to be evicted")
        )
    if isinstance(configuration.backup, Upstream):
        found.append((("backup",), _NO_LEDGER))
    found += _tls_advice(configuration)
    found += _door_advice(configuration)
    return found


def listeners(configuration: Configuration, *, archive_alone: bool = False) -> list[Listener]:
    """Return every address that we ourselves listen on."""
    listen, archive = configuration.listen, configuration.archive
    ours: list[Listener] = []
    if not archive_alone:
        ours += [
            Listener(("listen", "web"), listen.web.host, listen.web.port),
            Listener(("listen", "dicom"), listen.dicom.host, listen.dicom.port),
            Listener(("listen", "admin"), listen.admin.host, listen.admin.port),
        ]
        if listen.dicom.tls is not None and listen.dicom.tls.port is not None:
            ours.append(Listener(("listen", "dicom", "tls"), listen.dicom.host, listen.dicom.tls.port))
    if _has_archive(configuration, archive_alone):
        ours += [
            Listener(("archive", "web"), archive.web.host, archive.web.port),
            Listener(("archive", "dicom"), archive.dicom.host, archive.dicom.port),
        ]
    return ours


def is_loopback(host: str) -> bool:
    """Return whether a listener on `host` can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_archive(configuration: Configuration, archive_alone: bool) -> bool:
    return archive_alone or configuration.backup == "embedded"


def _upstream_problems(configuration: Configuration) -> Iterator[Finding]:
    if configuration.primary is None:
        yield ("primary",), "must be given: web, dicom or both"
    elif configuration.primary.web is None and configuration.primary.dicom is None:
        yield ("primary",), "must have web, dicom or both"
    backup = configuration.backup
    if isinstance(backup, Upstream) and backup.web is None and backup.dicom is None:
        yield ("backup",), "must have web, dicom or both"
    for path, upstream in _upstreams(configuration):
        web = upstream.web
        if web is not None and web.tls is not None and not web.url.startswith("https:"):
            yield (*path, "web", "tls"), f"needs an https URL, {path[0]}.web.url is {web.url}"
        for key, tls in _upstream_tls(upstream):
            if (tls.cert_file is None) != (tls.key_file is None):
                given, missing = ("cert_file", "key_file") if tls.cert_file else ("key_file", "cert_file")
                yield (*path, key, "tls", given), f"needs {missing} too"


def _upstreams(configuration: Configuration) -> Iterator[tuple[KeyPath, Upstream]]:
    for name, upstream in (("primary", configuration.primary), ("backup", configuration.backup)):
        if isinstance(upstream, Upstream):
            yield (name,), upstream


def _upstream_tls(upstream: Upstream) -> Iterator[tuple[str, UpstreamTls]]:
    for key, side in (("web", upstream.web), ("dicom", upstream.dicom)):
        if side is not None and side.tls is not None:
            yield key, side.tls


def _door_advice(configuration: Configuration) -> Iterator[Finding]:
    listen, access = configuration.listen.web, configuration.access.web
    if access is not None and access.oidc is not None:
        yield from _provider_advice(access.oidc)
    if access is None or access.password_file is None or is_loopback(listen.host):
        return
    if listen.tls is None and not listen.trusted_proxies:
        yield (
            ("access", "web", "password_file"),
            "without listen.web.tls passwords cross the network in the clear",
        )


def _provider_advice(oidc: Oidc) -> Iterator[Finding]:
    path = ("access", "web", "oidc")
    if oidc.groups is None:
        yield (*path, "groups"), "is not given: everyone with an account at the provider may see all images"
    public = urlsplit(oidc.public_url)
    if public.scheme == "http" and not is_loopback(public.hostname or ""):
        yield (*path, "public_url"), "is http: sessions cross the network in the clear"


def _tls_advice(configuration: Configuration) -> Iterator[Finding]:
    dicom = configuration.listen.dicom.tls
    if dicom is not None and dicom.client_ca_file is None:
        yield (
            ("listen", "dicom", "tls"),
            "without client_ca_file anyone who reaches the port may call: an AE title is no proof",
        )
    for path, upstream in _upstreams(configuration):
        for key, tls in _upstream_tls(upstream):
            if not tls.verify:
                yield (*path, key, "tls", "verify"), "is no: whoever answers there is believed"
                if tls.ca_file is not None:
                    yield (*path, key, "tls", "ca_file"), "is not looked at, verify is no"


def _router_doors(configuration: Configuration) -> Iterator[Finding]:
    listen, access = configuration.listen, configuration.access
    if not is_loopback(listen.admin.host) and listen.admin.token_file is None:
        yield ("listen", "admin", "host"), "beyond loopback needs listen.admin.token_file"
    if not is_loopback(listen.web.host) and access.web is None:
        yield ("listen", "web", "host"), "beyond loopback needs access.web: whom the archive may answer"
    if not is_loopback(listen.dicom.host) and access.dicom is None:
        yield ("listen", "dicom", "host"), "beyond loopback needs access.dicom (`any` must be written out)"
    yield from _empty_access(access, ("access",))
    if access.web is not None and access.web.remembered is not None:
        path = ("access", "web", "remembered")
        if configuration.primary is None or configuration.primary.web is None:
            yield path, "needs primary.web: it is its logins that are remembered"
        elif not access.web.remembered.paths and configuration.primary.dicomweb_path is None:
            yield path, "needs paths: the primary has no DICOMweb"

    if access.web is not None and access.web.oidc is not None:
        yield from _provider_problems(access.web.oidc)


def _provider_problems(oidc: Oidc) -> Iterator[Finding]:
    path = ("access", "web", "oidc")
    issuer = urlsplit(oidc.issuer)
    if issuer.scheme == "http" and not is_loopback(issuer.hostname or ""):
        yield (*path, "issuer"), "must be https: whoever sits in between could log in as anybody"
    if "openid" not in oidc.scopes:
        yield (*path, "scopes"), "must name openid, else there is no ID token (OpenID Connect Core 3.1.2.1)"
    if oidc.groups == []:
        yield (*path, "groups"), "names no group, so nobody could log in (left out: everyone)"
    if oidc.ca_file is not None and issuer.scheme == "http":
        yield (*path, "ca_file"), "needs an https issuer"


def _archive_doors(configuration: Configuration) -> Iterator[Finding]:
    archive = configuration.archive
    for key, host in (("web", archive.web.host), ("dicom", archive.dicom.host)):
        if not is_loopback(host) and archive.access is None:
            yield ("archive", key, "host"), "beyond loopback needs archive.access"
    if archive.access is not None:
        yield from _empty_access(archive.access, ("archive", "access"))


def _empty_access(access: Access | ArchiveAccess, path: KeyPath) -> Iterator[Finding]:
    if access.dicom == {}:
        yield (*path, "dicom"), "names no AE title, so nobody could connect (`any` must be written out)"
    elif isinstance(access.dicom, dict):
        for ae_title, networks in access.dicom.items():
            if not networks:
                yield (
                    (*path, "dicom", ae_title),
                    "has no network, so nobody could connect under this AE title",
                )


def _port_problems(ours: list[Listener]) -> Iterator[Finding]:
    for index, one in enumerate(ours):
        for other in ours[:index]:
            if one.port == other.port and _overlap(one.host, other.host):
                yield (*one.key, "port"), f"is the port of {'.'.join(other.key)} too: {one.port}"


def _overlap(one: str, other: str) -> bool:
    if one == other or one in _WILDCARDS or other in _WILDCARDS:
        return True
    return "localhost" in (one, other) and is_loopback(one) and is_loopback(other)


def _loops(configuration: Configuration) -> Iterator[Finding]:
    """A request that we send to ourselves would go round in a circle until nothing is left."""
    ours = listeners(configuration)
    seen: dict[tuple[str, int], KeyPath] = {}
    for name, upstream in (("primary", configuration.primary), ("backup", configuration.backup)):
        if not isinstance(upstream, Upstream):
            continue
        for key, host, port in _addresses(upstream):
            path = (name, *key)
            for own in ours:
                if port == own.port and _is_ours(host, own.host):
                    yield path, f"is our own {'.'.join(own.key)}"
            if (host, port) in seen:
                other = seen[host, port]
                two = "primary and backup must be two systems"
                if other[0] == name:
                    two = "one port speaks either HTTP or DICOM"
                yield path, f"is the address of {'.'.join(other)} too, {host}:{port}: {two}"
            seen[host, port] = path


def _addresses(upstream: Upstream) -> Iterator[tuple[KeyPath, str, int]]:
    if upstream.web is not None:
        parts = urlsplit(upstream.web.url)
        yield ("web", "url"), parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if upstream.dicom is not None:
        yield ("dicom", "port"), upstream.dicom.host, upstream.dicom.port


def _is_ours(host: str, listening: str) -> bool:
    # Another machine may well use the same port: only what is surely this machine counts.
    return host == listening or (is_loopback(host) and (is_loopback(listening) or listening in _WILDCARDS))


def _probe_problems(configuration: Configuration) -> Iterator[Finding]:
    probe, path = configuration.health.web, ("health", "web")
    if probe.status[0] > probe.status[1]:
        yield (*path, "status"), f"must be a range from low to high, is {probe.status[0]}-{probe.status[1]}"
    for key in ("body_pattern", "json_pointer"):
        if getattr(probe, key) is not None and probe.method != "GET":
            yield (*path, key), "needs method: GET, a body comes with nothing else"
    if probe.json_value is not None and probe.json_pointer is None:
        yield (*path, "json_value"), "needs json_pointer: where it should stand"
    if probe.json_pointer and not probe.json_pointer.startswith("/"):
        yield (*path, "json_pointer"), "must begin with / (RFC 6901)"


def _hedge_problems(configuration: Configuration) -> Iterator[Finding]:
    hedge = configuration.policy.hedge
    if hedge.after_min > hedge.after_max:
        yield ("policy", "hedge", "after_min"), "must not be longer than policy.hedge.after_max"
