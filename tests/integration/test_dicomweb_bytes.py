"""Bytes of objects over real sockets: ranges, validators, lengths told beforehand, frames as stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from failover.archive.pixels import NoPixels, open_image
from failover.archive.rendering import decoded_frame
from failover.dicom.json_model import first
from tests.integration.dicomweb_stage import WebStage, a_web_archive, parts_of
from tests.unit.archive_web.samples import FILES, image

pytestmark = pytest.mark.integration

PART10 = "application/dicom; transfer-syntax=*"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WebStage]:
    async with a_web_archive(tmp_path_factory.mktemp("archive"), has_primary=False) as stage:
        yield stage


async def instances(archive: WebStage, question: str) -> list[str]:
    """Return the paths of the instances that match."""
    found = await archive.search(f"/instances?{question}")
    return [str(first(one, "00081190")).removeprefix(archive.root) for one in found]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_range_of_an_instance(archive: WebStage) -> None:
    path = (await instances(archive, "Modality=CT&limit=1"))[0]
    _, answer, whole = await archive.get(path, Accept=PART10)
    etag = answer.headers["ETag"]
    assert answer.headers["Accept-Ranges"] == "bytes"
    for field, expected in (("bytes=0-9", whole[:10]), ("bytes=-7", whole[-7:]), ("bytes=100-", whole[100:])):
        status, answer, body = await archive.get(path, Accept=PART10, Range=field)
        assert (status, body) == (206, expected), field
        assert answer.headers["Content-Range"].endswith(f"/{len(whole)}")
        assert answer.headers["Content-Length"] == str(len(expected))
    status, answer, _ = await archive.get(path, Accept=PART10, Range=f"bytes={len(whole)}-")
    assert (status, answer.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    for validator, status in ((etag, 206), ('"of another system"', 200)):
        got, _, _ = await archive.get(path, Accept=PART10, Range="bytes=0-9", If_Range=validator)
        assert got == status, validator
    async with archive.session.head(
        archive.root + path, headers={"Accept": PART10, "Range": "bytes=0-9"}
    ) as head:
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(whole)))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_range_of_a_frame_and_of_a_value(archive: WebStage) -> None:
    path = (await instances(archive, "Modality=CT&limit=1"))[0]
    for where in ("frames/1", "bulkdata/7FE00010"):
        status, answer, whole = await archive.get(f"{path}/{where}", Accept="application/octet-stream")
        assert (status, answer.headers["Accept-Ranges"]) == (200, "bytes"), where
        status, answer, body = await archive.get(
            f"{path}/{where}",
            Accept="application/octet-stream",
            Range="bytes=8-15",
            If_Range=answer.headers["ETag"],
        )
        assert (status, body) == (206, whole[8:16]), where
        status, _, _ = await archive.get(
            f"{path}/{where}", Accept="application/octet-stream", Range="bytes=999999999-"
        )
        assert status == 416, where


@pytest.mark.asyncio(loop_scope="module")
async def test_a_multipart_answer_has_no_ranges_and_says_how_long_its_parts_are(archive: WebStage) -> None:
    path = (await instances(archive, "Modality=CT&limit=1"))[0]
    series = path.partition("/instances/")[0]
    wanted = {
        series: 'multipart/related; type="application/dicom"; transfer-syntax=*',
        f"{path}/frames/1": 'multipart/related; type="application/octet-stream"',
        f"{path}/frames/1,1": 'multipart/related; type="application/octet-stream"',
        f"{path}/bulkdata/7FE00010": 'multipart/related; type="application/octet-stream"',
    }
    for where, accept in wanted.items():
        status, answer, body = await archive.get(where, Accept=accept, Range="bytes=0-9")
        assert (status, answer.headers["Content-Length"]) == (200, str(len(body))), where
        parts = parts_of(answer.headers["Content-Type"], body)
        assert parts
        assert [head["content-length"] for head, _ in parts] == [str(len(content)) for _, content in parts]


@pytest.mark.asyncio(loop_scope="module")
async def test_every_frame_is_what_a_reader_of_the_file_finds(archive: WebStage, tmp_path: Path) -> None:
    native = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7)
    names = (
        "SC_rgb_rle_2frame.dcm", "JPEG2000.dcm", "SC_rgb_small_odd.dcm", "rtdose.dcm",
        "693_J2KI.dcm", "MR_small_bigendian.dcm", "examples_ybr_color.dcm", "JPGExtended.dcm",
    )  # fmt: skip
    more = [image(tmp_path / "frames.dcm", native), *(FILES / name for name in names)]
    status, said = await archive.store(*(path.read_bytes() for path in more))
    assert status == 200, said
    kinds = set()
    for path in await instances(archive, "limit=1000"):
        _, _, stored = await archive.get(path, Accept=PART10)
        file = tmp_path / "stored.dcm"
        file.write_bytes(stored)
        try:
            held = open_image(file)
        except NoPixels:
            continue
        kinds.add(held.transfer_syntax)
        numbers = list(range(1, held.frames + 1))
        _, answer, body = await archive.get(
            f"{path}/frames/{','.join(map(str, numbers))}", Accept='multipart/related; type="*/*"'
        )
        contents = [content for _, content in parts_of(answer.headers["Content-Type"], body)]
        if held.encapsulated:
            assert contents == [held.read_frame(n) for n in numbers], path
        else:
            assert contents == [decoded_frame(held, n) for n in numbers], path
        assert (await archive.get(f"{path}/frames/{held.frames + 1}"))[0] == 404
    assert len(kinds) > 4
