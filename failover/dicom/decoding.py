"""The PDUs of the DICOM upper layer (PS3.8 section 9.3): from the bytes of one to an object. Pure.

How a stream is cut into them is `pdu`; how they become bytes, `encoding`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from failover.dicom.units import (
    Abort,
    AbortReason,
    AssociateAc,
    AssociateRj,
    AssociateRq,
    Buffer,
    CommonExtendedNegotiation,
    ContextOutcome,
    ContextResult,
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
    comes_again,
)
from failover.errors import MalformedPdu

_KEPT, _KEPT_BYTES = 128, 8192  # how many decoded RQs and ACs are kept, and how long ones
PDV_HEADER_BYTES: Final = 6  # length, context ID, message control header (PS3.8 9.3.5.1)


def _invalid(message: str) -> MalformedPdu:
    return MalformedPdu(message, reason=AbortReason.INVALID_PARAMETER)


def decode(kind: int, body: Buffer) -> Pdu:
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
        comes_again(found)
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
