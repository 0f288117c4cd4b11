"""A corpus of objects that lie: real files of pydicom, bytes and attributes of them changed, seeded."""

from __future__ import annotations

import random
import struct
import warnings
from collections.abc import Iterator
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset

from tests.unit.archive_web.samples import FILES

MAX_SEED_BYTES = 200_000
_WORDS = (0, 1, 7, 255, 65535, -1, 2**31 - 1)
_TEXTS = (
    "",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "\0",
    "A" * 70_000,
    "1.2.3\\4",
    "\u202e",
    "%00",
    "NaN",
)
_WHOLE = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PlanarConfiguration", "NumberOfFrames",
)  # fmt: skip
_TEXT = (
    "PatientName", "PatientID", "StudyDate", "StudyTime", "AccessionNumber", "Modality", "StudyInstanceUID",
    "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "PhotometricInterpretation", "SpecificCharacterSet",
    "WindowCenter", "WindowWidth", "RescaleSlope", "InstanceNumber",
)  # fmt: skip


def seeds() -> list[bytes]:
    """Return the real files, in the order of their names."""
    found = (
        path.read_bytes() for path in sorted(FILES.glob("*.dcm")) if path.stat().st_size < MAX_SEED_BYTES
    )
    return [raw for raw in found if raw[128:132] == b"DICM"]


def corpus(count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` objects, the same for the same seed."""
    good = seeds()
    for number in range(count):
        chance = random.Random(seed * 1_000_000 + number)
        yield malformed(_under_another_uid(good[number % len(good)], number), chance)


def _under_another_uid(raw: bytes, number: int) -> bytes:
    """Another object: under the same SOP instance UID all but the first would go to quarantine."""
    uid = str(pydicom.dcmread(BytesIO(raw), stop_before_pixels=True, force=True).get("SOPInstanceUID") or "")
    end = str(10_000 + number)
    return raw.replace(uid.encode(), (uid[: -len(end)] + end).encode()) if len(uid) > 12 else raw


def malformed(raw: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        try:
            return _other_attributes(raw, chance)
        except Exception:  # what pydicom cannot write is changed as bytes
            pass
    return _other_bytes(raw, chance)


def _other_bytes(raw: bytes, chance: random.Random) -> bytes:
    content = bytearray(raw)
    for _ in range(chance.randrange(1, 8)):
        # The head and the attributes are where lies are told; pixels are hit less often.
        end = len(content) if chance.random() < 0.3 else min(len(content), 3000)
        place = chance.randrange(end or 1)
        match chance.randrange(6):
            case 0:
                content[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del content[place : place + chance.randrange(1, 64)]
            case 2:
                content[place : place + 4] = struct.pack("<I", chance.choice((0, 1, 2**31 - 1, 2**32 - 1)))
            case 3:
                content[place:place] = content[: chance.randrange(1, 256)]
            case 4:
                del content[max(200, chance.randrange(len(content) + 1)) :]
            case _:
                content[place : place + 2] = chance.choice((b"SQ", b"UN", b"OB", b"UI", b"\0\0"))
    return bytes(content)


def _other_attributes(raw: bytes, chance: random.Random) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        instance = pydicom.dcmread(BytesIO(raw))
        for _ in range(chance.randrange(1, 4)):
            match chance.randrange(5):
                case 0:
                    name = chance.choice(_WHOLE)
                    value = chance.choice(_WORDS)
                    setattr(instance, name, value if name == "NumberOfFrames" else value & 0xFFFF)
                case 1:
                    setattr(instance, chance.choice(_TEXT), chance.choice(_TEXTS))
                case 2:
                    delattr(instance, chance.choice([name for name in (*_WHOLE, *_TEXT) if name in instance]))
                case 3:
                    depth = chance.choice((3, 3, 60))
                    nested = Dataset()
                    for _ in range(depth):
                        outer = Dataset()
                        outer.ReferencedStudySequence = [nested]
                        nested = outer
                    instance.ReferencedStudySequence = [nested] * (50 if depth == 3 else 1)
                case _:
                    if "PixelData" in instance:
                        instance.PixelData = bytes(instance.PixelData)[: 2 * chance.randrange(200)]
        out = BytesIO()
        instance.save_as(out)
        return out.getvalue()
