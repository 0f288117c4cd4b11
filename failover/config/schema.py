"""The configuration as typed objects. Each field's description is its entry in the manual. Pure.

Durations are seconds (`float`), sizes bytes (`int`), paths absolute. What several keys together make wrong,
or unsafe, is in `checks`.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from failover.config.scalars import (
    Ae,
    Authority,
    Duration,
    FilePath,
    Host,
    Net,
    Pattern,
    Port,
    Size,
    Text,
    Truth,
    Url,
    UrlPath,
    Whole,
    parse_network,
    shown,
)
from failover.model import Address, AeTitle, ClientTls, DicomPeer, ServerTls

LOOPBACK = [parse_network("127.0.0.0/8"), parse_network("::1")]


class Block(BaseModel):
    """One mapping of the file: unknown keys are refused, nothing changes after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def _text_or_block(value: object) -> str:
    return "text" if isinstance(value, str) else "block"


# -- TLS --------------------------------------------------------------------------------------------


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


# -- listen -----------------------------------------------------------------------------------------


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
        10.0, gt=0, le=30, description="PS3.8 9.1.5: how long the A-ASSOCIATE-RQ may take"
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


# -- access -----------------------------------------------------------------------------------------


class Addresses(Block):
    addresses: list[Net] = Field(
        default_factory=lambda: list(LOOPBACK),
        description="callers whom the archive answers: addresses and networks",
    )


class Remembered(Block):
    """Who showed a cookie or `Authorization` that the primary accepted (kept as a keyed hash)."""

    paths: list[UrlPath] | None = Field(
        None,
        description="where a 2xx of the primary counts: searches below its DICOMweb prefix, exactly this "
        "path for any other; default: its DICOMweb prefix. It must refuse strangers there with 401 or 403",
    )
    hold: Duration = Field(43200.0, gt=0, le=86400, description="how long after the primary last accepted it")


class AccessWeb(Addresses):
    password_file: FilePath | None = Field(
        None,
        description="users who may log in below /.failover/login or by Basic; `failover password` writes it",
    )
    remembered: Remembered | None = Field(
        None, description="also those whom the primary let in; `{}`: with the defaults; default: nobody"
    )


def _dicom_callers(value: object) -> object:
    if isinstance(value, dict):
        return value
    if str(value).strip() == "any":
        return "any"
    raise ValueError(
        f"must be any, or AE titles with their networks such as {{CT1: [10.1.2.0/24]}}, is {shown(value)}"
    )


DicomCallers = Annotated[
    Annotated[Literal["any"], Tag("text")] | Annotated[dict[Ae, list[Net]], Tag("block")],
    Discriminator(_text_or_block),
    BeforeValidator(_dicom_callers),
]


class ArchiveAccess(Block):
    web: Addresses | None = Field(None, description="callers of its web port; default: loopback")
    dicom: DicomCallers | None = Field(
        None,
        description="any, or calling AE titles with the networks they may come from; default: any (loopback)",
    )


class Access(Block):
    web: AccessWeb | None = Field(
        None, description="whom the backup answers through the router; default: loopback"
    )
    dicom: DicomCallers | None = Field(
        None,
        description="any, or calling AE titles with the networks they may come from; default: any (loopback)",
    )


# -- upstreams --------------------------------------------------------------------------------------


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


def _backup(value: object) -> object:
    if isinstance(value, dict | Upstream):
        return value
    if str(value).strip() == "embedded":
        return "embedded"
    raise ValueError(f"must be embedded, or a block like primary, is {shown(value)}")


# -- archive ----------------------------------------------------------------------------------------


class ArchiveWeb(Block):
    host: Host = Field("127.0.0.1", description="address of the archive's own DICOMweb and viewer")
    port: Port = Field(8043, description="its TCP port")
    dicomweb_path: UrlPath = Field("/dicom-web", description="where DICOMweb lies in it")
    max_store_bytes: Size = Field(
        16 * 2**30,
        ge=1,
        description="largest body of one STOW request; more is refused with 413",
    )


class ArchiveDicom(Block):
    host: Host = Field("127.0.0.1", description="address on which the archive accepts associations")
    port: Port = Field(11113, description="its TCP port")
    ae_title: Ae = Field(AeTitle("MINIPACS"), description="its AE title")

    @property
    def peer(self) -> DicomPeer:
        return DicomPeer(Address(self.host, self.port), self.ae_title)


