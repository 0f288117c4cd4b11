"""A lean C-FIND caller: it sends finished bytes and counts matches as they pass, so that what is measured is
the answering side and not the load. One association, one search after the other.

It trusts its peer: whole PDUs, one presentation context. What it cannot read ends it.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from failover.clock import SystemClock
from failover.dicom.dimse import NO_DATA_SET, Tag, find_rq, parse_command
from failover.dicom.encoding import encode as encode_pdu
from failover.dicom.encoding import p_data_header
from failover.dicom.identifier import encode
from failover.dicom.negotiation import IMPLEMENTATION_CLASS_UID, propose
from failover.dicom.pdu import PduReader
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from failover.dicom.units import AssociateAc, AssociateRq, ReleaseRq, UserInformation, padded_ae

MODEL: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_PDU_BYTES: Final = 65536
_COMMAND, _LAST = 1, 2
# Of a command set: no data set follows, so this response is the final one.
_FINAL: Final = struct.pack("<HHIH", 0, Tag.DATA_SET_TYPE, 2, NO_DATA_SET)
_PREFIX: Final = struct.Struct(">BxI").unpack_from
_PDV: Final = struct.Struct(">IxB").unpack_from


class Finder:
    """One association for C-FIND."""

    def __init__(self, port: int, called: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        user = UserInformation(_PDU_BYTES, IMPLEMENTATION_CLASS_UID)
        rq = AssociateRq(padded_ae(called), padded_ae("LOAD"), propose([MODEL]), user)
        self._socket.sendall(encode_pdu(rq))
        answer = next(iter(PduReader(_PDU_BYTES).receive_data(self._socket.recv(_PDU_BYTES))))
        assert isinstance(answer, AssociateAc), "the association is refused"
        self._implicit = answer.contexts[0].transfer_syntax != EXPLICIT_LITTLE
        self._message_ids = itertools.cycle(range(1, 65536))
        self._buffer = bytearray()

    def ask(self, keys: Mapping[int, Mapping[str, Any]]) -> bytes:
        """Return the bytes of a search, to be sent as often as is liked."""
        command = find_rq(next(self._message_ids), MODEL).encode()
        identifier = encode(keys, implicit=self._implicit)
        return b"".join(
            (
                p_data_header(1, len(command), is_command=True, is_last=True), command,
                p_data_header(1, len(identifier), is_command=False, is_last=True), identifier,
            )
        )  # fmt: skip

    def find(self, asked: bytes) -> tuple[int, int]:
        """Return the final status and how many matches came before it."""
        self._socket.sendall(asked)
        matches = 0
        data = self._buffer
        while True:
            at, end = 0, len(data)
            while end - at >= 6:
                kind, length = _PREFIX(data, at)
                after = at + 6 + length
                if after > end:
                    break
                assert kind == 4, "the association is over"
                place = at + 6
                while place < after:
                    length, control = _PDV(data, place)
                    if control == _LAST:
                        matches += 1
                    elif control & _COMMAND and (data.find(_FINAL, place, place + 4 + length)) >= 0:
                        status = parse_command(data[place + 6 : place + 4 + length]).status
                        del data[:after]
                        return status, matches
                    place += 4 + length
                at = after
            del data[:at]
            # Debian's DCMTK writes a PDU in two writes with Nagle on: without an ACK at once the second one
            # waits 40 ms, and that would be measured. The kernel forgets the option, so it is set each time.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            more = self._socket.recv(262144)
            assert more, "the association is over"
            data += more

    def close(self) -> None:
        self._socket.sendall(encode_pdu(ReleaseRq()))
        self._socket.close()


def find(
    port: int, called: str, searches: Sequence[tuple[Mapping[int, Mapping[str, Any]], int]], seconds: float
) -> tuple[int, int, float]:
    """Ask each of `searches` (its keys, and how many match) in turn; return done, failed, seconds."""
    clock, finder = SystemClock(), Finder(port, called)
    asked = itertools.cycle([(finder.ask(keys), expected) for keys, expected in searches])
    began_s, done, failed = clock.monotonic(), 0, 0
    while clock.monotonic() - began_s < seconds:
        request, expected = next(asked)
        good = finder.find(request) == (0, expected)
        done, failed = done + good, failed + (not good)
    spent_s = clock.monotonic() - began_s
    finder.close()
    return done, failed, spent_s
