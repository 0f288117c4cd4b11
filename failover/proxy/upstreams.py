"""What the proxy is told about an upstream: where it is, what it can do, never which product it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from failover.model import ClientTls, UpstreamName


@dataclass(frozen=True, slots=True)
class WebUpstream:
    """One upstream's web side."""

    name: UpstreamName
    host: str
    port: int
    tls: ClientTls | None = None
    """How it speaks TLS; None: plain HTTP."""
    dicomweb_path: str | None = "/dicom-web"
    """Where DICOMweb lies in it, e.g. `/dicom-web`; None: it has none."""
    takes_unsafe: bool = True
    """Whether requests that are neither safe nor STOW may be sent to it (the embedded archive: no)."""
    has_viewer: bool = False
    """Whether pages that it cannot serve are sent to our viewer below `/.failover/` by 302."""
    is_archive: bool = False
    """Whether it is our archive: it is told the callers' prefix, and gets DICOMweb and its pages alone."""
    pass_credentials: bool = False
    """Whether a foreign backup gets the Cookie and Authorization that callers show the primary."""
    names: tuple[str, ...] = ()
    """Other names (`host` or `host:port`, lower case) that stand in URLs which it builds."""
