"""Where what is read lands: nothing that is kept is written over, and nothing is kept that need not be."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.dicom.encoding import encode, p_data_header
from failover.dicom.pdu import PduReader
from failover.dicom.reading import BUFFER_BYTES, LEAST_IN_PLACE_BYTES, Reading
from failover.dicom.units import DataRun, PDataTf, Pdu, Pdv

PDU_BYTES = 65536


def data_set(size: int, fragment: int = PDU_BYTES - 6) -> bytes:
    """A data set as a peer sends it."""
    content = os.urandom(size)
    framed = b""
    for at in range(0, size, fragment):
        piece = content[at : at + fragment]
        ends = at + fragment >= size
        framed += p_data_header(1, len(piece), is_command=False, is_last=ends) + piece
    return framed


def singly(units: list[Pdu]) -> Iterator[bytes]:
    for unit in units:
        for pdu in unit.singly() if isinstance(unit, DataRun) else [unit]:
            yield encode(pdu)


def ends(unit: Pdu) -> bool:
    if isinstance(unit, DataRun):
        return unit.is_last
    return isinstance(unit, PDataTf) and any(pdv.is_last and not pdv.is_command for pdv in unit.pdvs)


def fed(reading: Reading, stream: bytes, reads: list[int], data_sets: bool = True) -> list[Pdu]:
    """What comes of a stream that is read in steps of `reads`, then in the greatest ones."""
    found: list[Pdu] = []
    in_data_set = data_sets
    steps = iter(reads)
    while stream:
        room = reading.room()
        count = min(next(steps, BUFFER_BYTES), len(room), len(stream))
        room[:count] = stream[:count]
        del room
        stream = stream[count:]
        for unit in reading.arrived(count):
            found.append(unit)
            in_data_set = data_sets and not ends(unit)
        reading.settle(in_data_set=in_data_set)
    return found


def place(reading: Reading) -> int:
    """In which buffer the next read lands."""
    return id(reading.room().obj)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3 * BUFFER_BYTES), min_size=1, max_size=3),
    fragment=st.sampled_from([900, 5000, 16378, PDU_BYTES - 6]),
    reads=st.lists(st.one_of(st.integers(1, 3000), st.integers(60_000, BUFFER_BYTES)), max_size=12),
)
def test_what_is_kept_is_what_was_sent_however_it_was_read(
    sizes: list[int], fragment: int, reads: list[int]
) -> None:
    stream = b"".join(
        encode(PDataTf((Pdv(1, True, True, b"\0" * 90),))) + data_set(size, fragment) for size in sizes
    )
    found = fed(Reading(PDU_BYTES), stream, reads)
    assert b"".join(singly(found)) == b"".join(singly(list(PduReader(PDU_BYTES).receive_data(stream))))


def test_a_long_read_stays_where_it_landed_until_nobody_looks_into_it() -> None:
    stream = data_set(2 * BUFFER_BYTES)
    reading, other = Reading(PDU_BYTES), Reading(PDU_BYTES)
    room = reading.room()
    room[:] = stream[: len(room)]
    units = [unit for unit in reading.arrived(len(room)) if isinstance(unit, DataRun)]
    first = units[0].pieces[0]
    assert first[0] == room[12]
    room[12] ^= 0xFF
    assert first[0] == room[12]  # the same memory
    kept = bytes(first)
    for _ in range(3):
        other.room()[:] = bytes(BUFFER_BYTES)
    assert bytes(first) == kept
    buffer = first.obj
    assert isinstance(buffer, bytearray)
    reading.close()
    with pytest.raises(BufferError):
        buffer.pop()
    del units, first, room
    buffer.pop()  # nobody looks into it any more
    buffer.append(0)


def test_short_reads_and_what_is_no_data_set_keep_no_buffer() -> None:
    reading, other = Reading(PDU_BYTES), Reading(PDU_BYTES)
    short = fed(reading, data_set(PDU_BYTES), [LEAST_IN_PLACE_BYTES // 3] * 9)
    assert place(other) == place(reading)
    reads = [LEAST_IN_PLACE_BYTES + 100]
    rq = encode(PDataTf((Pdv(1, True, True, bytes(40_000)),)))
    assert len(fed(reading, rq * 5, reads, data_sets=False)) == 5
    assert place(other) == place(reading)
    assert b"".join(singly(short))
