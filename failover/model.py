"""The words of docs/words.md as types: upstreams, services, verdicts, modes, phases, names, keys. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final, NewType


class UpstreamName(StrEnum):
    """A system that we route to."""

    PRIMARY = "primary"
    BACKUP = "backup"

    @property
    def other(self) -> UpstreamName:
        return UpstreamName.BACKUP if self is UpstreamName.PRIMARY else UpstreamName.PRIMARY


class Service(StrEnum):
    WEB = "web"
    DICOM = "dicom"


class Part(StrEnum):
    """What is judged separately inside; outside a service is up when each part it uses is up."""

    REACH = "reach"  # it accepts and answers: HEAD, C-ECHO
    QUERY = "query"  # a search finds what is known to be there
    RETRIEVE = "retrieve"  # a frame arrives
    STORE = "store"  # judged from stores alone; it has no probe


class Verdict(StrEnum):
    """Observed health. None stands for "not known yet" and for "this service does not exist"."""

    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"


class Mode(StrEnum):
    """What the operator wants."""

    AUTO = "auto"
    FORCED = "forced"
    DRAIN = "drain"
    PAUSED = "paused"


class Phase(StrEnum):
    """Where routing is. `on_backup` and `failing_back` together are backup mode."""

    ON_PRIMARY = "on_primary"
    ON_BACKUP = "on_backup"
    FAILING_BACK = "failing_back"


class Origin(StrEnum):
    """How an instance came into the archive. Only `CALLER` and `IMPORTED` make it owed."""

    CALLER = "caller"  # through the router or straight to the archive's own listener
    IMPORTED = "imported"  # `failover import`
    REPLICATED = "replicated"  # fetched from the primary
    COPIED = "copied"  # the copy on the way: the primary acknowledged it too


class DebtState(StrEnum):
    """What the ledger says of an instance."""

    NONE = "none"  # never owed: it came from the primary
    OWED = "owed"  # not yet sent
    SENT = "sent"  # sent, not yet proven
    PROVEN = "proven"  # the primary has shown it, under the same study and patient ID
    REFUSED = "refused"  # three permanent refusals while the primary took others, or lost here (`LOST`)
    DELETED = "deleted"  # deleted on the primary: hidden, never sent back, evicted without a proof


# The status of what is refused because its file is damaged or gone; DICOM's have 16 bits.
LOST: Final = 0x10000


AeTitle = NewType("AeTitle", str)
_AE_FORBIDDEN: Final = re.compile(r"[\\\x00-\x1f\x7f-\U0010ffff]")


def parse_ae_title(text: str) -> AeTitle:
    """Return `text` without its padding. Raises ValueError where PS3.5 6.2 (VR AE) is broken.

    1 to 16 characters of the default repertoire, no backslash, no control character; leading and
    trailing spaces are not significant.
    """
    stripped = text.strip(" ")
    if not 1 <= len(stripped) <= 16:
        raise ValueError(f"must have 1 to 16 characters, has {len(stripped)}")
    if _AE_FORBIDDEN.search(stripped):
        raise ValueError("must be ASCII without backslash and control characters")
    return AeTitle(stripped)


Uid = NewType("Uid", str)
_UID: Final = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_UID_LENIENT: Final = re.compile(r"[0-9]+(\.[0-9]+)*")


@lru_cache(maxsize=4096)  # the same few for each slice of a study
def parse_uid(text: str) -> Uid:
    """Return a UID without its padding. Raises ValueError (PS3.5 9.1: digits and dots, at most 64).

    Components with leading zeros are against the standard and common in the field: they are accepted.
    """
    stripped = text.rstrip("\0 ")
    if len(stripped) > 64 or not _UID_LENIENT.fullmatch(stripped):
        raise ValueError("not a UID: digits and dots, at most 64 characters")
    return Uid(stripped)


@dataclass(frozen=True, slots=True, order=True)
class InstanceKey:
    """The three levels of one instance."""

    study_instance_uid: Uid
    series_instance_uid: Uid
    sop_instance_uid: Uid


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The files of a listener that speaks TLS. `client_ca_file`: who must have issued the callers' own."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        given = (self.cert_file, self.key_file, self.client_ca_file)
        return tuple(path for path in given if path is not None)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How we speak TLS to an upstream: whom we believe, and the certificate that we show."""

    ca_file: Path | None = None  # None: the certificate authorities of the system
    server_name: str | None = None  # None: the host that is connected to
    verify: bool = True
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        given = (self.ca_file, self.cert_file, self.key_file)
        return tuple(path for path in given if path is not None)

    def name_for(self, host: str) -> str:
        """The name that the certificate of `host` must have."""
        return self.server_name or host


@dataclass(frozen=True, slots=True)
class DicomPeer:
    """Where a DICOM application entity listens, its name there, and TLS where it speaks it."""

    address: Address
    ae_title: AeTitle
    tls: ClientTls | None = None
