"""Who may use router and archive: `access` and `archive.access` of the configuration. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from failover.config.blocks import LOOPBACK, Block, text_or_block
from failover.config.scalars import Ae, Duration, FilePath, Issuer, Net, Text, Url, UrlPath, shown


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


class Oidc(Block):
    """The identity provider whose users may log in (OpenID Connect Core 1.0: code flow with PKCE)."""

    issuer: Issuer = Field(
        description="its name, to the letter as it writes it in its tokens; https. What it can do is read at"
        " /.well-known/openid-configuration below it",
    )
    client_id: Text = Field(description="how the provider calls this router")
    client_secret_file: FilePath | None = Field(
        None,
        description="a file with the client's secret alone, for its owner alone, read at each login; default:"
        " a public client, which PKCE alone protects",
    )
    public_url: Url = Field(
        description="how browsers reach listen.web, such as https://pacs.example. The provider must know its"
        " /.failover/oidc/callback as redirect URI",
    )
    scopes: list[Text] = Field(
        default_factory=lambda: ["openid"],
        description="what is asked for: openid, and what makes the provider tell groups where it wants to be"
        " asked",
    )
    groups_claim: Text = Field(
        "groups", description="where the ID token tells groups; dots lead inwards, as in realm_access.roles"
    )
    groups: list[Text] | None = Field(
        None,
        description="members of one of these get in; default: everyone who has an account there",
    )
    ca_file: FilePath | None = Field(
        None, description="who vouches for the provider's certificate; default: the system's authorities"
    )

    @property
    def origin(self) -> str:
        """`public_url` as browsers write it: without the port that goes without saying."""
        scheme, _, authority = self.public_url.partition("://")
        usual = ":443" if scheme == "https" else ":80"
        return f"{scheme}://{authority.removesuffix(usual)}".lower()


class AccessWeb(Addresses):
    password_file: FilePath | None = Field(
        None,
        description="users who may log in below /.failover/login or by Basic; `failover password` writes it",
    )
    remembered: Remembered | None = Field(
        None, description="also those whom the primary let in; `{}`: with the defaults; default: nobody"
    )
    oidc: Oidc | None = Field(
        None, description="also those whom the hospital's identity provider knows; default: there is none"
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
