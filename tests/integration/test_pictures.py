"""Pictures and documents for people: rendered, thumbnail, WADO-URI; one frame, several, in motion."""

from __future__ import annotations

from collections.abc import AsyncIterator
from io import BytesIO
from urllib.parse import urlencode

import numpy as np
import pydicom
import pytest
import pytest_asyncio
from PIL import Image as Picture

from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.integration.dicomweb_stage import WebStage, a_web_archive, parts_of
from tests.unit.archive.objects import data_set, part10, uid

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

SIDE, FRAMES = 8, 3
PDF = b"%PDF-1.4 no more than this %%EOF\0"
LOOP, REPORT, ENDLESS, SINGLE = uid(1, 1, 1), uid(1, 2, 1), uid(2, 1, 1), uid(1, 3, 1)


def a_loop(study: int, series: int, frames: int) -> bytes:
    pixels = np.arange(FRAMES * SIDE * SIDE, dtype="<u2") * 16
    return part10(
        data_set(
            study,
            series,
            1,
            Rows=SIDE,
            Columns=SIDE,
            NumberOfFrames=frames,
            FrameTime="40",
            PixelData=pixels.tobytes(),
            WindowCenter=1500,
            WindowWidth=3000,
        )
    )


def a_report() -> bytes:
    made = data_set(1, 2, 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", Modality="DOC", PixelData=None)
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocument = PDF
    return part10(made)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WebStage]:
    folder = tmp_path_factory.mktemp("archive")
    async with a_web_archive(folder, filled=False, has_primary=False) as stage:
        single = part10(data_set(1, 3, 1), IMPLICIT_LITTLE)
        status, said = await stage.store(a_loop(1, 1, FRAMES), a_report(), single, a_loop(2, 1, 2**31 - 1))
        assert status == 200, said
        yield stage


def path_of(study: int, series: int, instance: str) -> str:
    return f"/studies/{uid(study)}/series/{uid(study, series)}/instances/{instance}"


async def wado(
    archive: WebStage, study: int, series: int, instance: str, accept: str | None = None, **query: str
) -> tuple[int, str, bytes]:
    said = {"requestType": "WADO", "studyUID": uid(study), "seriesUID": uid(study, series),
            "objectUID": instance} | query  # fmt: skip
    url = f"{archive.origin}/wado?" + urlencode({name: value for name, value in said.items() if value})
    async with archive.session.get(url, headers={} if accept is None else {"Accept": accept}) as answer:
        return answer.status, answer.headers.get("Content-Type", ""), await answer.read()


async def test_several_frames_are_parts_or_move(archive: WebStage) -> None:
    loop = path_of(1, 1, LOOP)
    for accept in ("*/*", 'multipart/related; type="image/png"', "multipart/related"):
        status, answer, body = await archive.get(f"{loop}/frames/3,1/rendered", Accept=accept)
        assert status == 200, accept
        parts = parts_of(answer.headers["Content-Type"], body)
        assert [head["content-location"].rpartition("/frames/")[2] for head, _ in parts] == [
            "3/rendered",
            "1/rendered",
        ]
        kinds = {Picture.open(BytesIO(content)).format for _, content in parts}
        assert kinds == {"PNG" if "png" in accept else "JPEG"}
        assert len({content for _, content in parts}) == 2
    status, answer, body = await archive.get(f"{loop}/frames/1,3/rendered", Accept="image/gif")
    moving = Picture.open(BytesIO(body))
    assert (status, moving.format, moving.n_frames, moving.info["duration"]) == (200, "GIF", 2, 40)  # type: ignore[attr-defined]
    assert (await archive.get(f"{loop}/frames/1,3/rendered", Accept="image/png"))[0] == 406


async def test_one_picture_stands_for_an_instance_and_gif_shows_it_move(archive: WebStage) -> None:
    loop = path_of(1, 1, LOOP)
    _, answer, body = await archive.get(f"{loop}/rendered")
    assert (answer.content_type, Picture.open(BytesIO(body)).size) == ("image/jpeg", (SIDE, SIDE))
    _, _, body = await archive.get(f"{loop}/rendered?viewport=4,4", Accept="image/gif")
    moving = Picture.open(BytesIO(body))
    assert (moving.n_frames, moving.size) == (FRAMES, (4, 4))  # type: ignore[attr-defined]
    for where in (f"{loop}/thumbnail", f"{loop}/frames/2/thumbnail"):
        _, _, body = await archive.get(where, Accept="image/gif")
        assert Picture.open(BytesIO(body)).n_frames == 1  # type: ignore[attr-defined]
    assert (await archive.get(f"{loop}/frames/1,2/thumbnail"))[0] == 400


async def test_a_whole_study_is_a_part_for_each_frame(archive: WebStage) -> None:
    status, answer, body = await archive.get(f"/studies/{uid(1)}/rendered", Accept="multipart/related")
    assert status == 200
    parts = parts_of(answer.headers["Content-Type"], body)
    assert len(parts) == FRAMES + 1  # the PDF is no picture
    assert len({head["content-location"] for head, _ in parts}) == FRAMES + 1
    nothing = f"/studies/{uid(1)}/series/{uid(1, 2)}/rendered"
    assert (await archive.get(nothing, Accept="multipart/related"))[0] == 404
    assert (await archive.get(nothing))[0] == 404


