"""The PDUs of the DICOM upper layer (PS3.8 section 9.3): from bytes to objects. Pure.

`PduReader` checks type and length of a PDU before it keeps a byte of its body, so a peer cannot make us
buffer more than it may send. What a PDU means in which state is `association`; what is agreed, `negotiation`;
how they become bytes, `encoding`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from failover.dicom.encoding import encode, fragments, p_data_header
from failover.dicom.units import (
    APPLICATION_CONTEXT,
    Abort,
    AbortReason,
    AbortSource,
    AssociateAc,
    AssociateRj,
    AssociateRq,
    Buffer,
    CommonExtendedNegotiation,
    ContextOutcome,
    ContextResult,
    DataRun,
    ExtendedNegotiation,
    PDataTf,
    Pdu,
    PduType,
    Pdv,
    ProposedContext,
    ReleaseRp,
    ReleaseRq,
    RoleSelection,
    UserIdentity,
    UserInformation,
    padded_ae,
)
from failover.errors import MalformedPdu

__all__ = [
    "APPLICATION_CONTEXT",
    "LEAST_IN_RUN_BYTES",
    "MAX_ASSOCIATE_BYTES",
    "PDV_HEADER_BYTES",
    "Abort",
    "AbortReason",
    "AbortSource",
    "AssociateAc",
    "AssociateRj",
    "AssociateRq",
    "Buffer",
    "CommonExtendedNegotiation",
    "ContextOutcome",
    "ContextResult",
    "DataRun",
    "ExtendedNegotiation",
    "PDataTf",
    "Pdu",
    "PduReader",
    "PduType",
    "Pdv",
    "ProposedContext",
    "ReleaseRp",
    "ReleaseRq",
    "RoleSelection",
    "UserIdentity",
    "UserInformation",
    "encode",
    "fragments",
    "p_data_header",
    "padded_ae",
]

MAX_ASSOCIATE_BYTES: Final = 256 * 1024  # a legal RQ of 128 contexts x 45 transfer syntaxes has 157,700
_KEPT, _KEPT_BYTES = 128, 8192  # how many decoded RQs and ACs are kept, and how long ones
PDV_HEADER_BYTES: Final = 6  # length, context ID, message control header (PS3.8 9.3.5.1)
# Shorter fragments are no part of a run: whoever keeps one keeps the bytes of all.
LEAST_IN_RUN_BYTES: Final = 1024
_P_DATA_HEADER: Final = struct.Struct(">BBIIBB")  # of a P-DATA-TF and its first PDV item


class PduReader:
    """Cuts a byte stream into PDUs. After it has raised, it is to be thrown away."""

    def __init__(self, max_pdu_bytes: int, max_associate_bytes: int = MAX_ASSOCIATE_BYTES) -> None:
        self._max_p_data = max_pdu_bytes
        self._max_associate = max_associate_bytes
        self._kept = bytearray()
        self._needed = 6  # bytes until the next step: a header, or a whole PDU

    @property
    def held_bytes(self) -> int:
        """How many bytes of an unfinished PDU are kept."""
        return len(self._kept)

    def receive_data(self, data: Buffer) -> Iterator[Pdu]:
        """Yield each PDU now complete and keep the rest; `data` may be reused afterwards. To be exhausted.

        Raises MalformedPdu with the reason for the A-ABORT, after the PDUs before it: at an unknown type or
        a length beyond the limit before anything of that PDU's body is waited for.
        """
        view = memoryview(data)
        if self._kept:
            missing = self._needed - len(self._kept)
            self._kept += view[:missing]
            view = view[missing:]
            if len(self._kept) < self._needed:
                _check_start(self._kept)
                return
            if self._needed == 6:  # the header alone: now we know how long the PDU is
                length = int.from_bytes(self._kept[2:6], "big")
                self._check(self._kept[0], length)
                self._needed = 6 + length
                self._kept += view[:length]
                view = view[length:]
                if len(self._kept) < self._needed:
                    return
            whole, self._kept, self._needed = self._kept, bytearray(), 6
            run = self._run(whole, 0, len(whole))
            yield _decode(whole[0], memoryview(whole)[6:]) if run is None else run
        at, end = 0, len(view)
        while end - at >= 6:
            run = self._run(view, at, end)
            if run is not None:
                at += len(run.framed)
                yield run
                continue
            kind, length = view[at], int.from_bytes(view[at + 2 : at + 6], "big")
            self._check(kind, length)
            after = at + 6 + length
            if after > end:
                self._needed = 6 + length
                break
            yield _decode(kind, bytes(view[at + 6 : after]))  # the one copy: `data` will be reused
            at = after
        if at < end:
            self._kept += view[at:]
            _check_start(self._kept)

    def _run(self, view: bytearray | memoryview, first: int, end: int) -> DataRun | None:
        """Return the run that begins at `first`, None when there is none: then PDU by PDU.

        What is out of the ordinary, or wrong, ends a run before it: it is judged where it stands alone.
        """
        at, longest, context, is_last = first, 0, 0, False
        spans: list[tuple[int, int]] = []
        while end - at >= 12 and not is_last:
            kind, reserved, length, item, context_id, control = _P_DATA_HEADER.unpack_from(view, at)
            if kind != 4 or reserved or length != item + 4 or (control and control != 2):
                break
            size: int = item - 2
            if size < LEAST_IN_RUN_BYTES or length > self._max_p_data or length > end - at - 6:
                break
            if spans:
                if context_id != context:
                    break
            elif context_id & 1:
                context = context_id
            else:
                break
            start = at + 12 - first
            spans.append((start, start + size))
            longest = max(longest, size)
            is_last = control == 2
            at += 12 + size
        if not spans:
            return None
        # The one copy: what was read will be written over. What was kept of several reads is whole, and ours.
        framed = view if isinstance(view, bytearray) else bytes(view[first:at])
        inside = memoryview(framed)
        pieces = [inside[start:stop] for start, stop in spans]
        return DataRun(context, framed, pieces, at - first - 12 * len(pieces), longest, is_last)

    def _check(self, kind: int, length: int) -> None:
        _check_type(kind)
        if kind == PduType.P_DATA_TF:
            limit = self._max_p_data
        elif kind in (PduType.ASSOCIATE_RQ, PduType.ASSOCIATE_AC):
            limit = self._max_associate
        else:
            limit = 4
            if length != 4:
                raise MalformedPdu(f"length {length} where 4 is fixed", reason=AbortReason.INVALID_PARAMETER)
        if length > limit:
            raise MalformedPdu(
                f"length {length} of PDU type {kind} is beyond {limit}", reason=AbortReason.INVALID_PARAMETER
            )


def _check_start(head: bytearray) -> None:
    if head:
        _check_type(head[0])


def _check_type(kind: int) -> None:
    if not 1 <= kind <= 7:
        raise MalformedPdu(f"PDU type {kind:#04x}", reason=AbortReason.UNRECOGNIZED_PDU)


# -- decoding ---------------------------------------------------------------------------------------


def _invalid(message: str) -> MalformedPdu:
    return MalformedPdu(message, reason=AbortReason.INVALID_PARAMETER)


def _decode(kind: int, body: Buffer) -> Pdu:
    if kind == PduType.P_DATA_TF:
        return _decode_p_data(body)
    body = bytes(body)
    if kind in (PduType.ASSOCIATE_RQ, PduType.ASSOCIATE_AC):
        return _decode_associate(kind, body)
    if kind == PduType.ASSOCIATE_RJ:
        return AssociateRj(body[1], body[2], body[3])
    if kind == PduType.RELEASE_RQ:
        return ReleaseRq()
    if kind == PduType.RELEASE_RP:
        return ReleaseRp()
    return Abort(body[2], body[3])


def _decode_p_data(body: Buffer) -> PDataTf:
    pdvs: list[Pdv] = []
    view = memoryview(body)
    at, whole = 0, len(body)
    while at < whole:
        if whole - at < PDV_HEADER_BYTES:
            raise _invalid("a PDV item without its header")
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 4 + length
        if length < 2 or end > whole:
            raise _invalid("the length of a PDV item does not fit its PDU")
        context_id, control = body[at + 4], body[at + 5]
        if context_id % 2 == 0:
            raise _invalid("an even presentation context ID")
        pdvs.append(Pdv(context_id, bool(control & 1), bool(control & 2), view[at + 6 : end]))
        at = end
    if not pdvs:
        raise _invalid("a P-DATA-TF without a PDV item")
    return PDataTf(tuple(pdvs))


def _items(body: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (type, start, end) of each item; its content is body[start:end]."""
    while at < end:
        if end - at < 4:
            raise _invalid("an item without its header")
        length = int.from_bytes(body[at + 2 : at + 4], "big")
        start = at + 4
        if start + length > end:
            raise _invalid("the length of an item does not fit what holds it")
        yield body[at], start, start + length
        at = start + length


