"""Edges of DICOMweb, a table each: Accept, methods, paths, UIDs, escapes, base URLs, announced lengths."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from yarl import URL

from failover.dicom.json_model import first, values
from tests.integration.dicomweb_stage import VIA_ROUTER, WebStage, a_web_archive, parts_of

pytestmark = pytest.mark.integration

JSON, PART10, OCTETS = "application/dicom+json", "application/dicom", "application/octet-stream"
STUDY, SERIES, SOP = "0020000D", "0020000E", "00080018"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WebStage]:
    async with a_web_archive(tmp_path_factory.mktemp("archive"), has_primary=False) as stage:
        yield stage


async def an_instance(archive: WebStage, question: str = "Modality=CT") -> str:
    found = (await archive.search(f"/instances?{question}&limit=1"))[0]
    return str(first(found, "00081190")).removeprefix(archive.root)


async def status_and_type(archive: WebStage, path: str, accept: str | None) -> tuple[int, str]:
    headers = {} if accept is None else {"Accept": accept}
    skipped = ["Accept"] if accept is None else []
    async with archive.session.get(archive.root + path, headers=headers, skip_auto_headers=skipped) as answer:
        await answer.read()
        return answer.status, answer.headers.get("Content-Type", "").partition(";")[0]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, (200, "multipart/related")),
        ("*/*", (200, "multipart/related")),
        ("", (200, "multipart/related")),
        ("application/*", (200, PART10)),
        (PART10, (200, PART10)),
        ("APPLICATION/DICOM", (200, PART10)),
        ("application/dicom;transfer-syntax=*", (200, PART10)),
        ('application/dicom; transfer-syntax="*"', (200, PART10)),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.1", (200, PART10)),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50", (406, "text/plain")),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50, */*;q=0.1", (200, "multipart/related")),
        ('multipart/related; type="application/dicom"', (200, "multipart/related")),
        ("multipart/related; type=application/dicom", (200, "multipart/related")),
        ("multipart/related;type=application/dicom;transfer-syntax=*", (200, "multipart/related")),
        ('multipart/related; type="*/*"', (200, "multipart/related")),
        ("multipart/related", (200, "multipart/related")),
        ("application/dicom;q=0.2, multipart/related;q=0.9", (200, "multipart/related")),
        ("application/dicom;q=0.9, multipart/related;q=0.2", (200, PART10)),
        ("application/dicom;q=0", (406, "text/plain")),
        ('multipart/related; type="image/jpeg"', (406, "text/plain")),
        ('multipart/related; type="application/dicom+xml"', (406, "text/plain")),
        ("text/html,application/xhtml+xml", (406, "text/plain")),
        ("text/html,application/xhtml+xml,*/*;q=0.8", (200, "multipart/related")),
        ("nonsense", (400, "text/plain")),
        ("application/dicom;q=high", (400, "text/plain")),
    ],
)
async def test_accept_of_an_instance(
    archive: WebStage, accept: str | None, expected: tuple[int, str]
) -> None:
    assert await status_and_type(archive, await an_instance(archive), accept) == expected


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, 200),
        ("*/*", 200),
        (OCTETS, 200),
        (f"{OCTETS}; transfer-syntax=*", 200),
        (f'multipart/related; type="{OCTETS}"; transfer-syntax=1.2.840.10008.1.2.1', 200),
        (f"multipart/related; type={OCTETS}", 200),
        ('multipart/related; type="*/*"', 200),
        ("image/*", 406),
        ("image/", 406),  # dicomweb-client
        ('multipart/related; type="image/jls"', 406),
        ("text/html", 406),
    ],
)
async def test_accept_of_a_native_frame(archive: WebStage, accept: str | None, expected: int) -> None:
    path = await an_instance(archive, "AvailableTransferSyntaxUID=1.2.840.10008.1.2.1&Modality=CT")
    assert (await status_and_type(archive, f"{path}/frames/1", accept))[0] == expected


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, (200, JSON)),
        ("*/*", (200, JSON)),
        ("application/*", (200, JSON)),
        (JSON, (200, JSON)),
        ("application/json", (200, "application/json")),
        ("application/json;charset=utf-8", (200, "application/json")),
        ("application/dicom+json; q=0.5, application/json", (200, "application/json")),
        ("application/dicom+xml", (406, "text/plain")),
        ('multipart/related; type="application/dicom+xml"', (406, "text/plain")),
        ('multipart/related; type="application/dicom+xml", application/dicom+json;q=0.1', (200, JSON)),
        ("text/html", (406, "text/plain")),
    ],
)
@pytest.mark.parametrize("what", ["search", "metadata"])
async def test_accept_of_json(
    archive: WebStage, what: str, accept: str | None, expected: tuple[int, str]
) -> None:
    path = "/studies?limit=1" if what == "search" else f"{await an_instance(archive)}/metadata"
    assert await status_and_type(archive, path, accept) == expected


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/studies", {"GET", "HEAD", "POST"}),
        ("DELETE", "/studies/1.2.3", {"GET", "HEAD", "POST"}),
        ("POST", "/studies/1.2.3/series", {"GET", "HEAD"}),
        ("PATCH", "/studies/1.2.3/metadata", {"GET", "HEAD"}),
        ("POST", "/studies/1.2.3/series/1.2/instances/1/frames/1", {"GET", "HEAD"}),
    ],
)
async def test_other_methods_are_405_and_told_which(
    archive: WebStage, method: str, path: str, allowed: set[str]
) -> None:
    async with archive.session.request(method, archive.root + path) as answer:
        assert answer.status == 405
        assert set(answer.headers["Allow"].replace(" ", "").split(",")) == allowed


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("uid", "status"),
    [
        ("1.2.3", 404), ("1", 404), ("2.25.329800735698586629295641978511506172918", 404),
        ("1." + "2" * 62, 404), ("1." + "2" * 63, 400), ("01.2", 404), ("1.02", 404), ("1..2", 400),
        (".1", 400), ("1.", 400), ("1.2.a", 400), ("-1", 400), ("1.2%00", 404), ("1.2%20", 404),
        ("%2e%2e", 400), ("..%2f..", 400), ("1.2;DROP", 400), ("%F0%9F%92%A9", 400), ("1.2.%D9%A3", 400),
        ("*", 400),
    ],
)  # fmt: skip
async def test_odd_uids_in_paths(archive: WebStage, uid: str, status: int) -> None:
    for path in (f"/studies/{uid}", f"/studies/{uid}/metadata", f"/studies/1.2/series/{uid}/instances/1.2"):
        async with archive.session.get(URL(archive.root + path, encoded=True)) as answer:
            assert answer.status == status, path
            assert len(await answer.read()) < 500


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("question", "patients"),
    [
        ("PatientName=m%C3%9CLLER%5Ej*", {"DEMO-0001"}),
        ("PatientName=M%c3%bcller%5eJ%2a", {"DEMO-0001"}),
        ("PatientName=M%3Fller%5EJ%3frgen", {"DEMO-0001"}),
        ("PatientName=O%27Brien*", {"DEMO-0007"}),
        ("PatientName=%C5%81ukasiewicz%5EZofia", {"DEMO-0008"}),
        ("00100010=Wang*", {"DEMO-0006"}),
        ("PatientID=DEMO-0001&PatientID=DEMO-0002", {"DEMO-0001", "DEMO-0002"}),
        ("PatientID=*", "all"),
        ("PatientID=", "all"),
        ("PatientBirthDate=19560314", {"DEMO-0001"}),
        ("PatientBirthDate=-19500101", {"DEMO-0007"}),
        ("PatientBirthDate=20010101-", {"DEMO-0006"}),
        ("PatientSex=m&PatientID=DEMO-0001", {"DEMO-0001"}),
        ("fuzzymatching=TRUE&PatientName=jürg", {"DEMO-0001"}),
        ("fuzzymatching=true&PatientName=gildong", {"DEMO-0005"}),
        ("fuzzymatching=true&PatientName=JUERGEN%20muller", {"DEMO-0001"}),
        ("PatientName=Muller*", set()),
        ("fuzzymatching=true&PatientName=太郎", {"DEMO-0002"}),
        ("fuzzymatching=true&PatientName=ildong", set()),
        ("fuzzymatching=false&PatientName=Müll", set()),
        ("StudyInstanceUID=1.2.3%5C4.5.6", set()),
        ("StudyInstanceUID=1.2.3,4.5.6", set()),
        ("ModalitiesInStudy=XX", set()),
        ("ModalitiesInStudy=XX,SR", "some"),
        ("ModalitiesInStudy=XX%5CSR", "some"),
        ("limit=0", set()),
        ("offset=9999", set()),
        ("charset=utf-8&PatientID=DEMO-0001", {"DEMO-0001"}),
        ("includefield=00081030&includefield=StudyDescription,PatientSex&PatientID=DEMO-0001", {"DEMO-0001"}),
        ("includefield=all&PatientID=DEMO-0001", {"DEMO-0001"}),
        ("includefield=00091001&PatientID=DEMO-0001", {"DEMO-0001"}),
        ("00091001=private&PatientID=DEMO-0001", {"DEMO-0001"}),
    ],
)
async def test_keys_of_a_search(archive: WebStage, question: str, patients: object) -> None:
    status, _, body = await archive.get(f"/studies?{question}")
    found = {first(one, "00100020") for one in json.loads(body)} if status == 200 else set()
    if patients == "all":
        assert len(found) == 8
    elif patients == "some":
        assert found
    else:
        assert (status in (200, 204), found) == (True, patients)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "question",
    ["limit=-1", "limit=1.5", "limit=", "limit=+1", "offset=-1", "limit=99999999999", "fuzzymatching=1",
     "StudyDate=2026-11", "StudyDate=today", "StudyTime=noon", "NoSuch=1", "0020000=1", "limit=1&limit=x"],
)  # fmt: skip
async def test_a_search_that_cannot_be_meant_is_400(archive: WebStage, question: str) -> None:
    assert (await archive.get(f"/studies?{question}"))[0] == 400


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({}, "http://{host}/dicom-web"),
        ({"Host": "pacs.example.org"}, "http://pacs.example.org/dicom-web"),
        ({"Host": "[::1]:8080"}, "http://[::1]:8080/dicom-web"),
        ({"Host": "pacs.example.org", **VIA_ROUTER}, "https://pacs.example.org/pacs/rs"),
        # What a caller says of itself counts only through the router.
        ({"X-Forwarded-Proto": "https", "X-Failover-Prefix": "/evil"}, "http://{host}/dicom-web"),
        ({"Forwarded": "host=evil.example"}, "http://{host}/dicom-web"),
        ({**VIA_ROUTER, "X-Failover-Prefix": "/<script>"}, "https://{host}/dicom-web"),
    ],
)
async def test_urls_are_made_of_what_was_asked(archive: WebStage, headers: dict[str, str], base: str) -> None:
    async with archive.session.get(f"{archive.root}/studies?limit=1", headers=headers) as answer:
        study = (await answer.json(content_type=None))[0]
    expected = base.format(host=archive.origin.removeprefix("http://"))
    assert first(study, "00081190") == f"{expected}/studies/{first(study, STUDY)}"
    path = (await an_instance(archive)).partition("/series/")[0]
    async with archive.session.get(archive.root + path, headers=headers) as answer:
        parts = parts_of(answer.headers["Content-Type"], await answer.read())
    assert all(head["content-location"].startswith(f"{expected}/studies/") for head, _ in parts)


@pytest.mark.asyncio(loop_scope="module")
async def test_no_attribute_has_an_empty_value(archive: WebStage) -> None:
    for path in ("/studies", "/series", "/instances?limit=200"):
        for one in await archive.search(path):
            assert all(attribute.get("Value") != [] for attribute in one.values()), path
            if path == "/studies":
                assert values(one, "00080061")


@pytest.mark.asyncio(loop_scope="module")
async def test_ten_gigabytes_announced_take_no_room(archive: WebStage) -> None:
    """The body breaks off: nothing is left, and others are answered meanwhile."""
    reader, writer = await asyncio.open_connection("127.0.0.1", archive.configuration.archive.web.port)
    writer.write(
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: application/dicom\r\n"
        b"Content-Length: 10737418240\r\n\r\n" + bytes(128) + b"DICM"
    )
    await writer.drain()
    assert (await archive.get("/studies?limit=1"))[0] == 200
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(30):
        while archive.half_received():
            await archive.get("/studies?limit=1")
    del reader
