"""Walk over an encoded data set (PS3.5 7): is it whole, which values stand in it, where are its pixels. Pure.

The walk visits each element of the top level once and looks at no value it was not asked for, so it costs a
fraction of building a data set, and nothing a sender writes can make it deep or large: sequences of
undefined length are walked with a stack of our own, those of defined length are stepped over.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from failover.dicom.syntaxes import DEFLATED, EXPLICIT_BIG, IMPLICIT_LITTLE
from failover.errors import UnreadableDataSet

Buffer = bytes | bytearray | memoryview

# Deeper nesting has no use, and breaks readers that recurse.
MAX_DEPTH: Final = 64
# Elements, items and fragments looked at. A 100,000-frame object has that many fragments.
MAX_STEPS: Final = 4_000_000
# Longer values are not kept in the index; they stay in the file.
MAX_VALUE_BYTES: Final = 16 * 1024
# A deflated data set is inflated in memory to be walked; a bomb stops here.
MAX_INFLATED_BYTES: Final = 64 * 1024 * 1024

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
# PS3.5 7.1.2: these have two reserved bytes and a length of 32 bits.
_SHORT_VRS: Final = {
    vr: vr.decode("ascii") for vr in b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
}


@dataclass(frozen=True, slots=True)
class Scanned:
    """The values asked for, raw, and where the pixels are.

    `values` holds (VR, bytes); VR is "" where the encoding does not tell (implicit VR). `pixel_offset` is the
    position of the value of (Float, Double Float) Pixel Data in the buffer; `pixel_length` is None for
    encapsulated ones. With a deflated data set the position is that in the inflated bytes.
    """

    values: Mapping[int, tuple[str, bytes]]
    pixel_offset: int | None = None
    pixel_length: int | None = None
    little_endian: bool = True


def scan(data_set: Buffer, transfer_syntax_uid: str, wanted: frozenset[int] | None) -> Scanned:
    """Walk the whole of `data_set`. Raises UnreadableDataSet where it breaks off or is no data set.

    `wanted` None keeps every value; a sequence of undefined length then stands there without one.
    """
    if transfer_syntax_uid == DEFLATED:
        data_set = inflate(data_set)
    try:
        return _walk(data_set, len(data_set), transfer_syntax_uid, wanted, MAX_STEPS).top_level()
    except _Beyond:
        raise UnreadableDataSet("the data set has too many elements") from None


def scan_beginning(
    beginning: Buffer, whole_bytes: int, transfer_syntax_uid: str, wanted: frozenset[int], most_steps: int
) -> Scanned | None:
    """Walk a data set of `whole_bytes` of which only the `beginning` is at hand. Raises UnreadableDataSet.

    None: what follows must be looked at too (it does when the pixels are not the last, or compressed), the
    data set is deflated, or more than `most_steps` elements would have to be looked at. Else it is what
    `scan` says of the whole.
    """
    if transfer_syntax_uid == DEFLATED:
        return None
    try:
        return _walk(beginning, whole_bytes, transfer_syntax_uid, wanted, most_steps).top_level()
    except (_Beyond, struct.error):
        return None


class _Beyond(Exception):
    """More would have to be looked at than is at hand, or may be."""


def _walk(
    data_set: Buffer,
    whole_bytes: int,
    transfer_syntax_uid: str,
    wanted: frozenset[int] | None,
    most_steps: int,
) -> _Walk:
    if whole_bytes < 8:
        raise UnreadableDataSet("the data set is empty")
    return _Walk(
        data_set,
        whole_bytes,
        explicit=transfer_syntax_uid != IMPLICIT_LITTLE,
        little=transfer_syntax_uid != EXPLICIT_BIG,
        wanted=wanted,
        most_steps=most_steps,
    )


def inflate(deflated: Buffer) -> bytes:
    """Return the data set behind Deflated Explicit VR Little Endian (PS3.5 A.5). Raises UnreadableDataSet."""
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = machine.decompress(deflated, MAX_INFLATED_BYTES + 1)
    except zlib.error as error:
        raise UnreadableDataSet("the deflated data set cannot be inflated") from error
    if len(inflated) > MAX_INFLATED_BYTES:
        raise UnreadableDataSet("the deflated data set has more than 64 MiB")
    if not machine.eof:
        raise UnreadableDataSet("the deflated data set breaks off")
    return inflated


def _unpackers(order: str) -> tuple[Callable[..., tuple[Any, ...]], ...]:
    """Return how a tag, a short element's header and a 32-bit length are read."""
    return tuple(struct.Struct(order + form).unpack_from for form in ("HH", "HH2sH", "I"))


_UNPACK_LITTLE, _UNPACK_BIG = _unpackers("<"), _unpackers(">")


