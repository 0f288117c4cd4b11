"""Command sets, statuses and message borders."""

from __future__ import annotations

import struct

import pytest

from failover.dicom.dimse import (
    Category,
    Command,
    CommandField,
    Tag,
    category,
    echo_rq,
    find_rq,
    parse_command,
    response,
    store_rq,
)
from failover.dicom.messages import Fragment, Message, MessageAssembler
from failover.dicom.units import DataRun, Pdv
from failover.errors import MalformedMessage


def element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHI", group, number, len(value)) + value


def test_echo_byte_by_byte() -> None:
    assert echo_rq(7).encode() == b"".join(
        (
            element(0x0000, struct.pack("<I", 56)),
            element(0x0002, b"1.2.840.10008.1.1\0"),
            element(0x0100, b"\x30\0"),
            element(0x0110, b"\7\0"),
            element(0x0800, b"\x01\x01"),
        )
    )


def test_a_response_answers_its_request() -> None:
    rsp = response(store_rq(9, "1.2", "1.3"), 0xA700, {Tag.ERROR_COMMENT: "x" * 100})
    assert rsp.field == CommandField.C_STORE_RSP
    assert (rsp.message_id, rsp.status, rsp.sop_instance_uid) == (9, 0xA700, "1.3")
    assert rsp.text(Tag.ERROR_COMMENT) == "x" * 64
    assert not rsp.has_data_set


def test_what_is_not_known_passes_unchanged() -> None:
    raw = element(0x0100, b"\x30\0") + element(0x0800, b"\x01\x01") + element(0x5010, b"ab")
    assert element(0x5010, b"ab") in parse_command(raw).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"abc",
        element(0x0100, b"\x30\0"),  # does not say whether a data set follows
        element(0x0800, b"\x01\x01"),  # no command field
        element(0x0100, b"\x30\0") * 2 + element(0x0800, b"\x01\x01"),
        element(0x0100, b"\x30\0\0") + element(0x0800, b"\x01\x01"),
        element(0x0100, b"\x30\0", group=8) + element(0x0800, b"\x01\x01"),
        struct.pack("<HHI", 0, 0x0100, 0xFFFFFFFF) + b"\x30\0",
    ],
)
def test_malformed_command_sets(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_command(raw)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0x0000, Category.SUCCESS),
        (0xFF00, Category.PENDING),
        (0xFF01, Category.PENDING),
        (0xFE00, Category.CANCEL),
        (0xB000, Category.WARNING),
        (0x0107, Category.WARNING),
        (0xA700, Category.FAILURE),
        (0xC001, Category.FAILURE),
        (0x0110, Category.FAILURE),
    ],
)
def test_categories(status: int, expected: Category) -> None:
    assert category(status) is expected


def test_names() -> None:
    assert echo_rq(1).name == response(echo_rq(1), 0).name == "C-ECHO"
    assert Command({Tag.COMMAND_FIELD: b"\x77\0"}).name == "unknown"


def said(item: Message | Fragment | None) -> tuple[bytes, bool]:
    assert isinstance(item, Fragment)
    return b"".join(item.pieces), item.is_last


def run_of(context_id: int, *pieces: bytes, is_last: bool = False) -> DataRun:
    views = [memoryview(piece) for piece in pieces]
    return DataRun(context_id, b"", views, sum(map(len, pieces)), max(map(len, pieces)), is_last)


def test_a_run_of_fragments_belongs_to_the_data_set_under_way_and_to_no_other() -> None:
    assembler = MessageAssembler([1, 3])
    with pytest.raises(MalformedMessage):  # no command set announced it
        assembler.receive_run(run_of(1, b"ab"))
    assembler.receive(Pdv(1, True, True, store_rq(1, "1.2", "1.3").encode()))
    with pytest.raises(MalformedMessage):  # of another presentation context
        assembler.receive_run(run_of(3, b"ab"))
    assert said(assembler.receive_run(run_of(1, b"ab", b"cd"))) == (b"abcd", False)
    assert said(assembler.receive_run(run_of(1, b"ef", is_last=True))) == (b"ef", True)
    assert not assembler.in_message
    with pytest.raises(MalformedMessage):  # it has ended
        assembler.receive_run(run_of(1, b"gh"))


def test_message_borders() -> None:
    raw = find_rq(1, "1.2").encode()
    assembler = MessageAssembler([1, 3])
    assert assembler.receive(Pdv(3, True, False, raw[:10])) is None
    assert assembler.in_message
    message = assembler.receive(Pdv(3, True, True, raw[10:]))
    assert isinstance(message, Message)
    assert (message.context_id, message.has_data_set) == (3, True)
    assert said(assembler.receive(Pdv(3, False, False, b"ab"))) == (b"ab", False)
    assert said(assembler.receive(Pdv(3, False, True, b""))) == (b"", True)
    assert not assembler.in_message


@pytest.mark.parametrize(
    "pdvs",
    [
        [Pdv(5, True, True, b"")],  # a context that was not accepted
        [Pdv(1, False, True, b"")],  # a data set out of nowhere
        [Pdv(1, True, False, b"ab"), Pdv(3, True, True, b"ab")],
        [Pdv(1, True, True, find_rq(1, "1.2").encode()), Pdv(1, True, True, b"")],
        [Pdv(1, True, True, find_rq(1, "1.2").encode()), Pdv(3, False, True, b"")],
        [Pdv(1, True, False, bytes(60_000)), Pdv(1, True, False, bytes(10_000))],
        [Pdv(1, True, True, echo_rq(1).encode()), Pdv(1, False, True, b"")],
    ],
)
def test_borders_that_cannot_be(pdvs: list[Pdv]) -> None:
    assembler = MessageAssembler([1, 3])
    for pdv in pdvs[:-1]:
        assembler.receive(pdv)
    with pytest.raises(MalformedMessage):
        assembler.receive(pdvs[-1])


def test_an_empty_fragment_in_the_middle_of_a_data_set_is_nothing() -> None:
    assembler = MessageAssembler([1])
    assembler.receive(Pdv(1, True, True, store_rq(1, "1.2", "1.3").encode()))
    assert assembler.receive(Pdv(1, False, False, b"")) is None
    assert said(assembler.receive(Pdv(1, False, False, b"ab"))) == (b"ab", False)
    assert said(assembler.receive(Pdv(1, False, True, b""))) == (b"", True)
    assert not assembler.in_message