class Retention(Block):
    days: Whole = Field(90, ge=1, description="how long studies stay")
    max_bytes: Size = Field(1_200_000_000_000, ge=1, description="how much the archive may hold")
    min_free_bytes: Size = Field(
        1_000_000_000,
        ge=0,
        description="free space kept on the disk for routing state and ledger; below it stores are refused",
    )


class MoveDestination(Block):
    host: Host = Field(description="where the destination accepts associations")
    port: Port = Field(description="its TCP port")


class Archive(Block):
    data_dir: FilePath = Field(
        Path("./data/archive"),
        validate_default=True,
        description="its instances and index; default: the folder `archive` in state_dir",
    )
    web: ArchiveWeb = Field(default_factory=ArchiveWeb, description="its own web listener")
    dicom: ArchiveDicom = Field(default_factory=ArchiveDicom, description="its own DICOM listener")
    access: ArchiveAccess | None = Field(None, description="who may use its own two ports; default: loopback")
    retention: Retention = Field(default_factory=Retention, description="how long, and how much")
    compression: Literal["none", "jpeg-lossless", "jpeg-ls", "htj2k"] = Field(
        "jpeg-lossless", description="how proven instances are compressed in the background (.70, .80, .201)"
    )
    compression_by_modality: dict[Text, Literal["none", "jpeg-lossless", "jpeg-ls", "htj2k"]] = Field(
        default_factory=dict,
        description="other choices for single modalities, such as `{MG: jpeg-ls, US: none}`",
    )
    scrub: Duration = Field(
        2592000.0,
        ge=0,
        description="within this time every object is read again and compared with its digest; `0s`: never",
    )
    outside_window: Literal["fail", "success"] = Field(
        "fail",
        description="a search through the router that could match outside the window and matches nothing",
    )
    commitment: Literal["primary", "archive"] = Field(
        "primary", description="who must hold the objects before storage commitment is granted"
    )
    commitment_wait: Duration = Field(
        43200.0,
        gt=0,
        description="how long a commitment waits for its objects to be proven on the primary; what is not by "
        "then is reported as failed. A report goes to the address of its modality in `move_destinations`",
    )
    move_destinations: dict[Ae, MoveDestination] = Field(
        default_factory=dict, description="AE titles to which C-MOVE may send; none by default"
    )


# -- health, policy, replication --------------------------------------------------------------------


class HealthDicom(Block):
    interval: Duration = Field(5.0, gt=0, description="in calm: a fresh association with C-ECHO each time")
    timeout: Duration = Field(3.0, gt=0, description="how long association and answer may take")


def _statuses(value: object) -> object:
    if isinstance(value, tuple):
        return value
    match = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", str(value).strip())
    if match is None:
        raise ValueError(f"must be a status or a range such as 200 or 200-399, is {shown(value)}")
    return int(match[1]), int(match[2] or match[1])


class HttpProbe(Block):
    """The probe of the web side's reach."""

    method: Literal["HEAD", "GET", "tcp"] = Field("HEAD", description="`tcp`: opening a connection is enough")
    path: str = Field("/", pattern=r"^/[!-~]*$", description="what is asked for")
    status: Annotated[tuple[int, int], BeforeValidator(_statuses)] = Field(
        (200, 499), description="statuses that pass: one, or a range"
    )
    body_pattern: Pattern | None = Field(
        None, description="regular expression that the body must contain (GET)"
    )
    json_pointer: str | None = Field(None, description="RFC 6901 pointer into a JSON body (GET)")
    json_value: str | None = Field(None, description="what must stand there, as text")
    slower_than: Duration | None = Field(None, description="an answer slower than this is a failure")