def _uid(raw: bytes) -> str:
    text = raw.rstrip(b"\0 ")
    if not 1 <= len(text) <= 64 or not text.isascii():
        raise _invalid("a UID of no or too many characters, or beyond ASCII")
    return text.decode("ascii")


def _associate_head(body: bytes) -> tuple[int, bytes, bytes]:
    if len(body) < 68:
        raise _invalid("an A-ASSOCIATE PDU shorter than its fixed fields")
    return int.from_bytes(body[0:2], "big"), body[4:20], body[20:36]


_known: dict[tuple[int, bytes], AssociateRq | AssociateAc] = {}


def _decode_associate(kind: int, body: bytes) -> AssociateRq | AssociateAc:
    """Decode an RQ or AC, once for all that are byte for byte the same: each device sends its own again.

    What is kept is bounded, and holds no user identity.
    """
    known = _known.get((kind, body))
    if known is not None:
        return known
    found = _decode_rq(body) if kind == PduType.ASSOCIATE_RQ else _decode_ac(body)
    if len(body) <= _KEPT_BYTES and found.user.identity is None and found.user.identity_response is None:
        if len(_known) >= _KEPT:
            _known.clear()
        _known[kind, body] = found
    return found


def _decode_rq(body: bytes) -> AssociateRq:
    version, called, calling = _associate_head(body)
    application_context = ""
    contexts: list[ProposedContext] = []
    user: UserInformation | None = None
    for kind, start, end in _items(body, 68, len(body)):
        if kind == 0x10:
            application_context = _uid(body[start:end])
        elif kind == 0x20:
            contexts.append(_decode_proposed(body, start, end))
        elif kind == 0x50:
            if user is not None:
                raise _invalid("two user information items")
            user = _decode_user(body, start, end)
        # PS3.8 9.3.1: items of unrecognized types are ignored.
    if not application_context or not contexts or user is None:
        raise _invalid("application context, presentation contexts or user information are missing")
    if len({context.context_id for context in contexts}) != len(contexts):
        raise _invalid("a presentation context ID twice")
    return AssociateRq(called, calling, tuple(contexts), user, application_context, version)


