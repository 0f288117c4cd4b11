"""STOW of metadata and bulk data (PS3.18 10.5.1): stored as if the object had come whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import pytest_asyncio
from pydicom.encaps import generate_frames

from failover.dicom.json_model import first, to_json
from tests.integration.dicomweb_stage import WRITER, WebStage, a_web_archive
from tests.unit.archive_web.samples import FILES

pytestmark = pytest.mark.integration

METADATA, OCTETS = "application/dicom+json", "application/octet-stream"
Part = tuple[dict[str, str], bytes]


@pytest_asyncio.fixture
async def archive(tmp_path: Path) -> AsyncIterator[WebStage]:
    async with a_web_archive(tmp_path, filled=False) as stage:
        yield stage


def described(path: Path, uri: str) -> tuple[dict[str, Any], bytes]:
    """Return the metadata of a file, its pixels behind `uri`, and the pixels."""
    data_set = pydicom.dcmread(path)
    pixels = data_set.PixelData
    if data_set.file_meta.TransferSyntaxUID.is_encapsulated:
        pixels = next(generate_frames(pixels, number_of_frames=1))
    found = to_json(data_set, bulk_uri=lambda at, length: uri if at == "7FE00010" else None)
    return found, pixels


async def store(archive: WebStage, parts: list[Part]) -> tuple[int, dict[str, Any]]:
    body = b"".join(WRITER.part_head(head) + content for head, content in parts) + WRITER.end()
    headers = {"Content-Type": WRITER.content_type(METADATA)}
    async with archive.session.post(f"{archive.root}/studies", data=body, headers=headers) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if answer.content_type == METADATA else {}


@pytest.mark.parametrize(
    ("name", "media"),
    [
        ("CT_small.dcm", OCTETS),
        ("examples_rgb_color.dcm", OCTETS),
        ("MR_small_jpeg_ls_lossless.dcm", "image/jls; transfer-syntax=1.2.840.10008.1.2.4.80"),
    ],
)
@pytest.mark.parametrize("uri", ["pixels/1", "http://elsewhere.example/pixels"])
async def test_the_object_is_the_one_that_was_described(
    archive: WebStage, name: str, media: str, uri: str
) -> None:
    original = pydicom.dcmread(FILES / name)
    metadata, pixels = described(FILES / name, uri)
    status, said = await store(
        archive,
        [
            ({"Content-Type": METADATA}, json.dumps([metadata]).encode()),
            ({"Content-Type": media, "Content-Location": uri}, pixels),
        ],
    )
    assert status == 200, said
    stored = said["00081199"]["Value"][0]
    assert first(stored, "00081155") == original.SOPInstanceUID
    path = str(first(stored, "00081190")).removeprefix(archive.root)
    _, _, content = await archive.get(path, Accept="application/dicom; transfer-syntax=*")
    kept = pydicom.dcmread(BytesIO(content))
    if media == OCTETS:
        assert (kept.pixel_array == original.pixel_array).all()
    else:
        assert [*generate_frames(kept.PixelData, number_of_frames=1)] == [pixels]
    assert kept.PatientName == original.PatientName
    assert kept.file_meta.TransferSyntaxUID.is_encapsulated == (media != OCTETS)


async def test_one_that_cannot_be_made_harms_no_other(archive: WebStage) -> None:
    good, pixels = described(FILES / "CT_small.dcm", "a")
    lost, _ = described(FILES / "MR_small.dcm", "of which nobody sends anything")
    status, said = await store(
        archive,
        [
            ({"Content-Type": METADATA}, json.dumps([good, lost]).encode()),
            ({"Content-Type": OCTETS, "Content-Location": "a"}, pixels),
        ],
    )
    assert status == 202
    assert len(said["00081199"]["Value"]) == 1
    failed = said["00081198"]["Value"][0]
    assert (first(failed, "00081155"), first(failed, "00081197")) == (first(lost, "00080018"), str(0xC000))


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        (b"no JSON", 400),
        (b"[1]", 400),
        (b"[" * 100_000, 400),
        (b"[]", 400),
        (b"[{}]", 409),
        (b'[{"00080018": {"vr": "UI", "Value": [7]}}]', 409),
        (b'[{"00080018": "x", "00100010": {"vr": "PN", "Value": "x"}}]', 409),
        (b'[{"00400275": ' + b'{"vr":"SQ","Value":[{"00400275":' * 100 + b"{}" + b"}]}" * 100 + b"}]", 409),
    ],
)
async def test_bad_metadata_gets_a_proper_status(archive: WebStage, metadata: bytes, status: int) -> None:
    got, _ = await store(archive, [({"Content-Type": METADATA}, metadata)])
    assert got == status
    assert archive.half_received() == []


async def test_more_than_is_held_is_413(archive: WebStage) -> None:
    parts: list[Part] = [({"Content-Type": METADATA}, b"[{}]"), ({"Content-Type": OCTETS}, bytes(33 * 2**20))]
    assert (await store(archive, parts))[0] == 413
