"""DICOMweb of a whole archive over real sockets: search and retrieval, answers and refusals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import BytesIO

import pydicom
import pytest
import pytest_asyncio
from PIL import Image as Picture
from pydicom.pixels import pixel_array

from failover.dicom.json_model import first, values
from tests.integration.dicomweb_stage import VIA_ROUTER, WebStage, a_web_archive, parts_of

pytestmark = pytest.mark.integration

JSON = "application/dicom+json"
STUDY, SERIES, SOP, NAME = "0020000D", "0020000E", "00080018", "00100010"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WebStage]:
    async with a_web_archive(tmp_path_factory.mktemp("archive"), has_primary=False) as stage:
        yield stage


async def ct_series(archive: WebStage) -> tuple[str, str, list[str]]:
    """Return a study, its longest series and the series' instances."""
    study = await archive.search("/studies?PatientID=DEMO-0001&limit=1")
    uid_ = first(study[0], STUDY)
    series = max(
        await archive.search(f"/studies/{uid_}/series"), key=lambda s: int(first(s, "00201209") or 0)
    )
    instances = await archive.search(f"/studies/{uid_}/series/{first(series, SERIES)}/instances")
    return str(uid_), str(first(series, SERIES)), [str(first(one, SOP)) for one in instances]


# -- search -----------------------------------------------------------------------------------------


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("question", "patients"),
    [
        ("PatientID=DEMO-0001", {"DEMO-0001"}),
        ("00100020=DEMO-0002", {"DEMO-0002"}),
        ("PatientName=M%C3%BCller%5EJ%C3%BCrgen", {"DEMO-0001"}),
        ("PatientName=m%C3%BCller%2A", {"DEMO-0001"}),
        ("PatientName=%E5%B1%B1%E7%94%B0*", {"DEMO-0002"}),  # 山田
        ("PatientName=*%D9%82%D8%A8*", {"DEMO-0003"}),  # Arabic
        ("PatientName=%CE%94%CE%B9*", {"DEMO-0004"}),  # Greek
        ("PatientID=DEMO-000%3F&PatientName=Wang*", {"DEMO-0006"}),
        ("fuzzymatching=true&PatientName=hong", {"DEMO-0005"}),
        ("PatientName=nobody*", set()),
        ("StudyDate=19000101-19001231", set()),
        ("PatientID=DEMO-0001&limit=0", set()),
    ],
)
async def test_studies_are_found(archive: WebStage, question: str, patients: set[str]) -> None:
    found = await archive.search(f"/studies?{question}")
    assert {first(one, "00100020") for one in found} == patients


@pytest.mark.asyncio(loop_scope="module")
async def test_a_study_says_what_is_in_it(archive: WebStage) -> None:
    for study in await archive.search("/studies"):
        series = await archive.search(f"/studies/{first(study, STUDY)}/series")
        instances = await archive.search(f"/studies/{first(study, STUDY)}/instances")
        assert values(study, "00201206") == [len(series)]
        assert values(study, "00201208") == [len(instances)]
        assert set(values(study, "00080061")) == {first(one, "00080060") for one in series}
        assert first(study, "00081190") == f"{archive.root}/studies/{first(study, STUDY)}"
        assert '"Value": []' not in json.dumps([study, series, instances])


@pytest.mark.asyncio(loop_scope="module")
async def test_pages_join_to_the_whole(archive: WebStage) -> None:
    whole = [first(one, STUDY) for one in await archive.search("/studies")]
    pages = [
        one for at in range(0, len(whole), 3) for one in await archive.search(f"/studies?limit=3&offset={at}")
    ]
    assert [first(one, STUDY) for one in pages] == whole
    assert len(set(whole)) == len(whole) > 3


