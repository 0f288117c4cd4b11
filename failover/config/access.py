"""Who may use router and archive: `access` and `archive.access` of the configuration. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from failover.config.blocks import LOOPBACK, Block, text_or_block
from failover.config.scalars import Ae, Duration, FilePath, Net, UrlPath, shown


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
    Discriminator(text_or_block),
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
