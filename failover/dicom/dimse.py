"""DIMSE command sets (PS3.7): from bytes to objects and back; their elements, fields, statuses. Pure.

A command set is kept element by element as its raw bytes, so that what we do not know passes unchanged.
Where one begins and ends in what a peer sends is `messages`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Final

from failover.dicom.units import Buffer
from failover.errors import MalformedMessage

NO_DATA_SET: Final = 0x0101


class CommandField(IntEnum):
    """PS3.7 E.1, element (0000,0100). A response has the bit 0x8000."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_GET_RSP = 0x8010
    C_FIND_RQ = 0x0020
    C_FIND_RSP = 0x8020
    C_MOVE_RQ = 0x0021
    C_MOVE_RSP = 0x8021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_GET_RQ = 0x0110
    N_GET_RSP = 0x8110
    N_SET_RQ = 0x0120
    N_SET_RSP = 0x8120
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130
    N_CREATE_RQ = 0x0140
    N_CREATE_RSP = 0x8140
    N_DELETE_RQ = 0x0150
    N_DELETE_RSP = 0x8150
    C_CANCEL_RQ = 0x0FFF

    @property
    def word(self) -> str:
        """The name in the standard, without RQ or RSP: C-STORE."""
        return self.name.rsplit("_", 1)[0].replace("_", "-")


class Tag(IntEnum):
    """Elements of group 0000 (PS3.7 E.1), by element number."""

    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_RESPONDED_TO = 0x0120
    MOVE_DESTINATION = 0x0600
    PRIORITY = 0x0700
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    OFFENDING_ELEMENT = 0x0901
    ERROR_COMMENT = 0x0902
    ERROR_ID = 0x0903
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    REQUESTED_SOP_INSTANCE_UID = 0x1001
    EVENT_TYPE_ID = 0x1002
    ACTION_TYPE_ID = 0x1008
    REMAINING = 0x1020
    COMPLETED = 0x1021
    FAILED = 0x1022
    WARNING = 0x1023
    MOVE_ORIGINATOR_AE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031


_NUMBERS: Final = frozenset({
    Tag.COMMAND_FIELD, Tag.MESSAGE_ID, Tag.MESSAGE_ID_RESPONDED_TO, Tag.PRIORITY, Tag.DATA_SET_TYPE,
    Tag.STATUS, Tag.ERROR_ID, Tag.EVENT_TYPE_ID, Tag.ACTION_TYPE_ID, Tag.REMAINING, Tag.COMPLETED, Tag.FAILED,
    Tag.WARNING, Tag.MOVE_ORIGINATOR_MESSAGE_ID,
})  # fmt: skip
_UIDS: Final = frozenset({
    Tag.AFFECTED_SOP_CLASS_UID, Tag.REQUESTED_SOP_CLASS_UID, Tag.AFFECTED_SOP_INSTANCE_UID,
    Tag.REQUESTED_SOP_INSTANCE_UID,
})  # fmt: skip


