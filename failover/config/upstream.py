"""A system that we route to: `primary` and a foreign `backup` of the configuration. Pure."""

from __future__ import annotations

from pydantic import Field

from failover.config.blocks import Block
from failover.config.scalars import Ae, Authority, FilePath, Host, Port, Truth, Url, UrlPath
from failover.model import Address, ClientTls, DicomPeer


class UpstreamTls(Block):
    """TLS towards an upstream: whom we believe, and the certificate that we show."""

    ca_file: FilePath | None = Field(
        None, description="PEM: issuers whom we believe; default: those of the system"
    )
    server_name: Host | None = Field(
        None, description="the name in its certificate; default: the host that we connect to"
    )
    verify: Truth = Field(
        True, description="`false`: whoever answers is believed, and an eavesdropper can be anyone"
    )
    cert_file: FilePath | None = Field(
        None, description="PEM: the certificate that we show, then its issuers; default: none"
    )
    key_file: FilePath | None = Field(None, description="PEM: its key, without a passphrase")

    @property
    def files(self) -> ClientTls:
        return ClientTls(self.ca_file, self.server_name, self.verify, self.cert_file, self.key_file)


class UpstreamWeb(Block):
    url: Url = Field(description="scheme, host and port; its URL space is the callers' URL space")
    names: list[Authority] = Field(
        default_factory=list,
        description="other names, with port where it is not the usual one, that stand in URLs it builds",
    )
    tls: UpstreamTls | None = Field(
        None, description="how an https URL is verified; default: by the system's issuers and the URL's host"
    )

    @property
    def client_tls(self) -> ClientTls | None:
        """How to speak TLS to it; None: it is plain HTTP."""
        if not self.url.startswith("https:"):
            return None
        return ClientTls() if self.tls is None else self.tls.files


class UpstreamDicomweb(Block):
    path: UrlPath | None = Field("/dicom-web", description="where DICOMweb lies in it; null: it has none")


class UpstreamDicom(Block):
    host: Host = Field(description="where it accepts associations")
    port: Port = Field(description="its TCP port")
    ae_title: Ae = Field(description="its AE title")
    tls: UpstreamTls | None = Field(
        None, description="it speaks DICOM TLS (PS3.15 B.12); `{}`: by the system's issuers; default: plain"
    )

    @property
    def peer(self) -> DicomPeer:
        tls = None if self.tls is None else self.tls.files
        return DicomPeer(Address(self.host, self.port), self.ae_title, tls)


class Upstream(Block):
    """A PACS: its web side, its DICOM side, or both. A service left out does not exist."""

    web: UpstreamWeb | None = Field(None, description="its web side; left out: it has none")
    dicomweb: UpstreamDicomweb = Field(default_factory=UpstreamDicomweb, description="its DICOMweb")
    dicom: UpstreamDicom | None = Field(None, description="its DICOM side; left out: it has none")

    @property
    def dicomweb_path(self) -> str | None:
        """The DICOMweb prefix, None when there is no DICOMweb or no web side at all."""
        return self.dicomweb.path if self.web is not None else None


class Backup(Upstream):
    """Any other PACS as backup."""

    pass_credentials: Truth = Field(
        False, description="whether it gets the Cookie and Authorization that callers show the primary"
    )
