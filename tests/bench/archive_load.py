"""The load of the archive's benchmark, a process of its own: stores and searches without a pause.

    python -m tests.bench.archive_load store PORT CALLED ASSOCIATIONS SECONDS
    python -m tests.bench.archive_load find PORT CALLED SECONDS patient|day
    python -m tests.bench.archive_load stow PORT SECONDS
    python -m tests.bench.archive_load fill PORT STUDIES

Objects are made of a template by writing other digits into it, so that the load costs little beside what it
loads. `store`, `find` and `stow` print {"done", "failed", "seconds"} (objects, searches, objects); `fill`
brings studies of one small instance each, and a stack of full size for the first of them.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import sys
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import uvloop
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from failover.clock import SystemClock
from failover.dicom.dimse import store_rq
from failover.dicom.negotiation import propose
from failover.dicom.part10 import read_head
from failover.dicom.requestor import open_association
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from failover.http.multipart import MultipartWriter
from failover.model import Address, AeTitle, DicomPeer
from tests.bench import find_load

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY_ROOT = "1.2.826.0.1.3680043.9.7307"
# Digits that stand nowhere else in an object, and are written over.
_STUDY_MARK, _OBJECT_MARK, _PATIENT_MARK, _DAY_MARK = "7711223344", "7755667788", "77990011", "19770801"
FIRST_DAY = 20260101
STUDIES_A_DAY = 100
STUDIES_A_PATIENT = 2
SLICES = 100


def study_uid(study: int) -> str:
    return f"{STUDY_ROOT}.1.{7700000000 + study}"


def series_uid(study: int) -> str:
    return f"{STUDY_ROOT}.2.{7700000000 + study}"


def object_uid(number: int) -> str:
    return f"{STUDY_ROOT}.3.{7700000000 + number}"


def patient_id(study: int) -> str:
    return f"{77000000 + study // STUDIES_A_PATIENT}"


def day_of(study: int) -> str:
    day = study // STUDIES_A_DAY
    return str(FIRST_DAY + day // 28 % 12 * 100 + day % 28)


class Template:
    """A CT of `edge` x `edge` pixels of 16 bits as a Part 10 file."""

    def __init__(self, edge: int) -> None:
        data = Dataset()
        data.SpecificCharacterSet = "ISO_IR 100"
        data.SOPClassUID, data.SOPInstanceUID = UID(CT), UID(f"{STUDY_ROOT}.3.{_OBJECT_MARK}")
        data.StudyDate = data.SeriesDate = data.ContentDate = _DAY_MARK
        data.StudyTime = data.SeriesTime = data.ContentTime = "101112"
        data.AccessionNumber, data.Modality = f"A{_STUDY_MARK}", "CT"
        data.ReferringPhysicianName, data.StudyDescription = "Doe^Jane", "CT Thorax"
        data.SeriesDescription = "axial"
        data.PatientName, data.PatientID = f"Bench{_PATIENT_MARK}^Test", _PATIENT_MARK
        data.PatientBirthDate, data.PatientSex = "19560314", "M"
        data.StudyInstanceUID = f"{STUDY_ROOT}.1.{_STUDY_MARK}"
        data.SeriesInstanceUID = f"{STUDY_ROOT}.2.{_STUDY_MARK}"
        data.StudyID, data.SeriesNumber, data.InstanceNumber = "1", 1, 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows = data.Columns = edge
        data.PixelSpacing, data.SliceThickness = [0.7, 0.7], 1
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.WindowCenter, data.WindowWidth = 1064, 400
        data.RescaleIntercept, data.RescaleSlope = 0, 1
        across = np.linspace(0, 6.28, edge)
        body = 1000 + 400 * np.sin(across)[:, None] * np.cos(across)[None, :]
        noise = np.random.default_rng(1).normal(0, 15, (edge, edge))
        data.PixelData = (body + noise).clip(0, 4095).astype("<u2").tobytes()
        data["PixelData"].VR = "OW"
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE)
        file = BytesIO()
        data.save_as(file, enforce_file_format=True)
        self._file = file.getvalue()
        self._offset = read_head(self._file).data_set_offset
        pixels = self._file.rindex(b"\xe0\x7f\x10\x00")
        self._head, self._pixels = self._file[:pixels], self._file[pixels:]

    def part10(self, number: int, study: int) -> bytes:
        """Return object `number`, of `study`."""
        head = self._head.replace(_OBJECT_MARK.encode(), object_uid(number)[-10:].encode())
        head = head.replace(_STUDY_MARK.encode(), study_uid(study)[-10:].encode())
        head = head.replace(_PATIENT_MARK.encode(), patient_id(study).encode())
        return head.replace(_DAY_MARK.encode(), day_of(study).encode()) + self._pixels

    def data_set(self, number: int, study: int) -> bytes:
        return self.part10(number, study)[self._offset :]


def numbers() -> Iterator[int]:
    """Numbers that no other run has used: objects stored twice would cost less."""
    return itertools.count(10_000_000 + int.from_bytes(os.urandom(4), "big") % 8_000_000_00)


def say(done: int, failed: int, seconds: float) -> None:
    sys.stdout.write(json.dumps({"done": done, "failed": failed, "seconds": seconds}) + "\n")


async def store(port: int, called: str, associations: int, seconds: float) -> None:
    clock, template, count = SystemClock(), Template(512), numbers()
    peer = DicomPeer(Address("127.0.0.1", port), AeTitle(called))
    began_s, done, failed = clock.monotonic(), 0, 0

    async def one(study: int) -> None:
        nonlocal done, failed
        association = await open_association(peer, f"LOAD{study % 8}", propose([CT]), timeout_s=30)
        message_ids = itertools.cycle(range(1, 65536))
        while clock.monotonic() - began_s < seconds:
            number = next(count)
            content = template.data_set(number, study)
            await association.send(1, store_rq(next(message_ids), CT, object_uid(number)), content)
            answer = await association.receive()
            good = answer is not None and answer.command.status == 0
            done, failed = done + good, failed + (not good)
        await association.release()

    first = next(count) % 1_000_000
    async with asyncio.TaskGroup() as group:
        for number in range(associations):
            group.create_task(one(100_000 + first + number))  # the group keeps and awaits it
    say(done, failed, clock.monotonic() - began_s)


def find(port: int, called: str, seconds: float, key: str) -> None:
    """Search for one patient's studies, or for those of one day."""

    def keys(study: int) -> dict[int, dict[str, object]]:
        return {
            0x00080020: {"vr": "DA", "Value": [day_of(study)] if key == "day" else []},
            0x00080030: {"vr": "TM"},
            0x00080050: {"vr": "SH"},
            0x00080052: {"vr": "CS", "Value": ["STUDY"]},
            0x00081030: {"vr": "LO"},
            0x00100010: {"vr": "PN"},
            0x00100020: {"vr": "LO", "Value": [patient_id(study)] if key == "patient" else []},
            0x0020000D: {"vr": "UI"},
        }

    expected = STUDIES_A_DAY if key == "day" else STUDIES_A_PATIENT
    searches = [(keys(study), expected) for study in range(0, 1000, 7)]
    say(*find_load.find(port, called, searches, seconds))


