"""The DICOMDIR of a set of files (PS3.3 annex F, PS3.10 8.6): patients, studies, series, objects. Pure.

Written from the finished DICOM JSON of the objects. What a type 1 key lacks is made up, as a directory that
names no file is of no use to whoever gets a medium; the objects themselves are not touched.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from pydicom import Dataset

from failover.dicom.data_sets import encoded
from failover.dicom.part10 import write_head
from failover.dicom.syntaxes import EXPLICIT_LITTLE

MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"
FileId = tuple[str, ...]  # at most 8 components of at most 8 characters (PS3.10 8.2)

_CLASS: Final = "1.2.840.10008.5.1.4.1.1."
_CONTENT: Final = (("00080023", "DA", "19000101"), ("00080033", "TM", "000000"))
_NUMBER: Final = ("00200013", "IS", 1)
_LABELLED: Final = (
    _NUMBER, *_CONTENT, ("00700080", "CS", "UNKNOWN"), ("00700081", "LO", None), ("00700084", "PN", None),
)  # fmt: skip
_CONCEPT: Final = ("0040A043", "SQ", None)
# Keys of each kind of record (PS3.3 F.5): tag, VR, what stands there when the object has no value.
_KEYS: Final[Mapping[str, tuple[tuple[str, str, Any], ...]]] = {
    "PATIENT": (("00100010", "PN", None), ("00100020", "LO", "UNKNOWN")),
    "STUDY": (
        ("00080020", "DA", "19000101"), ("00080030", "TM", "000000"), ("00081030", "LO", None),
        ("0020000D", "UI", None), ("00200010", "SH", "UNKNOWN"), ("00080050", "SH", None),
    ),
    "SERIES": (("00080060", "CS", "OT"), ("0020000E", "UI", None), ("00200011", "IS", 1)),
    "IMAGE": (_NUMBER,),
    "RT DOSE": (_NUMBER, ("3004000A", "CS", "PLAN")),
    "RT STRUCTURE SET": (
        _NUMBER, ("30060002", "SH", "UNKNOWN"), ("30060008", "DA", None), ("30060009", "TM", None),
    ),
    "RT PLAN": (_NUMBER, ("300A0002", "SH", "UNKNOWN"), ("300A0006", "DA", None), ("300A0007", "TM", None)),
    "RT TREAT RECORD": (_NUMBER, ("30080250", "DA", None), ("30080251", "TM", None)),
    "PRESENTATION": (
        _NUMBER, ("00700082", "DA", "19000101"), ("00700083", "TM", "000000"), ("00700080", "CS", "UNKNOWN"),
        ("00700081", "LO", None), ("00700084", "PN", None),
    ),
    "WAVEFORM": (_NUMBER, *_CONTENT),
    "SR DOCUMENT": (
        _NUMBER, *_CONTENT, ("0040A491", "CS", "PARTIAL"), ("0040A493", "CS", "UNVERIFIED"), _CONCEPT,
    ),
    "KEY OBJECT DOC": (_NUMBER, *_CONTENT, _CONCEPT),
    "ENCAP DOC": (
        _NUMBER, ("00080023", "DA", None), ("00080033", "TM", None), ("00420010", "ST", None), _CONCEPT,
        ("00420012", "LO", "application/octet-stream"),
    ),
    "RAW DATA": (_NUMBER, *_CONTENT),
    "REGISTRATION": _LABELLED,
    "FIDUCIAL": _LABELLED,
    "VALUE MAP": _LABELLED,
}  # fmt: skip
_KINDS: Final[tuple[tuple[str, str], ...]] = (
    (_CLASS + "481.2", "RT DOSE"), (_CLASS + "481.3", "RT STRUCTURE SET"), (_CLASS + "481.5", "RT PLAN"),
    (_CLASS + "481.8", "RT PLAN"), (_CLASS + "481.4", "RT TREAT RECORD"),
    (_CLASS + "481.6", "RT TREAT RECORD"),
    (_CLASS + "481.7", "RT TREAT RECORD"), (_CLASS + "481.9", "RT TREAT RECORD"),
    (_CLASS + "88.59", "KEY OBJECT DOC"), (_CLASS + "88.", "SR DOCUMENT"), (_CLASS + "104.", "ENCAP DOC"),
    (_CLASS + "11.", "PRESENTATION"), (_CLASS + "9.", "WAVEFORM"), (_CLASS + "66.1", "REGISTRATION"),
    (_CLASS + "66.2", "FIDUCIAL"), (_CLASS + "66.3", "REGISTRATION"), (_CLASS + "67", "VALUE MAP"),
)  # fmt: skip


def record_kind(sop_class_uid: str) -> str:
    """Return the Directory Record Type of objects of this class (PS3.3 table F.4-1)."""
    if sop_class_uid == _CLASS + "66":
        return "RAW DATA"
    for prefix, kind in _KINDS:
        if sop_class_uid == prefix or (prefix.endswith(".") and sop_class_uid.startswith(prefix)):
            return kind
    return "IMAGE"


class Directory:
    """Gathers objects, then writes the DICOMDIR. Of each object it keeps its record, some 300 bytes."""

    def __init__(self) -> None:
        self._patients: dict[str, _Node] = {}

    def add(
        self,
        attributes: Mapping[str, Any],
        file_id: FileId,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: str,
    ) -> None:
        """Add a file; `attributes` are the DICOM JSON of its object."""
        patient = _below(self._patients, _text(attributes, "00100020"), "PATIENT", attributes)
        study = _below(patient.children, _text(attributes, "0020000D"), "STUDY", attributes)
        series = _below(study.children, _text(attributes, "0020000E"), "SERIES", attributes)
        record = _record(record_kind(sop_class_uid), attributes)
        record.ReferencedFileID = list(file_id)
        record.ReferencedSOPClassUIDInFile = sop_class_uid
        record.ReferencedSOPInstanceUIDInFile = sop_instance_uid
        record.ReferencedTransferSyntaxUIDInFile = transfer_syntax
        series.children[sop_instance_uid] = _Node(record)

    def content(self, sop_instance_uid: str) -> bytes:
        """Return the file; `sop_instance_uid` is the directory's own."""
        head = write_head(MEDIA_STORAGE_DIRECTORY, sop_instance_uid, EXPLICIT_LITTLE)
        start = Dataset()
        start.FileSetID = "FAILOVER"
        start.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
        start.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
        start.FileSetConsistencyFlag = 0
        # Numbers of fixed length: what stands in them does not move what stands behind them.
        at = len(head) + len(encoded(start, EXPLICIT_LITTLE)) + 12
        nodes = [*_flat(self._patients)]
        for node in nodes:
            node.offset = at
            at += 8 + len(encoded(node.record, EXPLICIT_LITTLE))
        _link(self._patients)
        roots = [*self._patients.values()]
        if roots:
            start.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = roots[0].offset
            start.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = roots[-1].offset
        items = [encoded(node.record, EXPLICIT_LITTLE) for node in nodes]
        length = sum(8 + len(item) for item in items)
        sequence = struct.pack("<HH2s2xI", 0x0004, 0x1220, b"SQ", length)
        body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
        return head + encoded(start, EXPLICIT_LITTLE) + sequence + body


