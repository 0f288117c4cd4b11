"""The PDUs of the DICOM upper layer as objects, field by field as PS3.8 section 9.3 and PS3.7 annex D. Pure.

How they become bytes and bytes become them is `pdu`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from failover.dicom.derived import Derived

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"

Buffer = bytes | bytearray | memoryview


class PduType(IntEnum):
    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class AbortSource(IntEnum):
    USER = 0
    PROVIDER = 2


class AbortReason(IntEnum):
    """PS3.8 9.3.8, for source 2 (service-provider)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """Presentation context item of an A-ASSOCIATE-RQ (PS3.8 9.3.2.2)."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


class ContextOutcome(IntEnum):
    """Result/reason of PS3.8 9.3.3.2."""

    ACCEPTED = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


@dataclass(frozen=True, slots=True)
class ContextResult:
    """Presentation context item of an A-ASSOCIATE-AC; the transfer syntax counts only when accepted."""

    context_id: int
    outcome: int
    transfer_syntax: str = ""

    @property
    def accepted(self) -> bool:
        return self.outcome == ContextOutcome.ACCEPTED


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """SCP/SCU role selection (PS3.7 D.3.3.4): in the RQ what is proposed, in the AC what is accepted."""

    sop_class: str
    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class ExtendedNegotiation:
    """SOP class extended negotiation (PS3.7 D.3.3.5); its content belongs to the service."""

    sop_class: str
    content: bytes


@dataclass(frozen=True, slots=True)
class CommonExtendedNegotiation:
    """SOP class common extended negotiation (PS3.7 D.3.3.6); only in an RQ, kept as its bytes."""

    version: int
    content: bytes


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """User identity (PS3.7 D.3.3.7). Secrets: never logged, hence not in the repr."""

    kind: int
    response_requested: bool
    primary: bytes = field(repr=False)
    secondary: bytes = field(repr=False, default=b"")


@dataclass(frozen=True, slots=True)
class UserInformation:
    """User information item (PS3.8 9.3.2.3 and PS3.7 annex D). `max_pdu_bytes` 0: no limit."""

    max_pdu_bytes: int = 0
    implementation_class_uid: str = ""
    implementation_version: str = ""
    async_window: tuple[int, int] | None = None
    roles: tuple[RoleSelection, ...] = ()
    extended: tuple[ExtendedNegotiation, ...] = ()
    common_extended: tuple[CommonExtendedNegotiation, ...] = ()
    identity: UserIdentity | None = None
    identity_response: bytes | None = None


def padded_ae(title: str) -> bytes:
    """Return an AE title as its field of 16 bytes (PS3.8 9.3.2: padded with spaces)."""
    return title.encode("ascii", "replace")[:16].ljust(16)


def _ae_text(raw: bytes) -> str:
    # PS3.8 9.3.2: leading and trailing spaces are not significant; NUL padding is wrong and common.
    return raw.decode("latin-1").strip(" \0")


@dataclass(frozen=True, slots=True)
class AssociateRq:
    """A-ASSOCIATE-RQ. The AE titles are kept as their 16 bytes: the AC has to return them."""

    called_bytes: bytes
    calling_bytes: bytes
    contexts: tuple[ProposedContext, ...]
    user: UserInformation
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1
    derived: Derived | None = field(init=False, default=None, compare=False, repr=False)  # see `comes_again`

    @property
    def called_ae(self) -> str:
        return _ae_text(self.called_bytes)

    @property
    def calling_ae(self) -> str:
        return _ae_text(self.calling_bytes)


@dataclass(frozen=True, slots=True)
class AssociateAc:
    """A-ASSOCIATE-AC. Its AE title fields are the RQ's, sent back byte by byte (PS3.8 9.3.3)."""

    called_bytes: bytes
    calling_bytes: bytes
    contexts: tuple[ContextResult, ...]
    user: UserInformation
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1
    derived: Derived | None = field(init=False, default=None, compare=False, repr=False)  # see `comes_again`


def comes_again(pdu: AssociateRq | AssociateAc) -> None:
    """Let what is worked out from `pdu` be kept with it. A changed copy (`replace`) begins anew."""
    object.__setattr__(pdu, "derived", Derived())


@dataclass(frozen=True, slots=True)
class AssociateRj:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4). `result` 1: permanent, 2: transient."""

    result: int
    source: int
    reason: int


# The next two are made for each command set: frozen they cost three times as much to make.
@dataclass(slots=True)
class Pdv:
    """One presentation data value: a fragment of a command set or of a data set."""

    context_id: int
    is_command: bool
    is_last: bool
    fragment: Buffer


@dataclass(slots=True)
class PDataTf:
    pdvs: tuple[Pdv, ...]


class DataRun:
    """P-DATA-TFs that came together: each has one fragment of a data set and nothing else, all are of one
    presentation context, and only the last one may end the data set. What instances consist of.

    `framed` has them as they came, `pieces` are the fragments in it, of `size` bytes together and `longest`
    at most.
    """

    __slots__ = ("context_id", "framed", "is_last", "longest", "pieces", "size")

    def __init__(
        self,
        context_id: int,
        framed: Buffer,
        pieces: list[memoryview],
        size: int,
        longest: int,
        is_last: bool,
    ) -> None:
        self.context_id = context_id
        self.framed = framed
        self.pieces = pieces
        self.size = size
        self.longest = longest
        self.is_last = is_last

    def singly(self) -> list[PDataTf]:
        """Return the same PDUs one by one."""
        last = len(self.pieces) - 1
        return [
            PDataTf((Pdv(self.context_id, False, self.is_last and place == last, piece),))
            for place, piece in enumerate(self.pieces)
        ]


@dataclass(frozen=True, slots=True)
class ReleaseRq:
    pass


@dataclass(frozen=True, slots=True)
class ReleaseRp:
    pass


@dataclass(frozen=True, slots=True)
class Abort:
    source: int = AbortSource.USER
    reason: int = AbortReason.NOT_SPECIFIED


Pdu = AssociateRq | AssociateAc | AssociateRj | PDataTf | DataRun | ReleaseRq | ReleaseRp | Abort