class Status(IntEnum):
    """Statuses that we send ourselves (PS3.7 annex C, PS3.4)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_SOP_CLASS = 0x0118
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    UNRECOGNIZED_OPERATION = 0x0211
    OUT_OF_RESOURCES = 0xA700
    UNABLE_TO_COUNT = 0xA701
    UNABLE_TO_PERFORM = 0xA702
    MOVE_DESTINATION_UNKNOWN = 0xA801
    IDENTIFIER_DOES_NOT_MATCH = 0xA900
    SUB_OPERATIONS_WITH_FAILURES = 0xB000
    CANNOT_UNDERSTAND = 0xC000
    UNABLE_TO_PROCESS = 0xC001
    CANCEL = 0xFE00
    PENDING = 0xFF00


class Category(StrEnum):
    SUCCESS = "success"
    PENDING = "pending"
    WARNING = "warning"
    FAILURE = "failure"
    CANCEL = "cancel"


def category(status: int) -> Category:
    """Return what kind of status this is (PS3.7 annex C)."""
    if status == 0:
        return Category.SUCCESS
    if status in (0xFF00, 0xFF01):
        return Category.PENDING
    if status == 0xFE00:
        return Category.CANCEL
    if status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116):
        return Category.WARNING
    return Category.FAILURE


class Command:
    """One command set. Made by `parse`, or by `make` from numbers and text."""

    __slots__ = ("_field", "_message_id", "elements")

    def __init__(self, elements: Mapping[int, bytes]) -> None:
        """`elements` must not change any more: what is asked for often is read out of them once."""
        self.elements = elements
        self._field = self._message_id = -1

    @classmethod
    def make(cls, field: CommandField, values: Mapping[Tag, int | str | None]) -> Command:
        """Return a command set; numbers are US, text is padded as its VR wants; None is left out.

        DATA_SET_TYPE is NO_DATA_SET unless given.
        """
        elements = {int(Tag.COMMAND_FIELD): struct.pack("<H", field)}
        elements[Tag.DATA_SET_TYPE] = struct.pack("<H", NO_DATA_SET)
        for tag, value in values.items():
            if value is not None:
                elements[tag] = _encoded(tag, value)
        return cls(elements)

    def replaced(self, values: Mapping[Tag, int | str | None]) -> Command:
        """Return a copy with other values; None takes an element away."""
        elements = dict(self.elements)
        for tag, value in values.items():
            if value is None:
                elements.pop(tag, None)
            else:
                elements[tag] = _encoded(tag, value)
        return Command(elements)

    def number(self, tag: Tag) -> int | None:
        """Return a US element, None when it is absent or empty. Raises MalformedMessage."""
        raw = self.elements.get(tag)
        if not raw:
            return None
        if len(raw) != 2:
            raise MalformedMessage(f"element (0000,{tag:04x}) has {len(raw)} bytes, must have 2")
        return raw[0] | raw[1] << 8

    def text(self, tag: Tag) -> str:
        """Return a UI, AE or LO element without its padding, "" when absent."""
        return self.elements.get(tag, b"").decode("latin-1").strip("\0 ")

    @property
    def field(self) -> int:
        """Command field; 0 when it is missing (PS3.7 knows no such field)."""
        if self._field < 0:
            self._field = self.number(Tag.COMMAND_FIELD) or 0
        return self._field

    @property
    def is_response(self) -> bool:
        return bool(self.field & 0x8000)

    @property
    def name(self) -> str:
        """The standard's name without RQ or RSP (C-STORE), or `unknown`."""
        try:
            return CommandField(self.field).word
        except ValueError:
            return "unknown"

    @property
    def message_id(self) -> int:
        """Message ID of a request, Message ID Being Responded To of a response or C-CANCEL."""
        if self._message_id < 0:
            answers = self.is_response or self.field == CommandField.C_CANCEL_RQ
            own, answered = self.number(Tag.MESSAGE_ID), self.number(Tag.MESSAGE_ID_RESPONDED_TO)
            self._message_id = (answered if answers else own) or 0
        return self._message_id

    @property
    def has_data_set(self) -> bool:
        return (self.number(Tag.DATA_SET_TYPE) or 0) != NO_DATA_SET

    @property
    def status(self) -> int:
        """Status of a response. A response without one counts as a processing failure."""
        status = self.number(Tag.STATUS)
        return Status.PROCESSING_FAILURE if status is None else status

    @property
    def sop_class_uid(self) -> str:
        return self.text(Tag.AFFECTED_SOP_CLASS_UID) or self.text(Tag.REQUESTED_SOP_CLASS_UID)

    @property
    def sop_instance_uid(self) -> str:
        return self.text(Tag.AFFECTED_SOP_INSTANCE_UID) or self.text(Tag.REQUESTED_SOP_INSTANCE_UID)

    def encode(self) -> bytes:
        """Return the bytes: implicit VR little endian, ascending, with its group length (PS3.7 6.3.1)."""
        parts: list[bytes] = []
        for element in sorted(self.elements):
            if element != Tag.GROUP_LENGTH:
                value = self.elements[element]
                parts.append(struct.pack("<HHI", 0, element, len(value)))
                parts.append(value)
        body = b"".join(parts)
        return struct.pack("<HHII", 0, 0, 4, len(body)) + body

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Command) and self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash(self.encode())

    def __repr__(self) -> str:  # no UIDs: it may reach a log
        return f"<Command {self.name} {'RSP' if self.is_response else 'RQ'}>"


