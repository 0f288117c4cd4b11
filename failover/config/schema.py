"""The configuration as typed objects. Each field's description is its entry in the manual. Pure.

Each block has a module of its own; whoever wants one asks here. Durations are seconds (`float`), sizes bytes
(`int`), paths absolute. What several keys together make wrong, or unsafe, is in `checks`.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from failover.config.access import (
    Access,
    AccessWeb,
    Addresses,
    ArchiveAccess,
    DicomCallers,
    Oidc,
    Remembered,
)
from failover.config.archive import Archive, ArchiveDicom, ArchiveWeb, MoveDestination, Retention
from failover.config.blocks import LOOPBACK, Block, text_or_block
from failover.config.health import Health, HealthDicom, HttpProbe
from failover.config.listen import Listen, ListenAdmin, ListenDicom, ListenDicomTls, ListenTls, ListenWeb
from failover.config.policy import Hedge, Policy, Replication
from failover.config.scalars import FilePath, Text, shown
from failover.config.upstream import (
    Backup,
    Upstream,
    UpstreamDicom,
    UpstreamDicomweb,
    UpstreamTls,
    UpstreamWeb,
)

__all__ = [
    "LOOPBACK",
    "Access",
    "AccessWeb",
    "Addresses",
    "Archive",
    "ArchiveAccess",
    "ArchiveDicom",
    "ArchiveWeb",
    "Backup",
    "Block",
    "Configuration",
    "DicomCallers",
    "Health",
    "HealthDicom",
    "Hedge",
    "HttpProbe",
    "Listen",
    "ListenAdmin",
    "ListenDicom",
    "ListenDicomTls",
    "ListenTls",
    "ListenWeb",
    "MoveDestination",
    "Oidc",
    "Policy",
    "Remembered",
    "Replication",
    "Retention",
    "Upstream",
    "UpstreamDicom",
    "UpstreamDicomweb",
    "UpstreamTls",
    "UpstreamWeb",
]


def _backup(value: object) -> object:
    if isinstance(value, dict | Upstream):
        return value
    if str(value).strip() == "embedded":
        return "embedded"
    raise ValueError(f"must be embedded, or a block like primary, is {shown(value)}")


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
        Discriminator(text_or_block),
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