class _Walk:
    def __init__(
        self,
        data_set: Buffer,
        whole_bytes: int,
        *,
        explicit: bool,
        little: bool,
        wanted: frozenset[int] | None,
        most_steps: int,
    ) -> None:
        self._bytes = data_set
        self._at_hand = len(data_set)
        self._end = whole_bytes
        self._most_steps = most_steps
        self._explicit = explicit
        self._little = little
        self._wanted = wanted
        self._tag, self._short, self._u32 = _UNPACK_LITTLE if little else _UNPACK_BIG
        self._steps = 0

    def top_level(self) -> Scanned:
        values: dict[int, tuple[str, bytes]] = {}
        pixel_offset: int | None = None
        pixel_length: int | None = None
        position = 0
        while position < self._end:
            if self._end - position < 8:
                if self._at_hand < self._end:
                    raise _Beyond
                if any(bytes(self._bytes[position:])):
                    raise UnreadableDataSet("the data set ends within an element")
                break  # zeros that a writer left to fill a block
            tag, vr, length, at = self._element(position, self._explicit)
            group = tag >> 16
            if group in (0x0000, 0x0002, 0xFFFE):
                raise UnreadableDataSet("an element that has no place in a data set")
            if tag in _PIXEL_TAGS:
                pixel_offset, pixel_length = at, None if length == _UNDEFINED else length
            if length == _UNDEFINED:
                position = self._fragments(at) if tag in _PIXEL_TAGS else self._sequence(at, vr)
                if self._wanted is None:
                    values[tag] = ("SQ", b"")
                continue
            position = at + length
            if position > self._end:
                raise UnreadableDataSet("the data set ends within an element")
            if self._wanted is None or tag in self._wanted:
                if tag in values:
                    raise UnreadableDataSet("an attribute stands twice in the data set")
                if length <= MAX_VALUE_BYTES:
                    if position > self._at_hand:
                        raise _Beyond
                    values[tag] = (vr, bytes(self._bytes[at:position]))
        return Scanned(values, pixel_offset, pixel_length, self._little)

    def _element(self, position: int, explicit: bool) -> tuple[int, str, int, int]:
        """Return tag, VR, length and where the value begins."""
        self._steps += 1
        if self._steps > self._most_steps:
            raise _Beyond
        if position + 8 > self._end:
            raise UnreadableDataSet("the data set ends within an element")
        if explicit:
            group, element, vr, short = self._short(self._bytes, position)
            if group != 0xFFFE:
                name = _SHORT_VRS.get(vr)
                if name is not None:
                    return group << 16 | element, name, short, position + 8
                # PS3.5 7.1.2: every VR yet to come has a 32-bit length too.
                if not (vr.isalpha() and vr.isupper()):
                    raise UnreadableDataSet("an element without a value representation")
                if position + 12 > self._end:
                    raise UnreadableDataSet("the data set ends within an element")
                long = self._u32(self._bytes, position + 8)[0]
                return group << 16 | element, vr.decode("ascii"), long, position + 12
        else:
            group, element = self._tag(self._bytes, position)
        return group << 16 | element, "", self._u32(self._bytes, position + 4)[0], position + 8

    def _fragments(self, position: int) -> int:
        """Step over encapsulated pixel data (PS3.5 A.4); return where the next element begins."""
        while position < self._end:
            tag, _, length, at = self._element(position, explicit=False)
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM or length == _UNDEFINED or at + length > self._end:
                raise UnreadableDataSet("the encapsulated pixel data break off")
            position = at + length
        return position  # the delimiter is missing, every fragment is whole

    def _sequence(self, position: int, vr: str) -> int:
        """Step over a sequence of undefined length (PS3.5 7.5.2); return where the next element begins."""
        if self._explicit and vr not in ("SQ", "UN"):
            raise UnreadableDataSet("a value of undefined length that may have none")
        # PS3.5 6.2.2: an UN of undefined length is a sequence in implicit VR little endian.
        explicit = self._explicit and vr != "UN"
        stack = [(True, explicit)]  # (within a sequence, else within an item; explicit VR)
        while stack:
            in_sequence, explicit = stack[-1]
            tag, vr, length, at = self._element(position, explicit)
            position = at
            if in_sequence:
                if tag == _SEQUENCE_END:
                    stack.pop()
                elif tag != _ITEM:
                    raise UnreadableDataSet("a sequence holds something that is no item")
                elif length == _UNDEFINED:
                    stack.append((False, explicit))
                else:
                    position = at + length
            elif tag == _ITEM_END:
                stack.pop()
            elif tag >> 16 == 0xFFFE:
                raise UnreadableDataSet("an item holds a delimiter that has no place there")
            elif length != _UNDEFINED:
                position = at + length
            elif tag in _PIXEL_TAGS:
                position = self._fragments(at)
            else:
                stack.append((True, explicit and vr != "UN"))
            if len(stack) > 2 * MAX_DEPTH:
                raise UnreadableDataSet(f"sequences are nested more than {MAX_DEPTH} deep")
            if position > self._end:
                raise UnreadableDataSet("the data set ends within a sequence")
        return position