def _encoded(tag: Tag, value: int | str) -> bytes:
    if tag in _NUMBERS:
        return struct.pack("<H", int(value))
    raw = str(value).encode("latin-1", "replace")
    if len(raw) % 2:
        raw += b"\0" if tag in _UIDS else b" "
    return raw


def parse_command(raw: Buffer) -> Command:
    """Return the command set in `raw`. Raises MalformedMessage when it has no single reading."""
    elements: dict[int, bytes] = {}
    view = memoryview(raw)
    at, whole = 0, len(view)
    while at < whole:
        if whole - at < 8:
            raise MalformedMessage("an element of a command set without its header")
        group, element, length = struct.unpack_from("<HHI", view, at)
        at += 8
        if group != 0:
            raise MalformedMessage(f"group {group:04x} in a command set")
        if length > whole - at:
            raise MalformedMessage("the length of an element does not fit its command set")
        if element in elements:
            raise MalformedMessage(f"element (0000,{element:04x}) twice")
        elements[element] = bytes(view[at : at + length])
        at += length
    command = Command(elements)
    if command.number(Tag.COMMAND_FIELD) is None:
        raise MalformedMessage("a command set without a command field")
    if command.number(Tag.DATA_SET_TYPE) is None:
        raise MalformedMessage("a command set that does not say whether a data set follows")
    return command


# -- making messages --------------------------------------------------------------------------------


def echo_rq(message_id: int) -> Command:
    return Command.make(
        CommandField.C_ECHO_RQ,
        {Tag.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.1.1", Tag.MESSAGE_ID: message_id},
    )


def find_rq(message_id: int, model_uid: str, *, priority: int = 0) -> Command:
    """C-FIND-RQ; its identifier is the data set."""
    return Command.make(
        CommandField.C_FIND_RQ,
        {
            Tag.AFFECTED_SOP_CLASS_UID: model_uid,
            Tag.MESSAGE_ID: message_id,
            Tag.PRIORITY: priority,
            Tag.DATA_SET_TYPE: 0x0001,
        },
    )


def store_rq(
    message_id: int,
    sop_class_uid: str,
    sop_instance_uid: str,
    *,
    originator_ae: str | None = None,
    originator_message_id: int | None = None,
) -> Command:
    """C-STORE-RQ; the instance is the data set. The originator is given for sub-operations of a C-MOVE."""
    return Command.make(
        CommandField.C_STORE_RQ,
        {
            Tag.AFFECTED_SOP_CLASS_UID: sop_class_uid,
            Tag.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
            Tag.MESSAGE_ID: message_id,
            Tag.PRIORITY: 0,
            Tag.DATA_SET_TYPE: 0x0001,
            Tag.MOVE_ORIGINATOR_AE: originator_ae,
            Tag.MOVE_ORIGINATOR_MESSAGE_ID: originator_message_id,
        },
    )


def cancel_rq(message_id: int) -> Command:
    return Command.make(CommandField.C_CANCEL_RQ, {Tag.MESSAGE_ID_RESPONDED_TO: message_id})


def response(
    request: Command,
    status: int,
    values: Mapping[Tag, int | str | None] | None = None,
    *,
    has_data_set: bool = False,
) -> Command:
    """Return the response to `request` with `status`; Error Comment is cut to its 64 characters (VR LO)."""
    given = dict(values or {})
    comment = given.get(Tag.ERROR_COMMENT)
    if isinstance(comment, str):
        given[Tag.ERROR_COMMENT] = comment[:64]
    return Command.make(
        CommandField(request.field | 0x8000),
        {
            Tag.AFFECTED_SOP_CLASS_UID: request.sop_class_uid or None,
            Tag.AFFECTED_SOP_INSTANCE_UID: request.sop_instance_uid or None,
            Tag.MESSAGE_ID_RESPONDED_TO: request.message_id,
            Tag.STATUS: status,
            Tag.DATA_SET_TYPE: 0x0001 if has_data_set else NO_DATA_SET,
            **given,
        },
    )
