"""The PDUs of the DICOM upper layer (PS3.8 section 9.3): from objects to bytes. Pure.

How bytes become them is `pdu`, which names these functions too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from failover.dicom.units import (
    Abort,
    AssociateAc,
    AssociateRj,
    AssociateRq,
    Buffer,
    DataRun,
    PDataTf,
    Pdu,
    PduType,
    ReleaseRp,
    ReleaseRq,
    UserInformation,
)


def encode(pdu: Pdu) -> bytes:
    """Return the bytes of `pdu`. For P-DATA-TF on a hot path use `p_data_header`."""
    match pdu:
        case AssociateRq() | AssociateAc():
            return _encode_associate(pdu)
        case AssociateRj():
            return _framed(PduType.ASSOCIATE_RJ, bytes((0, pdu.result, pdu.source, pdu.reason)))
        case PDataTf():
            body = b"".join(
                struct.pack(">IBB", len(pdv.fragment) + 2, pdv.context_id, pdv.is_command | pdv.is_last << 1)
                + pdv.fragment
                for pdv in pdu.pdvs
            )
            return _framed(PduType.P_DATA_TF, body)
        case DataRun():
            return bytes(pdu.framed)
        case ReleaseRq():
            return _framed(PduType.RELEASE_RQ, bytes(4))
        case ReleaseRp():
            return _framed(PduType.RELEASE_RP, bytes(4))
        case Abort():
            return _framed(PduType.ABORT, bytes((0, 0, pdu.source, pdu.reason)))


def _encode_associate(pdu: AssociateRq | AssociateAc) -> bytes:
    """Encode an RQ or AC, one that comes again once."""
    derived = pdu.derived
    if derived is not None and (known := derived.find("bytes")) is not None:
        encoded: bytes = known
        return encoded
    if isinstance(pdu, AssociateRq):
        encoded = _framed(PduType.ASSOCIATE_RQ, _encode_rq(pdu))
    else:
        encoded = _framed(PduType.ASSOCIATE_AC, _encode_ac(pdu))
    if derived is not None:
        derived.keep("bytes", encoded)
    return encoded


_P_DATA_HEADER: Final = struct.Struct(">BBIIBB")


def p_data_header(context_id: int, fragment_bytes: int, *, is_command: bool, is_last: bool) -> bytes:
    """Return the 12 bytes before a fragment that is alone in its P-DATA-TF."""
    return _P_DATA_HEADER.pack(
        PduType.P_DATA_TF, 0, fragment_bytes + 6, fragment_bytes + 2, context_id, is_command | is_last << 1
    )


def _framed(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def _item(kind: int, content: bytes, second: int = 0) -> bytes:
    return struct.pack(">BBH", kind, second, len(content)) + content


def _encode_head(pdu: AssociateRq | AssociateAc) -> bytes:
    return (
        struct.pack(">HH", pdu.protocol_version, 0)
        + pdu.called_bytes
        + pdu.calling_bytes
        + bytes(32)
        + _item(0x10, pdu.application_context.encode("ascii"))
    )


def _encode_rq(rq: AssociateRq) -> bytes:
    parts = [_encode_head(rq)]
    for context in rq.contexts:
        content = bytes((context.context_id, 0, 0, 0)) + _item(0x30, context.abstract_syntax.encode("ascii"))
        content += b"".join(_item(0x40, syntax.encode("ascii")) for syntax in context.transfer_syntaxes)
        parts.append(_item(0x20, content))
    parts.append(_encode_user(rq.user))
    return b"".join(parts)


def _encode_ac(ac: AssociateAc) -> bytes:
    parts = [_encode_head(ac)]
    for result in ac.contexts:
        syntax = _item(0x40, (result.transfer_syntax or "1.2.840.10008.1.2").encode("ascii"))
        parts.append(_item(0x21, bytes((result.context_id, 0, result.outcome, 0)) + syntax))
    parts.append(_encode_user(ac.user))
    return b"".join(parts)


def _encode_user(user: UserInformation) -> bytes:
    parts = [_item(0x51, user.max_pdu_bytes.to_bytes(4, "big"))]
    if user.implementation_class_uid:
        parts.append(_item(0x52, user.implementation_class_uid.encode("ascii")))
    if user.async_window is not None:
        parts.append(_item(0x53, struct.pack(">HH", *user.async_window)))
    for role in user.roles:
        parts.append(_item(0x54, _count(role.sop_class.encode("ascii")) + bytes((role.scu, role.scp))))
    if user.implementation_version:
        parts.append(_item(0x55, user.implementation_version.encode("latin-1")))
    for extended in user.extended:
        parts.append(_item(0x56, _count(extended.sop_class.encode("ascii")) + extended.content))
    for common in user.common_extended:
        parts.append(_item(0x57, common.content, common.version))
    if user.identity is not None:
        identity = user.identity
        head = bytes((identity.kind, identity.response_requested))
        parts.append(_item(0x58, head + _count(identity.primary) + _count(identity.secondary)))
    if user.identity_response is not None:
        parts.append(_item(0x59, _count(user.identity_response)))
    return _item(0x50, b"".join(parts))


def _count(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def fragments(data: Buffer, most: int) -> Sequence[memoryview]:
    """Cut `data` into pieces of at most `most` bytes; an empty one gives one empty piece."""
    view = memoryview(data)
    if len(view) <= most:
        return (view,)
    return [view[at : at + most] for at in range(0, len(view), most)]