class Stow:
    """Posts objects to a DICOMweb server, over one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self._writer = MultipartWriter("bench-0123456789abcdef0123456789abcdef0123456789abcdef")

    def body(self, objects: list[bytes]) -> bytes:
        head = self._writer.part_head({"Content-Type": "application/dicom"})
        return b"".join(head + one for one in objects) + self._writer.end()

    def post(self, body: bytes) -> int:
        """Return how many objects were stored."""
        headers = {
            "Content-Type": self._writer.content_type("application/dicom"),
            "Accept": "application/dicom+json",
        }
        self._connection.request("POST", "/dicom-web/studies", body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        return len(json.loads(content)["00081199"]["Value"]) if answer.status in (200, 202) else 0


def stow(port: int, seconds: float) -> None:
    clock, template, count, client = SystemClock(), Template(128), numbers(), Stow(port)
    study = 2_000_000 + next(count) % 1_000_000
    done, failed, spent_s, began_s = 0, 0, 0.0, clock.monotonic()
    while clock.monotonic() - began_s < seconds:
        body = client.body([template.part10(next(count), study) for _ in range(100)])
        sent_s = clock.monotonic()
        stored = client.post(body)
        spent_s += clock.monotonic() - sent_s  # without what it costs us to make the body
        done, failed = done + stored, failed + 100 - stored
    say(done, failed, spent_s)


def fill(port: int, studies: int) -> None:
    client, template, large = Stow(port), Template(32), Template(512)
    for at in range(0, studies, 100):
        objects = [template.part10(study, study) for study in range(at, min(studies, at + 100))]
        assert client.post(client.body(objects)) == len(objects), "not all was stored"
    for at in range(0, SLICES, 10):
        slices = [large.part10(1_000_000 + number, 0) for number in range(at, at + 10)]
        assert client.post(client.body(slices)) == len(slices), "not all was stored"
    say(studies, 0, 0)


def main() -> None:
    work, port, *rest = sys.argv[1:]
    if work == "store":
        uvloop.run(store(int(port), rest[0], int(rest[1]), float(rest[2])))
    elif work == "find":
        find(int(port), rest[0], float(rest[1]), rest[2])
    elif work == "stow":
        stow(int(port), float(rest[0]))
    else:
        fill(int(port), int(rest[0]))


if __name__ == "__main__":
    main()