@pytest.mark.asyncio(loop_scope="module")
async def test_lists_of_uids_long_and_short(archive: WebStage) -> None:
    uids = [str(first(one, STUDY)) for one in await archive.search("/studies")]
    for separator in (",", "%5C"):
        found = await archive.search(f"/studies?StudyInstanceUID={separator.join(uids[:2])}")
        assert {first(one, STUDY) for one in found} == set(uids[:2])
    long = ",".join([*uids, *(f"1.2.3.{n}.{10**30 + n}" for n in range(600))])
    assert len(await archive.search(f"/studies?StudyInstanceUID={long}")) == len(uids)


@pytest.mark.asyncio(loop_scope="module")
async def test_levels_above_are_given_where_the_path_does_not_name_them(archive: WebStage) -> None:
    study, series, _ = await ct_series(archive)
    assert NAME in (await archive.search("/series?Modality=CT&limit=1"))[0]
    assert NAME in (await archive.search("/instances?limit=1"))[0]
    assert NAME not in (await archive.search(f"/studies/{study}/series"))[0]
    assert NAME in (await archive.search(f"/studies/{study}/series?includefield=PatientName"))[0]
    instance = (await archive.search(f"/studies/{study}/series/{series}/instances?includefield=all&limit=1"))[
        0
    ]
    assert {NAME, "00080060", SOP} <= set(instance)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_against_the_path_finds_nothing(archive: WebStage) -> None:
    study, *_ = await ct_series(archive)
    assert await archive.search(f"/studies/{study}/series?StudyInstanceUID=1.2.3") == []
    assert len(await archive.search(f"/studies/{study}/series?StudyInstanceUID=")) > 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("question", "status"),
    [
        ("/studies?limit=-1", 400),
        ("/studies?limit=many", 400),
        ("/studies?offset=1e3", 400),
        ("/studies?NoSuchKeyword=1", 400),
        ("/studies?NoSuch.00080100=1", 400),
        ("/studies?StudyDate=yesterday", 400),
        ("/studies?fuzzymatching=perhaps", 400),
        ("/studies/not-a-uid/series", 400),
        ("/studies/1..2/series", 400),
        ("/studies/1.2.3", 404),
        ("/studies/1.2.3/metadata", 404),
        ("/nothing", 404),
        ("/studies?PatientName=" + "*a" * 1500 + "b", 204),
        ("/studies?PatientName=%27%3B%20DROP%20TABLE%20studies", 204),
        ("/studies?PatientName=%5B%5D%25_", 204),
    ],
)
async def test_bad_questions_get_proper_statuses(archive: WebStage, question: str, status: int) -> None:
    assert (await archive.get(question))[0] == status


@pytest.mark.asyncio(loop_scope="module")
async def test_keys_that_are_not_searched_are_named(archive: WebStage) -> None:
    status, answer, _ = await archive.get("/studies?00400275.00400009=7&limit=1")
    assert status == 200
    assert "00400275" in answer.headers["Warning"]
    assert answer.headers["Warning"].startswith('299 failover "all studies of this archive"')


@pytest.mark.asyncio(loop_scope="module")
async def test_accept_decides_or_is_refused(archive: WebStage) -> None:
    for accept, status, kind in (
        ("application/json", 200, "application/json"),
        ("*/*", 200, JSON),
        (JSON, 200, JSON),
        ("text/html", 406, None),
        ("nonsense", 400, None),
        ('multipart/related; type="application/dicom+xml"', 406, None),
    ):
        found, answer, _ = await archive.get("/studies?limit=1", Accept=accept)
        assert (found, kind in (None, answer.content_type)) == (status, True), accept
    assert (await archive.get("/studies?limit=1&accept=application/json", Accept="text/html"))[0] == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_what_the_caller_has_is_not_sent_again(archive: WebStage) -> None:
    study, series, (instance, *_) = await ct_series(archive)
    for path, accept in (
        ("/studies?limit=2", JSON),
        (f"/studies/{study}/series/{series}/instances/{instance}", "application/dicom"),
        (f"/studies/{study}/series/{series}/instances/{instance}/rendered", "image/png"),
    ):
        status, answer, body = await archive.get(path, Accept=accept)
        assert (status, bool(body)) == (200, True)
        status, _, body = await archive.get(path, Accept=accept, If_None_Match=answer.headers["ETag"])
        assert (status, body) == (304, b"")


