"""The embedded archive: `archive` of the configuration. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from failover.config.access import ArchiveAccess
from failover.config.blocks import Block
from failover.config.scalars import Ae, Duration, FilePath, Host, Port, Size, Text, UrlPath, Whole
from failover.model import Address, AeTitle, DicomPeer


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
