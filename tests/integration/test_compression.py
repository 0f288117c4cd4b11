"""What was compressed in the background, as real callers get it: DCMTK, WADO-RS, C-MOVE, C-GET."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest

from failover.clock import SystemClock
from tests.integration.archive_stage import AE_TITLE, dcmtk
from tests.integration.dicomweb_stage import WebStage, a_web_archive, parts_of
from tests.peers.process import free_port
from tests.peers.storescp import Storescp
from tests.unit.archive.objects import part10, uid
from tests.unit.archive.test_compressing import SIGNED, an_image, colour, frames

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

J70, JLS, EXPLICIT = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.1"
IMAGES = [an_image(SIGNED, BitsStored=12, HighBit=11), colour(), frames(3)]
for number, image in enumerate(IMAGES, 1):
    image.SOPInstanceUID, image.InstanceNumber = uid(1, 1, number), number


@asynccontextmanager
async def compressed(folder: Path, how: str, **settings: object) -> AsyncIterator[WebStage]:
    """An archive that holds IMAGES, proven and compressed."""
    async with a_web_archive(folder, filled=False, compression=how, **settings) as stage:
        status, said = await stage.store(*(part10(one) for one in IMAGES))
        assert status == 200, said
        uids = [str(one.SOPInstanceUID) for one in IMAGES]
        await stage.ask("ledger.mark", {"sop_instance_uids": uids, "state": "proven"})
        async with asyncio.timeout(60):
            while 'compressed_total{result="done"} 3.0' not in (await stage.ask("metrics"))["text"]:
                await SystemClock().sleep(0.05)
        yield stage


def assert_same_pixels(path: Path, number: int) -> None:
    found, original = pydicom.dcmread(path), IMAGES[number - 1]
    assert found.file_meta.TransferSyntaxUID == EXPLICIT
    assert found.PixelData == original.PixelData
    assert found.PatientName == original.PatientName
    assert found.SOPInstanceUID == original.SOPInstanceUID


@pytest.mark.parametrize(
    ("how", "syntax", "program"), [("jpeg-lossless", J70, "dcmdjpeg"), ("jpeg-ls", JLS, "dcmdjpls")]
)
async def test_another_toolkit_reads_what_we_have_compressed(
    tmp_path: Path, how: str, syntax: str, program: str
) -> None:
    """Given compressed objects, when DCMTK decodes them, then it finds every pixel and no fault."""
    async with compressed(tmp_path, how) as stage:
        status, answer, body = await stage.get(
            f"/studies/{uid(1)}", Accept='multipart/related; type="application/dicom"; transfer-syntax=*'
        )
        assert status == 200
        found = [content for _, content in parts_of(answer.headers["Content-Type"], body)]
        assert len(found) == 3
        for number, content in enumerate(found, 1):
            source, target = tmp_path / f"{number}.dcm", tmp_path / f"{number}.out"
            source.write_bytes(content)
            code, said = await dcmtk("dcmdump", "+P", "0002,0010", "-Un", source)
            assert (code, syntax in said) == (0, True), said
            code, said = await dcmtk(program, source, target)
            assert code == 0, said
            assert "E:" not in said
            assert_same_pixels(target, number)


async def test_who_asks_for_nothing_or_for_the_default_gets_it_uncompressed(tmp_path: Path) -> None:
    """PS3.18 8.7.3.5.2: Explicit VR Little Endian is the default; `*` is what is stored."""
    async with compressed(tmp_path, "jpeg-lossless") as stage:
        path = f"/studies/{uid(1)}/series/{uid(1, 1)}/instances/{uid(1, 1, 1)}"
        status, answer, body = await stage.get(path, Accept="application/dicom")
        (tmp_path / "plain.dcm").write_bytes(body)
        assert (status, answer.headers["Content-Type"]) == (
            200,
            f"application/dicom; transfer-syntax={EXPLICIT}",
        )
        assert_same_pixels(tmp_path / "plain.dcm", 1)
        _, answer, _ = await stage.get(path, Accept="application/dicom; transfer-syntax=*")
        assert answer.headers["Content-Type"] == f"application/dicom; transfer-syntax={J70}"
        _, _, body = await stage.get(
            path + "/frames/1", Accept="application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
        )
        assert np.array_equal(np.frombuffer(body, "<i2").reshape(32, 32), SIGNED)
        metadata = await stage.search(path + "/metadata")
        assert metadata[0]["00080018"]["Value"] == [uid(1, 1, 1)]
        [found] = await stage.search(f"/studies/{uid(1)}/instances?InstanceNumber=1&includefield=00083002")
        assert found["00083002"]["Value"] == [J70]


async def test_a_peer_that_takes_nothing_compressed_gets_every_pixel(tmp_path: Path) -> None:
    """C-GET and C-MOVE transcode to what the peer accepts."""
    taken = free_port()
    async with compressed(tmp_path / "archive", "jpeg-ls", destinations={"PLAIN": taken}) as stage:
        port = stage.configuration.archive.dicom.port
        query = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={uid(1)}"]
        got = tmp_path / "got"
        got.mkdir()
        code, said = await dcmtk("getscu", "+B", "-od", got, "-aec", AE_TITLE, *query, "127.0.0.1", port)
        assert code == 0, said
        with Storescp(dicom_port=taken, ae_title="PLAIN", options=["+xe"]) as plain:
            code, said = await dcmtk(
                "movescu", "-S", "-aem", "PLAIN", "-aec", AE_TITLE, *query, "127.0.0.1", port
            )
            assert code == 0, said
            for files in (sorted(got.iterdir()), plain.files()):
                assert len(files) == 3
                for file in files:
                    assert_same_pixels(file, int(pydicom.dcmread(file).InstanceNumber))
