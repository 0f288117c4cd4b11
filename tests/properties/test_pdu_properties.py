"""Any PDU survives writing and reading, and any split of the byte stream gives the same PDUs."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from failover.dicom.dimse import Command, find_rq, parse_command
from failover.dicom.encoding import encode, fragments
from failover.dicom.messages import Fragment, Message, MessageAssembler
from failover.dicom.pdu import LEAST_IN_RUN_BYTES, PduReader
from failover.dicom.units import (
    Abort,
    AssociateRj,
    AssociateRq,
    DataRun,
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
)
from failover.errors import MalformedMessage, MalformedPdu

uids = st.from_regex(r"[0-9]{1,5}(\.[0-9]{1,9}){1,5}", fullmatch=True)
titles = st.binary(min_size=16, max_size=16)
small = st.integers(0, 255)
users = st.builds(
    UserInformation,
    max_pdu_bytes=st.integers(0, 2**32 - 1),
    implementation_class_uid=uids,
    implementation_version=st.from_regex(r"[A-Z0-9_]{0,16}", fullmatch=True),
    async_window=st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    roles=st.lists(st.builds(RoleSelection, uids, st.booleans(), st.booleans()), max_size=3).map(tuple),
    extended=st.lists(st.builds(ExtendedNegotiation, uids, st.binary(max_size=9)), max_size=2).map(tuple),
    identity=st.none()
    | st.builds(UserIdentity, small, st.booleans(), st.binary(max_size=20), st.binary(max_size=20)),
)
context_lists = st.lists(
    st.builds(ProposedContext, st.just(0), uids, st.lists(uids, min_size=1, max_size=4).map(tuple)),
    min_size=1,
    max_size=6,
).map(
    lambda contexts: tuple(
        ProposedContext(2 * place + 1, c.abstract_syntax, c.transfer_syntaxes)
        for place, c in enumerate(contexts)
    )
)
pdvs = st.builds(
    Pdv, st.integers(0, 127).map(lambda n: 2 * n + 1), st.booleans(), st.booleans(), st.binary(max_size=300)
)
# What runs are made of: long fragments of data sets, often of one presentation context.
long_pdvs = st.builds(
    Pdv,
    st.sampled_from((1, 1, 1, 3)),
    st.just(False),
    st.sampled_from((False, False, True)),
    st.integers(1000, 1100).map(lambda size: bytes(size % 256 for _ in range(size))),
)
pdus: st.SearchStrategy[Pdu] = st.one_of(
    st.builds(AssociateRq, titles, titles, context_lists, users),
    st.builds(AssociateRj, small, small, small),
    st.builds(PDataTf, st.lists(pdvs, min_size=1, max_size=4).map(tuple)),
    st.builds(lambda pdv: PDataTf((pdv,)), long_pdvs),
    st.builds(ReleaseRq),
    st.builds(ReleaseRp),
    st.builds(Abort, small, small),
)


def read_in_pieces(stream: bytes, cuts: list[int]) -> tuple[list[Pdu], int | None]:
    """What a reader yields for `stream` cut at `cuts`, and the reason of the error at its end."""
    reader = PduReader(4096)
    found: list[Pdu] = []
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    try:
        for start, end in itertools.pairwise(borders):
            for pdu in reader.receive_data(stream[start:end]):
                if isinstance(pdu, DataRun):  # which PDUs come together depends on the cuts
                    assert bytes(pdu.framed) == b"".join(encode(one) for one in pdu.singly())
                    assert pdu.longest == max(map(len, pdu.pieces))
                    assert pdu.size == sum(map(len, pdu.pieces))
                    found += pdu.singly()
                else:
                    found.append(pdu)
    except MalformedPdu as error:
        return found, error.reason
    return found, None


@given(st.lists(pdus, max_size=5), st.lists(st.integers(0, 4000), max_size=20))
def test_any_split_gives_the_same_pdus(sent: list[Pdu], cuts: list[int]) -> None:
    stream = b"".join(encode(pdu) for pdu in sent)
    assert read_in_pieces(stream, cuts) == (sent, None)
    assert read_in_pieces(stream, list(range(min(len(stream), 3000)))) == (sent, None)


@given(st.lists(long_pdvs, min_size=1, max_size=8), st.lists(st.integers(0, 9000), max_size=9))
def test_long_fragments_of_data_sets_come_as_runs_and_none_is_lost(sent: list[Pdv], cuts: list[int]) -> None:
    single: list[Pdu] = [PDataTf((pdv,)) for pdv in sent]
    stream = b"".join(encode(pdu) for pdu in single)
    assert read_in_pieces(stream, cuts) == (single, None)
    if all(len(pdv.fragment) >= LEAST_IN_RUN_BYTES for pdv in sent):
        found = list(PduReader(4096).receive_data(stream))
        runs = sum(
            before.is_last or before.context_id != after.context_id
            for before, after in itertools.pairwise(sent)
        )
        assert [isinstance(unit, DataRun) for unit in found] == [True] * (runs + 1)


@given(st.lists(pdus, max_size=3), st.binary(max_size=200), st.lists(st.integers(0, 4000), max_size=20))
def test_rubbish_is_the_same_rubbish_however_it_is_cut(
    sent: list[Pdu], rubbish: bytes, cuts: list[int]
) -> None:
    stream = b"".join(encode(pdu) for pdu in sent) + rubbish
    assert read_in_pieces(stream, cuts) == read_in_pieces(stream, [])


@given(st.binary(max_size=600))
@settings(max_examples=300)
def test_a_reader_raises_nothing_but_its_own_error(stream: bytes) -> None:
    read_in_pieces(stream, [])
    for kind in range(1, 8):
        body = stream[:500]
        read_in_pieces(bytes((kind, 0)) + len(body).to_bytes(4, "big") + body, [])


@given(st.dictionaries(st.integers(1, 0xFFFF), st.binary(max_size=40), max_size=10))
def test_command_sets_survive(elements: dict[int, bytes]) -> None:
    command = Command({**elements, 0x0100: b"\x30\0", 0x0800: b"\x01\x01"})
    assert parse_command(command.encode()) == command


@given(st.binary(max_size=200))
def test_a_command_set_raises_nothing_but_its_own_error(raw: bytes) -> None:
    try:
        command = parse_command(raw)
    except MalformedMessage:
        return
    assert parse_command(command.encode()) == command


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_a_message_comes_out_as_it_went_in_whatever_the_fragments(data_set: bytes, most: int) -> None:
    command = find_rq(1, "1.2.3")
    assembler = MessageAssembler([1])
    got: list[Message | Fragment] = []
    for is_command, raw in ((True, command.encode()), (False, data_set)):
        pieces = fragments(raw, most)
        for place, piece in enumerate(pieces, start=1):
            item = assembler.receive(Pdv(1, is_command, place == len(pieces), piece))
            if item is not None:
                got.append(item)
    message, *rest = got
    assert isinstance(message, Message)
    assert message.command == command
    assert (
        b"".join(bytes(one) for part in rest if isinstance(part, Fragment) for one in part.pieces) == data_set
    )
    assert not assembler.in_message