# -- retrieve ---------------------------------------------------------------------------------------


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("level", ["study", "series", "instance"])
async def test_instances_come_whole(archive: WebStage, level: str) -> None:
    study, series, instances = await ct_series(archive)
    path = f"/studies/{study}"
    path += "" if level == "study" else f"/series/{series}"
    path += f"/instances/{instances[0]}" if level == "instance" else ""
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    status, answer, body = await archive.get(path, Accept=accept)
    assert status == 200
    parts = parts_of(answer.headers["Content-Type"], body)
    read = [pydicom.dcmread(BytesIO(content)) for _, content in parts]
    expected = len(await archive.search(f"{path}/instances")) if level != "instance" else 1
    assert len({one.SOPInstanceUID for one in read}) == expected
    assert all(head["content-location"].startswith(f"{archive.root}/studies/{study}/") for head, _ in parts)


@pytest.mark.asyncio(loop_scope="module")
async def test_every_sample_is_given_as_it_came_and_uncompressed(archive: WebStage) -> None:
    compressed = 0
    for one in await archive.search("/instances"):
        path = str(first(one, "00081190")).removeprefix(archive.root)
        _, _, stored = await archive.get(path, Accept="application/dicom; transfer-syntax=*")
        status, answer, native = await archive.get(path, Accept="application/dicom")
        assert status == 200
        assert "1.2.840.10008.1.2.1" in answer.headers["Content-Type"]
        original, made = pydicom.dcmread(BytesIO(stored)), pydicom.dcmread(BytesIO(native))
        assert made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        if original.file_meta.TransferSyntaxUID.is_encapsulated:
            compressed += 1
            if original.SamplesPerPixel == 1:
                assert (pixel_array(made) == pixel_array(original)).all()
        assert made.PatientName == original.PatientName
    assert compressed


@pytest.mark.asyncio(loop_scope="module")
async def test_metadata_has_all_but_the_pixels(archive: WebStage) -> None:
    study, series, instances = await ct_series(archive)
    status, answer, body = await archive.get(f"/studies/{study}/series/{series}/metadata")
    found = json.loads(body)
    assert (status, answer.content_type) == (200, JSON)
    assert {first(one, SOP) for one in found} == set(instances)
    for one in found:
        assert one["7FE00010"]["BulkDataURI"].startswith(archive.root)
        assert first(one, NAME) == "Müller^Jürgen"


@pytest.mark.asyncio(loop_scope="module")
async def test_bulk_data_that_metadata_names_is_there(archive: WebStage) -> None:
    names = 0
    for one in await archive.search("/instances"):
        path = str(first(one, "00081190")).removeprefix(archive.root)
        _, _, body = await archive.get(f"{path}/metadata")
        for attribute in json.loads(body)[0].values():
            if (uri := attribute.get("BulkDataURI")) is not None:
                names += 1
                status, _, content = await archive.get(uri.removeprefix(archive.root))
                assert (status, bool(content)) == (200, True), uri
    assert names
    assert (await archive.get(f"{path}/bulkdata/00000000"))[0] == 404
    assert (await archive.get(f"{path}/bulkdata/..%2f..%2fetc"))[0] == 400


@pytest.mark.asyncio(loop_scope="module")
async def test_frames_are_the_pixels(archive: WebStage) -> None:
    study, series, (instance, *_) = await ct_series(archive)
    path = f"/studies/{study}/series/{series}/instances/{instance}"
    _, _, stored = await archive.get(path, Accept="application/dicom; transfer-syntax=*")
    expected = pixel_array(pydicom.dcmread(BytesIO(stored)), raw=True).tobytes()
    status, answer, body = await archive.get(f"{path}/frames/1", Accept="application/octet-stream")
    assert (status, body) == (200, expected)
    status, answer, body = await archive.get(
        f"{path}/frames/1", Accept='multipart/related; type="application/octet-stream"'
    )
    (head, content), *others = parts_of(answer.headers["Content-Type"], body)
    assert (content, others) == (expected, [])
    assert head["content-type"].startswith("application/octet-stream")
    for wrong, status in (("0", 400), ("2", 404), ("x", 400), ("1,,1", 400), ("99999999999", 400)):
        assert (await archive.get(f"{path}/frames/{wrong}"))[0] == status, wrong
    assert (await archive.get(f"{path}/frames/1", Accept="image/jls"))[0] == 406