async def test_what_says_it_has_endless_frames_is_refused_and_shows_the_first(archive: WebStage) -> None:
    endless = path_of(2, 1, ENDLESS)
    for accept in ("image/gif", "multipart/related"):
        assert (await archive.get(f"{endless}/rendered", Accept=accept))[0] == 400, accept
    assert (await wado(archive, 2, 1, ENDLESS, contentType="image/gif"))[0] == 400
    assert (await archive.get(f"{endless}/rendered"))[0] == 200


async def test_a_pdf_is_given_as_such(archive: WebStage) -> None:
    report = path_of(1, 2, REPORT)
    for where, accept in (
        (f"{report}/rendered", "*/*"),
        (f"{report}/rendered?accept=application/pdf", "*/*"),
    ):
        status, answer, body = await archive.get(where, Accept=accept)
        assert (status, answer.content_type, body) == (200, "application/pdf", PDF.rstrip(b"\0"))
    assert (await archive.get(f"{report}/rendered", Accept="image/jpeg"))[0] == 406
    assert await wado(archive, 1, 2, REPORT) == (200, "application/pdf", PDF.rstrip(b"\0"))


async def test_wado_uri_gives_a_picture(archive: WebStage) -> None:
    def seen(body: bytes) -> tuple[str | None, tuple[int, int]]:
        one = Picture.open(BytesIO(body))
        return one.format, one.size

    status, kind, body = await wado(archive, 1, 1, LOOP)
    assert (status, kind, seen(body)) == (200, "image/jpeg", ("JPEG", (SIDE, SIDE)))
    _, _, body = await wado(archive, 1, 1, LOOP, accept="image/webp,image/png;q=0.9,*/*;q=0.8")
    assert seen(body)[0] == "PNG"
    _, _, body = await wado(archive, 1, 1, LOOP, rows="4", columns="6", contentType="image/png")
    assert seen(body) == ("PNG", (4, 4))
    _, _, half = await wado(archive, 1, 1, LOOP, region="0,0,0.5,1", contentType="image/png", frameNumber="2")
    assert seen(half)[1] == (SIDE // 2, SIDE)
    _, _, body = await archive.get(
        f"{path_of(1, 1, LOOP)}/frames/2/rendered?viewport=4,8,0,0,4,8", Accept="image/png"
    )
    assert half == body  # the same picture, named in the words of WADO-RS
    pictures = {
        (await wado(archive, 1, 1, LOOP, frameNumber=str(n), windowCenter="9", windowWidth="99"))[2]
        for n in (1, 2)
    }
    assert len(pictures) == 2
    _, _, body = await wado(archive, 1, 1, LOOP, contentType="image/gif")
    assert Picture.open(BytesIO(body)).n_frames == FRAMES  # type: ignore[attr-defined]


async def test_wado_uri_gives_the_object(archive: WebStage) -> None:
    for syntax, given in (("", EXPLICIT_LITTLE), ("*", IMPLICIT_LITTLE), (IMPLICIT_LITTLE, IMPLICIT_LITTLE)):
        status, kind, body = await wado(
            archive, 1, 3, SINGLE, contentType="application/dicom", transferSyntax=syntax
        )
        read = pydicom.dcmread(BytesIO(body))
        assert (status, kind.partition(";")[0]) == (200, "application/dicom")
        assert (read.SOPInstanceUID, read.file_meta.TransferSyntaxUID) == (SINGLE, given)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"requestType": ""}, 400),
        ({"requestType": "wado"}, 400),
        ({"studyUID": ""}, 400),
        ({"seriesUID": ""}, 400),
        ({"objectUID": "1.2.x"}, 400),
        ({"objectUID": "1.2.3.4"}, 404),
        ({"seriesUID": "1.2.3.4"}, 404),
        ({"studyUID": "1.2.3.4"}, 404),
        ({"frameNumber": "0"}, 400),
        ({"frameNumber": "4"}, 400),
        ({"frameNumber": "x"}, 400),
        ({"frameNumber": "9" * 30}, 400),
        ({"rows": "0"}, 400),
        ({"region": "0,0,2,1"}, 400),
        ({"windowCenter": "1"}, 400),
        ({"imageQuality": "200"}, 400),
        ({"contentType": "text/html"}, 406),
        ({"contentType": "nonsense"}, 400),
        ({"contentType": "application/dicom", "transferSyntax": "1.2.840.10008.1.2.4.50"}, 406),
        ({"contentType": "application/dicom", "transferSyntax": "odd"}, 400),
        ({"anonymize": "yes"}, 406),
        ({"presentationUID": "1.2.3"}, 406),
        ({"annotation": "patient", "charset": "utf-8", "unknown": "1"}, 200),
    ],
)
async def test_what_wado_uri_refuses(archive: WebStage, query: dict[str, str], status: int) -> None:
    assert (await wado(archive, 1, 1, LOOP, **query))[0] == status
