"""The walk over a data set: whole or refused, whatever stands in it, and cheap however it is nested."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from failover.archive.arrival import Arrived, begun_digest, examine, examine_at_once
from failover.archive.attributes import WANTED, describe, json_values, key_text
from failover.archive.header import MAX_DEPTH, Scanned, scan, scan_beginning
from failover.dicom.part10 import read_head, write_head
from failover.dicom.syntaxes import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.errors import UnreadableDataSet
from tests.unit.archive.objects import an_object

UNDEFINED = b"\xff\xff\xff\xff"
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
SQ = b"\x40\x00\x75\x02SQ\0\0" + UNDEFINED  # (0040,0275) Request Attributes Sequence
TAIL = b"\x20\x00\x10\x00SH\x04\x00ID 1"  # (0020,0010) Study ID
STUDY_ID = 0x00200010
PIXELS = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 4000)
PADDING = b"\xfc\xff\xfc\xffOB\0\0" + bytes(4)


def scanned(data_set: bytes, syntax: str = EXPLICIT_LITTLE) -> dict[int, tuple[str, bytes]]:
    return dict(scan(data_set, syntax, frozenset({STUDY_ID})).values)


def nested(depth: int) -> bytes:
    return (SQ + ITEM + UNDEFINED) * depth + (ITEM_END + bytes(4) + SEQUENCE_END + bytes(4)) * depth + TAIL


def test_values_behind_nested_sequences_are_found() -> None:
    assert scanned(nested(3)) == {STUDY_ID: ("SH", b"ID 1")}


def test_nesting_ends_at_a_depth() -> None:
    assert scanned(nested(MAX_DEPTH - 1))
    with pytest.raises(UnreadableDataSet):
        scanned(nested(MAX_DEPTH + 1))
    with pytest.raises(UnreadableDataSet):
        scanned(nested(100_000))


def test_a_hundred_thousand_empty_items_are_stepped_over() -> None:
    items = (ITEM + bytes(4)) * 100_000
    assert scanned(SQ + items + SEQUENCE_END + bytes(4) + TAIL)


def test_a_sequence_of_unknown_vr_is_in_implicit_vr() -> None:
    # PS3.5 6.2.2: UN of undefined length.
    unknown = b"\x09\x00\x10\x10UN\0\0" + UNDEFINED
    inside = ITEM + UNDEFINED + b"\x10\x00\x10\x00" + struct.pack("<I", 4) + b"Name" + ITEM_END + bytes(4)
    assert scanned(unknown + inside + SEQUENCE_END + bytes(4) + TAIL)


@pytest.mark.parametrize("cut", range(1, len(nested(1))))
def test_wherever_it_breaks_off_it_is_refused(cut: int) -> None:
    try:
        found = scanned(nested(1)[:-cut])
    except UnreadableDataSet:
        return
    assert cut == len(TAIL)  # it ended between two elements: that is a data set, without the last one
    assert found == {}


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xfe\xff\x00\xe0" + bytes(4) + TAIL,  # an item that is in nothing
        b"\x02\x00\x10\x00UI\x02\x001\0" + TAIL,  # group 0002 in a data set
        TAIL + TAIL,  # an attribute twice
        b"\x20\x00\x10\x00\0\0\x04\x00ID 1",  # no VR
        b"\x20\x00\x10\x00SH\xff\xffID 1",  # longer than the rest
        b"\x20\x00\x10\x00UT\0\0" + UNDEFINED + TAIL,  # undefined length where none may be
        SQ + TAIL,
        SQ + ITEM + UNDEFINED + SEQUENCE_END + bytes(4) + TAIL,
    ],
)
def test_what_is_no_data_set_is_refused(bad: bytes) -> None:
    with pytest.raises(UnreadableDataSet):
        scanned(bad)


def test_fragments_are_counted_and_the_offset_is_that_of_the_first_item() -> None:
    pixels = b"\xe0\x7f\x10\x00OB\0\0" + UNDEFINED + ITEM + bytes(4)
    fragment = ITEM + struct.pack("<I", 6) + b"pixels"
    whole = TAIL + pixels + fragment * 3 + SEQUENCE_END + bytes(4)
    found = scan(whole, "1.2.840.10008.1.2.4.70", WANTED)
    assert (found.pixel_offset, found.pixel_length) == (len(TAIL) + 12, None)
    with pytest.raises(UnreadableDataSet):
        scan(whole[:-12], "1.2.840.10008.1.2.4.70", WANTED)


def test_a_bomb_is_not_inflated() -> None:
    machine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = machine.compress(bytes(200 * 2**20)) + machine.flush()
    with pytest.raises(UnreadableDataSet, match="more than 64 MiB"):
        scan(bomb, DEFLATED, WANTED)


def test_deflated_is_read_and_broken_deflate_refused() -> None:
    machine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = machine.compress(nested(2)) + machine.flush()
    assert scanned(deflated, DEFLATED)
    for bad in (deflated[:-3], b"\xff" * 40):
        with pytest.raises(UnreadableDataSet):
            scanned(bad, DEFLATED)


def test_implicit_and_big_endian() -> None:
    assert scanned(b"\x20\x00\x10\x00\x04\0\0\0ID 1", IMPLICIT_LITTLE) == {STUDY_ID: ("", b"ID 1")}
    assert scanned(b"\x00\x20\x00\x10SH\x00\x04ID 1", EXPLICIT_BIG) == {STUDY_ID: ("SH", b"ID 1")}
    assert json_values("US", b"\x02\x00", [], [], little_endian=False) == [512]


def test_the_head_that_we_write_is_read() -> None:
    head = write_head("1.2.3", "1.2.3.4.5", "1.2.840.10008.1.2.1", "A SENDER")
    meta = read_head(head + TAIL)
    assert meta.data_set_offset == len(head)
    assert (meta.sop_class_uid, meta.sop_instance_uid) == ("1.2.3", "1.2.3.4.5")
    for cut in range(1, len(head)):
        try:
            read_head(head[:-cut])
        except UnreadableDataSet:
            continue
        assert len(head) - cut > 132


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        (b"", "Müller".encode(), "Müller"),  # no character set, yet UTF-8
        (b"", "Müller".encode("latin-1"), "Müller"),
        (b"ISO_IR 100", "Müller".encode("latin-1"), "Müller"),
        (b"ISO_IR 127", "قباني".encode("iso8859-6"), "قباني"),
        (b"ISO_IR 126", "Διον".encode("iso8859-7"), "Διον"),
        (b"\\ISO 2022 IR 87", b"Yamada=\x1b$B;3ED\x1b(B", "Yamada=山田"),
        (b"GB18030", "王\\李".encode("gb18030"), "王\\李"),
        (b"GBK", "乗".encode("gbk"), "乗"),  # its second byte is a backslash
        (b"ISO_IR 999", b"M\xfcller", "Müller"),
        (b"ISO_IR 192", b"M\xfcller", "M\ufffdller"),
    ],
)
def test_text_is_decoded_or_what_stands_there(charset: bytes, raw: bytes, text: str) -> None:
    assert key_text("PN", raw, charset) == text


def test_odd_values_stay_as_text() -> None:
    assert json_values("IS", b"12a ", [], []) == ["12a"]
    assert json_values("DS", b"1.5\\NaN\\1e400\\", [], []) == [1.5, "NaN", "1e400"]
    assert json_values("CS", b"A\\\\B", [], []) == ["A", None, "B"]
    assert json_values("LO", b"\0\0", [], []) == []


def test_a_real_object_is_described() -> None:
    content = an_object(3, PatientName="山田^太郎")
    meta = read_head(content)
    described = describe(scan(memoryview(content)[meta.data_set_offset :], EXPLICIT_LITTLE, WANTED))
    assert described.study["00100010"]["Value"] == [{"Alphabetic": "山田^太郎"}]
    assert described.instance["00280010"]["Value"] == [4]


def _outcome(walk: Callable[[], Scanned | None]) -> Scanned | str | None:
    try:
        return walk()
    except UnreadableDataSet as error:
        return str(error)


@pytest.mark.parametrize(
    ("data_set", "at_once"),
    [
        (TAIL + PIXELS + bytes(4000), len(TAIL + PIXELS)),
        (TAIL + PIXELS + bytes(4000) + PADDING, None),  # what stands behind the pixels must be seen
        (nested(2), len(nested(2))),
        (nested(2) + b"\x30", None),
        (TAIL + PIXELS + bytes(3999), len(TAIL + PIXELS)),  # they break off: that is seen at once
        (TAIL + TAIL + PIXELS + bytes(4000), len(TAIL + TAIL) - 4),  # twice the same: its head suffices
    ],
)
def test_a_beginning_tells_what_the_whole_does_or_nothing(data_set: bytes, at_once: int | None) -> None:
    whole, wanted = len(data_set), frozenset({STUDY_ID})
    expected = _outcome(lambda: scan(data_set, EXPLICIT_LITTLE, wanted))
    said = [
        _outcome(partial(scan_beginning, data_set[:cut], whole, EXPLICIT_LITTLE, wanted, 1000))
        for cut in range(whole + 1)
    ]
    assert {repr(one) for one in said} <= {"None", repr(expected)}
    first = next(cut for cut, one in enumerate(said) if one is not None)
    assert first == at_once or (at_once is None and first > whole - 8)


def test_a_beginning_is_looked_at_for_so_long_and_deflated_not_at_all() -> None:
    many, wanted = b"\x30\x00\x10\x00SH\0\0" * 101, frozenset[int]()
    whole = scan(many, EXPLICIT_LITTLE, wanted)
    assert scan_beginning(many, len(many), EXPLICIT_LITTLE, wanted, 101) == whole
    assert scan_beginning(many, len(many), EXPLICIT_LITTLE, wanted, 100) is None
    assert scan_beginning(many, len(many), DEFLATED, wanted, 1000) is None


@pytest.mark.parametrize("cuts", [(1000,), (20_000,), (20_000, 40_000), (1,), (100_000,)])
def test_pieces_tell_what_the_whole_does(cuts: tuple[int, ...]) -> None:
    """In one turn of the loop, from the first of them; only a beginning that is too short needs them all."""
    whole = an_object(PixelData=bytes(120_000))
    at = read_head(whole).data_set_offset
    borders = (at, *(at + cut for cut in cuts), len(whole))
    pieces = [whole[:at], *(whole[start:stop] for start, stop in itertools.pairwise(borders))]
    digest = begun_digest(EXPLICIT_LITTLE)
    digest.update(whole[at:])
    arrived = Arrived(Path("none"), pieces, announced=True, digest=digest.digest())
    expected = examine(Arrived(Path("none"), [whole]))
    assert examine_at_once(arrived) == (None if cuts[0] == 1 else expected)
    assert examine(arrived) == expected


@pytest.mark.parametrize("pixels", [32, 33_000, 66_000])
def test_a_small_file_is_looked_at_at_once_and_is_the_same(pixels: int) -> None:
    whole = an_object(PixelData=bytes(range(250)) * (pixels // 250))
    it = examine_at_once(Arrived(Path("none"), [whole[:1000], whole[1000:]]))
    assert it == (examine(Arrived(Path("none"), [whole])) if pixels < 64 * 1024 else None)