def _decode_proposed(body: bytes, start: int, end: int) -> ProposedContext:
    if end - start < 4:
        raise _invalid("a presentation context item shorter than its fixed fields")
    context_id = body[start]
    if context_id % 2 == 0:
        raise _invalid("an even presentation context ID")
    abstract: list[str] = []
    transfer: list[str] = []
    for kind, first, last in _items(body, start + 4, end):
        if kind == 0x30:
            abstract.append(_uid(body[first:last]))
        elif kind == 0x40:
            transfer.append(_uid(body[first:last]))
    if len(abstract) != 1 or not transfer:
        raise _invalid("a presentation context needs one abstract syntax and a transfer syntax")
    return ProposedContext(context_id, abstract[0], tuple(transfer))


def _decode_ac(body: bytes) -> AssociateAc:
    version, called, calling = _associate_head(body)
    application_context = ""
    contexts: list[ContextResult] = []
    user = UserInformation()
    for kind, start, end in _items(body, 68, len(body)):
        if kind == 0x10:
            application_context = _uid(body[start:end])
        elif kind == 0x21:
            contexts.append(_decode_result(body, start, end))
        elif kind == 0x50:
            user = _decode_user(body, start, end)
    return AssociateAc(called, calling, tuple(contexts), user, application_context, version)


