"""A byte stream cut into the PDUs of the DICOM upper layer (PS3.8 section 9.3). Pure.

`PduReader` checks type and length of a PDU before it keeps a byte of its body, so a peer cannot make us
buffer more than it may send. What a PDU means in which state is `association`; what is agreed, `negotiation`;
how the bytes of one are read is `decoding`, how they are written `encoding`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from failover.dicom.decoding import decode
from failover.dicom.units import AbortReason, Buffer, DataRun, Pdu, PduType
from failover.errors import MalformedPdu

MAX_ASSOCIATE_BYTES: Final = 256 * 1024  # a legal RQ of 128 contexts x 45 transfer syntaxes has 157,700
# Shorter fragments are no part of a run: whoever keeps one keeps the bytes of all.
LEAST_IN_RUN_BYTES: Final = 1024
_P_DATA_HEADER: Final = struct.Struct(">BBIIBB")  # of a P-DATA-TF and its first PDV item


class PduReader:
    """Cuts a byte stream into PDUs. After it has raised, it is to be thrown away."""

    def __init__(self, max_pdu_bytes: int, max_associate_bytes: int = MAX_ASSOCIATE_BYTES) -> None:
        self._max_p_data = max_pdu_bytes
        self._max_associate = max_associate_bytes
        self._kept = bytearray()
        self.left_bytes = 0  # at the end of the last `data` that stays: an unfinished PDU
        self._needed = 6  # bytes until the next step: a header, or a whole PDU

    @property
    def held_bytes(self) -> int:
        """How many bytes of an unfinished PDU are kept."""
        return len(self._kept)

    def receive_data(self, data: Buffer, *, stays: bool = False) -> Iterator[Pdu]:
        """Yield each PDU now complete and keep the rest; `data` may be reused afterwards. To be exhausted.

        When it `stays` as it is, runs are views of it, and of an unfinished PDU at its end nothing is kept:
        these `left_bytes` are to be given again, with those that follow.

        Raises MalformedPdu with the reason for the A-ABORT, after the PDUs before it: at an unknown type or
        a length beyond the limit before anything of that PDU's body is waited for.
        """
        view = memoryview(data)
        self.left_bytes = 0
        if self._kept:
            missing = self._needed - len(self._kept)
            self._kept += view[:missing]
            view = view[missing:]
            if len(self._kept) < self._needed:
                _check_type(self._kept[0])
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
            run = self._run(whole, 0, len(whole), stays=True)
            yield decode(whole[0], memoryview(whole)[6:]) if run is None else run
        at, end = 0, len(view)
        while end - at >= 6:
            run = self._run(view, at, end, stays=stays)
            if run is not None:
                at += len(run.framed)
                yield run
                continue
            kind, length = view[at], int.from_bytes(view[at + 2 : at + 6], "big")
            self._check(kind, length)
            after = at + 6 + length
            if after > end:
                if not stays:
                    self._needed = 6 + length
                break
            yield decode(kind, bytes(view[at + 6 : after]))  # the one copy: `data` will be reused
            at = after
        if at < end:
            _check_type(view[at])
            if stays:
                self.left_bytes = end - at
            else:
                self._kept += view[at:]

    def _run(self, view: bytearray | memoryview, first: int, end: int, *, stays: bool) -> DataRun | None:
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
        # The one copy, where what was read will be written over.
        framed: Buffer = memoryview(view)[first:at] if stays else bytes(view[first:at])
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


def _check_type(kind: int) -> None:
    if not 1 <= kind <= 7:
        raise MalformedPdu(f"PDU type {kind:#04x}", reason=AbortReason.UNRECOGNIZED_PDU)