class _Node:
    def __init__(self, record: Dataset) -> None:
        self.record = record
        self.children: dict[str, _Node] = {}
        self.offset = 0


def _below(nodes: dict[str, _Node], key: str, kind: str, attributes: Mapping[str, Any]) -> _Node:
    if key not in nodes:
        nodes[key] = _Node(_record(kind, attributes))
    return nodes[key]


def _flat(nodes: Mapping[str, _Node]) -> list[_Node]:
    found: list[_Node] = []
    for node in nodes.values():
        found.append(node)
        found += _flat(node.children)
    return found


def _link(nodes: Mapping[str, _Node]) -> None:
    siblings = [*nodes.values()]
    for node, following in zip(siblings, [*siblings[1:], None], strict=False):
        node.record.OffsetOfTheNextDirectoryRecord = following.offset if following is not None else 0
        first = next(iter(node.children.values()), None)
        node.record.OffsetOfReferencedLowerLevelDirectoryEntity = first.offset if first is not None else 0
        _link(node.children)


def _record(kind: str, attributes: Mapping[str, Any]) -> Dataset:
    chosen: dict[str, Any] = {}
    for tag, vr, missing in _KEYS[kind]:
        held = attributes.get(tag) or {}
        if held.get("vr") == vr and held.get("Value"):
            chosen[tag] = {"vr": vr, "Value": held["Value"]}
        else:
            chosen[tag] = _value(vr, missing)
    try:
        record = Dataset.from_json(chosen)
        encoded(record, EXPLICIT_LITTLE, "ISO_IR 192")
    except Exception:  # values of a sender that pydicom cannot write: the keys alone are left
        plain = {
            tag: {"vr": vr} if value is None else {"vr": vr, "Value": [value]}
            for tag, vr, value in _KEYS[kind]
        }
        record = Dataset.from_json(plain)
    record.OffsetOfTheNextDirectoryRecord = 0
    record.RecordInUseFlag = 0xFFFF
    record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    record.DirectoryRecordType = kind
    record.SpecificCharacterSet = "ISO_IR 192"
    return record


def _value(vr: str, missing: Any) -> dict[str, Any]:
    return {"vr": vr} if missing is None else {"vr": vr, "Value": [missing]}


def _text(attributes: Mapping[str, Any], tag: str) -> str:
    held = (attributes.get(tag) or {}).get("Value") or [""]
    return str(held[0])