@pytest.mark.asyncio(loop_scope="module")
async def test_pictures(archive: WebStage) -> None:
    study, series, (instance, *_) = await ct_series(archive)
    path = f"/studies/{study}/series/{series}/instances/{instance}"
    sizes = {}
    for where in (
        f"/studies/{study}/thumbnail",
        f"{path}/thumbnail",
        f"{path}/rendered",
        f"{path}/frames/1/rendered",
    ):
        status, answer, body = await archive.get(
            f"{where}?viewport=64,64&window=40,400,linear", Accept="image/png"
        )
        assert (status, answer.content_type) == (200, "image/png")
        sizes[where] = Picture.open(BytesIO(body)).size
    assert set(map(max, sizes.values())) == {64}
    _, answer, body = await archive.get(f"{path}/rendered?quality=50")
    assert body[:2] == b"\xff\xd8"
    _, answer, body = await archive.get(f"{path}/rendered?viewport=60,60,10,20,40,20", Accept="image/png")
    assert Picture.open(BytesIO(body)).size == (60, 30)
    for wrong in (
        "viewport=0,0",
        "viewport=1e9,1",
        "viewport=9,9,-1,0,9,9",
        "viewport=9,9,9999,0",
        "window=1,0,linear",
        "window=a,b",
        "window=1,1,odd",
        "quality=0",
    ):
        assert (await archive.get(f"{path}/rendered?{wrong}"))[0] == 400, wrong
    assert (await archive.get(f"{path}/rendered", Accept="video/mp4"))[0] == 406


@pytest.mark.asyncio(loop_scope="module")
async def test_a_report_has_no_picture(archive: WebStage) -> None:
    report = (await archive.search("/instances?Modality=SR&limit=1"))[0]
    path = str(first(report, "00081190")).removeprefix(archive.root)
    for where in ("frames/1", "frames/1/rendered", "thumbnail"):
        assert (await archive.get(f"{path}/{where}"))[0] == 404, where
    assert (await archive.get(f"{path}/rendered", Accept="image/png"))[0] == 406
    status, answer, page = await archive.get(f"{path}/rendered")
    assert (status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "Müller, Jürgen" in page.decode()


@pytest.mark.asyncio(loop_scope="module")
async def test_head_sends_no_body(archive: WebStage) -> None:
    study, series, _ = await ct_series(archive)
    for path in (
        "/studies",
        f"/studies/{study}",
        f"/studies/{study}/metadata",
        f"/studies/{study}/series/{series}",
    ):
        async with archive.session.head(archive.root + path) as answer:
            assert answer.status == 200, path


@pytest.mark.asyncio(loop_scope="module")
async def test_urls_are_those_of_the_caller(archive: WebStage) -> None:
    async with archive.session.get(
        f"{archive.root}/studies?limit=1", headers={**VIA_ROUTER, "Host": "pacs.example:8443"}
    ) as answer:
        (study,) = await answer.json(content_type=JSON)
    assert str(first(study, "00081190")).startswith("https://pacs.example:8443/pacs/rs/studies/")
    for name, value in (("Host", 'x"><script>'), ("Host", "a b")):
        async with archive.session.get(f"{archive.root}/studies?limit=1", headers={name: value}) as answer:
            assert answer.status == 400
    headers = {"X-Failover-Via": "router", "X-Failover-Prefix": "javascript:alert(1)//"}
    async with archive.session.get(f"{archive.root}/studies?limit=1", headers=headers) as answer:
        (study,) = await answer.json(content_type=JSON)
    assert str(first(study, "00081190")).startswith(f"{archive.root}/studies/")
