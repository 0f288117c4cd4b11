"""PDUs, byte by byte where the standard fixes them, and what the reader refuses before it keeps it."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from failover.dicom.encoding import encode, fragments, p_data_header
from failover.dicom.pdu import PduReader
from failover.dicom.units import (
    Abort,
    AssociateAc,
    AssociateRj,
    AssociateRq,
    CommonExtendedNegotiation,
    ContextResult,
    ExtendedNegotiation,
    PDataTf,
    Pdu,
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

VERIFICATION, IMPLICIT = "1.2.840.10008.1.1", "1.2.840.10008.1.2"
FULL_USER = UserInformation(
    max_pdu_bytes=16384,
    implementation_class_uid="1.2.3",
    implementation_version="NAME",
    async_window=(3, 5),
    roles=(RoleSelection("1.2", True, False), RoleSelection("1.3", False, True)),
    extended=(ExtendedNegotiation("1.2", b"\1\0"),),
    common_extended=(CommonExtendedNegotiation(0, b"\0\2ab\0\0\0\0"),),
    identity=UserIdentity(2, True, b"user", b"word"),
)
RQ = AssociateRq(
    padded_ae("PACS"), padded_ae("CT1"), (ProposedContext(1, VERIFICATION, (IMPLICIT,)),), FULL_USER
)
AC = AssociateAc(
    RQ.called_bytes,
    RQ.calling_bytes,
    (ContextResult(1, 0, IMPLICIT), ContextResult(3, 3)),
    UserInformation(0, "1.2.3", identity_response=b"ticket"),
)
ALL: list[Pdu] = [
    RQ, AC, AssociateRj(2, 3, 1), PDataTf((Pdv(1, True, True, b"abc"), Pdv(1, False, False, b"")),),
    ReleaseRq(), ReleaseRp(), Abort(2, 6),
]  # fmt: skip


def read(data: bytes, max_pdu: int = 65536) -> list[Pdu]:
    return list(PduReader(max_pdu).receive_data(data))


@pytest.mark.parametrize("pdu", ALL, ids=lambda pdu: type(pdu).__name__)
def test_what_is_written_is_read(pdu: Pdu) -> None:
    [found] = read(encode(pdu))
    if isinstance(found, AssociateAc):
        # PS3.8 9.3.3.2: the transfer syntax of what was not accepted means nothing.
        assert found.contexts[1] == ContextResult(3, 3)
    assert found == pdu


def test_fixed_pdus_byte_by_byte() -> None:
    assert encode(AssociateRj(1, 1, 7)) == bytes.fromhex("03 00 00000004 00 01 01 07")
    assert encode(ReleaseRq()) == bytes.fromhex("05 00 00000004 00000000")
    assert encode(ReleaseRp()) == bytes.fromhex("06 00 00000004 00000000")
    assert encode(Abort(2, 1)) == bytes.fromhex("07 00 00000004 0000 02 01")


def test_an_associate_rq_byte_by_byte() -> None:
    rq = AssociateRq(
        padded_ae("A"), padded_ae("B"), (ProposedContext(1, "1.2", ("1.3",)),), UserInformation(256, "1.4")
    )
    assert encode(rq) == b"".join(
        (
            bytes.fromhex("01 00 00000086"),  # type, length
            bytes.fromhex("0001 0000"),  # protocol version
            b"A               B               ",
            bytes(32),
            bytes.fromhex("10 00 0015") + b"1.2.840.10008.3.1.1.1",
            bytes.fromhex("20 00 0012 01 000000"),
            bytes.fromhex("30 00 0003") + b"1.2",
            bytes.fromhex("40 00 0003") + b"1.3",
            bytes.fromhex("50 00 000f"),
            bytes.fromhex("51 00 0004 00000100"),
            bytes.fromhex("52 00 0003") + b"1.4",
        )
    )


def test_a_header_for_one_fragment() -> None:
    header = p_data_header(5, 3, is_command=True, is_last=False)
    assert read(header + b"abc") == [PDataTf((Pdv(5, True, False, b"abc"),))]


def test_ae_titles_are_kept_as_bytes_and_read_without_padding() -> None:
    rq = AssociateRq(b"  PACS          ", b"CT1\0\0\0\0\0\0\0\0\0\0\0\0\0", RQ.contexts, RQ.user)
    [found] = read(encode(rq))
    assert isinstance(found, AssociateRq)
    assert (found.called_ae, found.calling_ae) == ("PACS", "CT1")
    assert found.called_bytes == b"  PACS          "


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"G", 1),  # GET / HTTP/1.1
        (b"\0", 1),
        (b"\x08\0", 1),
        (b"\x01\0\xff\xff\xff\xff", 6),
        (b"\x01\0" + struct.pack(">I", 256 * 1024 + 1), 6),
        (b"\x04\0" + struct.pack(">I", 65537), 6),
        (b"\x05\0\0\0\0\5", 6),
        (b"\x07\0\0\0\0\0", 6),
    ],
)
def test_the_head_alone_is_refused(head: bytes, reason: int) -> None:
    reader = PduReader(65536)
    with pytest.raises(MalformedPdu) as caught:
        list(reader.receive_data(head))
    assert caught.value.reason == reason


def test_what_came_before_the_rubbish_is_still_delivered() -> None:
    reader = PduReader(65536)
    pdus = reader.receive_data(encode(RQ) + b"\xff")
    assert next(pdus) == RQ
    with pytest.raises(MalformedPdu):
        next(pdus)


def test_only_an_unfinished_pdu_is_held() -> None:
    reader = PduReader(65536)
    assert list(reader.receive_data(encode(RQ) + encode(ReleaseRq())[:7])) == [RQ]
    assert reader.held_bytes == 7
    assert list(reader.receive_data(encode(ReleaseRq())[7:])) == [ReleaseRq()]
    assert reader.held_bytes == 0


def test_the_input_buffer_may_be_reused() -> None:
    buffer = bytearray(encode(PDataTf((Pdv(1, False, True, b"abcdef"),))))
    [found] = list(PduReader(65536).receive_data(memoryview(buffer)))
    buffer[:] = bytes(len(buffer))
    assert isinstance(found, PDataTf)
    assert bytes(found.pdvs[0].fragment) == b"abcdef"


def test_unknown_items_are_ignored() -> None:
    """PS3.8 9.3.1."""
    raw = bytearray(encode(RQ))
    raw += b"\x99\0\0\4abcd"
    raw[2:6] = struct.pack(">I", len(raw) - 6)
    assert read(bytes(raw)) == [RQ]


def test_fragments_fit() -> None:
    assert [bytes(piece) for piece in fragments(b"abcdefg", 3)] == [b"abc", b"def", b"g"]
    assert [bytes(piece) for piece in fragments(b"", 3)] == [b""]


def test_a_legal_rq_of_the_greatest_size_is_read() -> None:
    syntaxes = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(45))
    contexts = tuple(ProposedContext(2 * n + 1, f"1.2.840.{n}", syntaxes) for n in range(128))
    rq = AssociateRq(RQ.called_bytes, RQ.calling_bytes, contexts, RQ.user)
    assert read(encode(rq)) == [rq]


def test_an_rq_that_comes_again_is_decoded_once_unless_it_holds_a_secret() -> None:
    """What a device sends again byte for byte is kept; a user identity never is."""

    def read(rq: AssociateRq) -> Pdu:
        [found] = PduReader(16384).receive_data(encode(rq))
        return found

    plain = replace(RQ, user=replace(RQ.user, identity=None))
    secret = replace(RQ, user=replace(RQ.user, identity=UserIdentity(2, False, b"user", b"secret")))
    assert read(plain) is read(plain)
    assert read(plain) == plain
    assert read(secret) is not read(secret)
    assert read(secret) == secret