def _decode_result(body: bytes, start: int, end: int) -> ContextResult:
    if end - start < 4:
        raise _invalid("a presentation context item shorter than its fixed fields")
    outcome = body[start + 2]
    transfer = ""
    for kind, first, last in _items(body, start + 4, end):
        # PS3.8 9.3.3.2: the transfer syntax is not significant when the context was not accepted.
        if kind == 0x40 and outcome == ContextOutcome.ACCEPTED:
            transfer = _uid(body[first:last])
    if outcome == ContextOutcome.ACCEPTED and not transfer:
        raise _invalid("an accepted presentation context without a transfer syntax")
    return ContextResult(body[start], outcome, transfer)


def _decode_user(body: bytes, start: int, end: int) -> UserInformation:
    found: dict[str, Any] = {}  # the fields of UserInformation; made once, not anew for each item
    roles: list[RoleSelection] = []
    extended: list[ExtendedNegotiation] = []
    common: list[CommonExtendedNegotiation] = []
    for kind, first, last in _items(body, start, end):
        content = body[first:last]
        if kind == 0x51:
            if len(content) != 4:
                raise _invalid("a maximum length item that has not 4 bytes")
            found["max_pdu_bytes"] = int.from_bytes(content, "big")
        elif kind == 0x52:
            found["implementation_class_uid"] = _uid(content)
        elif kind == 0x53:
            if len(content) != 4:
                raise _invalid("an asynchronous operations window item that has not 4 bytes")
            found["async_window"] = struct.unpack(">HH", content)
        elif kind == 0x54:
            sop_class, rest = _counted(content)
            if len(rest) != 2:
                raise _invalid("a role selection item of the wrong length")
            roles.append(RoleSelection(_uid(sop_class), rest[0] == 1, rest[1] == 1))
        elif kind == 0x55:
            found["implementation_version"] = content[:16].decode("latin-1").strip(" \0")
        elif kind == 0x56:
            sop_class, rest = _counted(content)
            extended.append(ExtendedNegotiation(_uid(sop_class), rest))
        elif kind == 0x57:
            common.append(CommonExtendedNegotiation(body[first - 3], content))
        elif kind == 0x58:
            found["identity"] = _decode_identity(content)
        elif kind == 0x59:
            found["identity_response"], rest = _counted(content)
    return UserInformation(
        roles=tuple(roles), extended=tuple(extended), common_extended=tuple(common), **found
    )


def _counted(content: bytes) -> tuple[bytes, bytes]:
    """Split a field with a length of 2 bytes before it from what follows."""
    length = int.from_bytes(content[:2], "big")
    if len(content) < 2 + length:
        raise _invalid("a counted field longer than its item")
    return content[2 : 2 + length], content[2 + length :]


def _decode_identity(content: bytes) -> UserIdentity:
    if len(content) < 6:
        raise _invalid("a user identity item shorter than its fixed fields")
    primary, rest = _counted(content[2:])
    secondary, rest = _counted(rest)
    if rest:
        raise _invalid("a user identity item with bytes after its last field")
    return UserIdentity(content[0], content[1] == 1, primary, secondary)