class Health(Block):
    interval: Duration = Field(1.0, gt=0, description="HTTP probes, in calm")
    fast_interval: Duration = Field(0.2, gt=0, description="every probe, while in doubt")
    timeout: Duration = Field(0.4, gt=0, description="how long an HTTP probe may take")
    dicom: HealthDicom = Field(default_factory=HealthDicom, description="the C-ECHO probe")
    rise: Whole = Field(3, ge=1, description="good probes in a row, of each part, that end `down`")
    fall: Whole = Field(2, ge=1, description="failed probes in a row that make `suspect`")
    web: HttpProbe = Field(default_factory=HttpProbe, description="the HTTP probe")
    search: Truth = Field(True, description="search for a study known to be there")
    search_interval: Duration = Field(10.0, gt=0, description="how often, in calm")
    frame: Truth = Field(True, description="fetch one frame")
    frame_interval: Duration = Field(60.0, gt=0, description="how often, in calm")


class Hedge(Block):
    """A slow read of one instance, asked of the backup too while the primary is up."""

    enabled: Truth = Field(True, description="`false`: while the primary is up, it alone answers slow reads")
    after_min: Duration = Field(0.25, gt=0, description="never before so long without an answer")
    after_max: Duration = Field(
        2.0,
        gt=0,
        description="at the latest after so long; between the two, what is usual for the kind of read",
    )


class Policy(Block):
    fail_after: Duration = Field(5.0, gt=0, description="`suspect` without a break for so long is `down`")
    failback: Literal["auto", "manual"] = Field("auto", description="who begins the way back")
    hold_down: Duration = Field(
        60.0,
        ge=0,
        description="how long the primary must be up without a suspicion before the way back begins",
    )
    together: Truth = Field(
        True, description="web and DICOM move together when both services of the backup are up"
    )
    refused_hold: Duration = Field(
        3600.0, ge=0, description="how long refused objects hold up an automatic failback"
    )
    hedge: Hedge = Field(
        default_factory=Hedge, description="a slow read of one instance, asked of the backup too"
    )


class Replication(Block):
    poll_every: Duration = Field(10.0, gt=0, description="how often new and changed studies are looked for")
    window_days: Whole | None = Field(None, ge=1, description="how far back; default: archive.retention.days")
    recheck: Duration = Field(
        604800.0, ge=0, description="after an outage, objects younger than this are asked for again"
    )
    tee: Truth = Field(True, description="a copy of each store on its way to the primary")


# -- the whole --------------------------------------------------------------------------------------


class Configuration(Block):
    site: Text = Field(
        default_factory=socket.gethostname, max_length=64, description="this site's name; default: the host's"
    )
    state_dir: FilePath = Field(
        Path("./data"), validate_default=True, description="routing state, audit trail, inventory"
    )
    listen: Listen = Field(default_factory=Listen, description="where the router listens")
    access: Access = Field(default_factory=Access, description="who may use the router")
    primary: Upstream | None = Field(
        None, description="the hospital's PACS; only `failover archive` can do without"
    )
    backup: Annotated[
        Annotated[Literal["embedded"], Tag("text")] | Annotated[Backup, Tag("block")],
        Discriminator(_text_or_block),
        BeforeValidator(_backup),
    ] = Field("embedded", description="embedded, or a block like primary: any other PACS")
    archive: Archive = Field(default_factory=Archive, description="the embedded archive")
    health: Health = Field(default_factory=Health, description="which probes, how often, how strict")
    policy: Policy = Field(default_factory=Policy, description="when to move, and when to return")
    replication: Replication = Field(
        default_factory=Replication, description="filling the archive, paying its debt"
    )

    @model_validator(mode="before")
    @classmethod
    def _put_the_archive_below_state_dir(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        archive, state_dir = given.get("archive", {}), given.get("state_dir", "./data")
        if not isinstance(archive, dict) or "data_dir" in archive or not isinstance(state_dir, str | Path):
            return given
        return {**given, "archive": {**archive, "data_dir": Path(state_dir, "archive")}}

    @property
    def backup_upstream(self) -> Upstream:
        """The backup as an upstream, whichever it is."""
        if isinstance(self.backup, Upstream):
            return self.backup
        web, dicom = self.archive.web, self.archive.dicom
        host = f"[{web.host}]" if ":" in web.host else web.host
        return Upstream(
            web=UpstreamWeb(url=f"http://{host}:{web.port}"),
            dicomweb=UpstreamDicomweb(path=web.dicomweb_path),
            dicom=UpstreamDicom(host=dicom.host, port=dicom.port, ae_title=dicom.ae_title),
        )

    @property
    def window_days(self) -> int:
        return self.replication.window_days or self.archive.retention.days
