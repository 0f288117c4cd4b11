"""The router's listeners: `listen` of the configuration. Pure."""

from __future__ import annotations

from pydantic import Field

from failover.config.blocks import Block
from failover.config.scalars import Ae, Duration, FilePath, Host, Net, Port, Size, Whole
from failover.model import AeTitle, ServerTls


class ListenTls(Block):
    """TLS on a listener (RFC 9325): nothing plain is answered on its port any more."""

    cert_file: FilePath = Field(
        description="PEM: our certificate, then its issuers; replaced while we run, it serves new connections"
    )
    key_file: FilePath = Field(description="PEM: its key, without a passphrase, readable by us alone")
    client_ca_file: FilePath | None = Field(
        None, description="PEM: callers must show a certificate of these issuers; default: they need none"
    )

    @property
    def files(self) -> ServerTls:
        return ServerTls(self.cert_file, self.key_file, self.client_ca_file)


class ListenDicomTls(ListenTls):
    """DICOM TLS (PS3.15 B.12)."""

    port: Port | None = Field(
        None,
        description="a TCP port of its own, 2762 by custom, beside the plain one; "
        "default: listen.dicom.port speaks TLS and nothing plain is left",
    )


class ListenWeb(Block):
    host: Host = Field(
        "127.0.0.1", description="address on which browsers, viewers and DICOMweb callers connect"
    )
    port: Port = Field(8080, description="its TCP port")
    workers: Whole = Field(
        1,
        ge=1,
        le=64,
        description="processes that answer on this port; one serves until its processor is the limit",
    )
    max_connections: Whole = Field(
        4096, ge=1, description="connections of callers open at once; more wait in the backlog"
    )
    max_per_address: Whole = Field(
        2048,
        ge=1,
        description="of these, from one address (one /64 of IPv6), trusted_proxies not counted; more get 503",
    )
    reserve: Whole = Field(
        128,
        ge=0,
        description="of these, kept for trusted_proxies and the addresses of access.web, at most an eighth; "
        "others then get 503",
    )
    head_timeout: Duration = Field(
        30.0, gt=0, description="how long a caller may take to send a request's head"
    )
    body_idle: Duration = Field(30.0, gt=0, description="how long a body may pause, in either direction")
    answer_timeout: Duration = Field(
        300.0, gt=0, description="how long an upstream that is up may take until its answer begins"
    )
    keep_alive: Duration = Field(75.0, gt=0, description="how long an idle connection of a caller stays open")
    max_head_bytes: Size = Field(65536, ge=1024, description="longest head of a request or answer")
    spool_memory: Size = Field(
        64 * 2**20, ge=0, description="memory for bodies of stores that are kept until they are answered"
    )
    spool_disk: Size = Field(
        8 * 2**30,
        ge=0,
        description="disk below state_dir for bodies that are larger; beyond it they go on unprotected",
    )
    access_log: Whole = Field(
        1, ge=0, description="write a line for each n-th request, and for all that failed; 0: for none"
    )
    trusted_proxies: list[Net] = Field(
        default_factory=list,
        description="peers whose X-Forwarded-For, -Host and -Proto are believed; where none of these came, "
        "their Forwarded",
    )
    tls: ListenTls | None = Field(None, description="TLS for callers; default: plain HTTP")


class ListenDicom(Block):
    host: Host = Field(
        "127.0.0.1", description="address on which modalities and workstations open associations"
    )
    port: Port = Field(11112, description="its TCP port")
    ae_title: Ae = Field(AeTitle("PACS"), description="the one AE title that everyone knows")
    max_associations: Whole = Field(200, ge=1, description="associations open at once")
    max_per_address: Whole = Field(50, ge=1, description="of these, from one address")
    max_per_ae_title: Whole = Field(50, ge=1, description="of these, by one calling AE title")
    reserve: Whole = Field(10, ge=0, description="places kept for AE titles named in access.dicom")
    artim: Duration = Field(
        10.0, gt=0, le=10, description="PS3.8 9.1.5: how long the A-ASSOCIATE-RQ may take"
    )
    idle_timeout: Duration = Field(
        600.0, gt=0, description="an association without a byte for so long is released"
    )
    max_pdu_bytes: Size = Field(
        65536, ge=4096, description="longest P-DATA-TF PDU that we accept (PS3.8 D.1)"
    )
    tls: ListenDicomTls | None = Field(
        None, description="DICOM TLS for callers (PS3.15 B.12); default: plain alone"
    )


class ListenAdmin(Block):
    host: Host = Field("127.0.0.1", description="address of the status page, the API and /metrics")
    port: Port = Field(9470, description="its TCP port")
    token_file: FilePath | None = Field(
        None, description="file with one `name token` per line; needed when host is beyond loopback"
    )
    hosts: list[Host] = Field(
        default_factory=list,
        description="names, besides addresses and localhost, that a Host header may hold",
    )
    tls: ListenTls | None = Field(None, description="TLS for page, API and metrics; default: plain HTTP")


class Listen(Block):
    web: ListenWeb = Field(default_factory=ListenWeb, description="the HTTP proxy")
    dicom: ListenDicom = Field(default_factory=ListenDicom, description="the DICOM relay")
    admin: ListenAdmin = Field(default_factory=ListenAdmin, description="status page, API, metrics")
