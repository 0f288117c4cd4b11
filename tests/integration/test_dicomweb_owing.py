"""DICOMweb of an archive that has a primary: its stores, and what it says where only the primary may know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from failover.dicom.json_model import first, values
from tests.integration.dicomweb_stage import TODAY, VIA_ROUTER, WRITER, WebStage, a_web_archive
from tests.unit.archive.objects import data_set, part10, uid

pytestmark = pytest.mark.integration


@pytest_asyncio.fixture
async def owing(tmp_path: Path) -> AsyncIterator[WebStage]:
    """An archive that has a primary, and no comparison yet."""
    async with a_web_archive(tmp_path, filled=False) as stage:
        yield stage


async def test_what_is_stored_is_named_and_owed(owing: WebStage) -> None:
    status, answer = await owing.store(part10(data_set(1, 1, 1)), part10(data_set(1, 1, 2)))
    assert status == 200
    assert [first(one, "00081155") for one in values(answer, "00081199")] == [uid(1, 1, 1), uid(1, 1, 2)]
    assert first(answer, "00081190") == f"{owing.root}/studies/{uid(1)}"
    assert "00081198" not in answer
    assert (await owing.ask("ledger.numbers"))["lag_objects"] == 2
    assert (await owing.store(part10(data_set(1, 1, 1))))[0] == 200  # known again is no failure
    assert len(await owing.search("/instances")) == 2


async def test_what_cannot_be_read_fails_alone(owing: WebStage) -> None:
    broken = part10(data_set(1, 1, 2))[:-100]
    status, answer = await owing.store(part10(data_set(1, 1, 1)), b"no DICOM at all", broken)
    assert status == 202
    assert [first(one, "00081155") for one in values(answer, "00081199")] == [uid(1, 1, 1)]
    assert [first(one, "00081197") for one in values(answer, "00081198")] == [str(0xC000)] * 2
    assert first(values(answer, "00081198")[1], "00081155") == uid(1, 1, 2)
    assert (await owing.store(b"nothing"))[0] == 409
    assert owing.half_received() == []


async def test_another_study_than_the_path_names_is_refused(owing: WebStage) -> None:
    status, answer = await owing.store(part10(data_set(1)), part10(data_set(2)), path=f"/studies/{uid(1)}")
    assert status == 202
    assert first(values(answer, "00081198")[0], "00081155") == uid(2, 1, 1)
    assert len(await owing.search("/studies")) == 1


async def test_another_patient_under_a_known_uid_changes_nothing(owing: WebStage) -> None:
    await owing.store(part10(data_set(1)))
    status, answer = await owing.store(part10(data_set(1, PatientID="OTHER", PatientName="Other^Patient")))
    assert status == 409
    assert first(values(answer, "00081198")[0], "00081197") == str(0x0111)
    assert first((await owing.search("/studies"))[0], "00100020") == "P1"


async def test_a_full_disk_is_507_and_leaves_nothing(tmp_path: Path) -> None:
    async with a_web_archive(tmp_path, filled=False, min_free="900TB") as stage:
        status, answer = await stage.store(part10(data_set(1)))
        assert status == 507
        assert first(values(answer, "00081198")[0], "00081197") == str(0xA700)
        assert stage.half_received() == []


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("text/plain", b"x", 415),
        ("nonsense", b"x", 415),
        ("multipart/form-data; boundary=b", b"--b--", 415),
        ('multipart/related; type="application/dicom"', b"x", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b--", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"no delimiter", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b\r\n\r\nDICM", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b\r\nX: " + b"y" * 99999, 400),
        (f'multipart/related; boundary="{"x" * 71}"', b"x", 400),
        ("application/dicom", b"x" * 200, 409),
    ],
)
async def test_bodies_that_are_no_store(owing: WebStage, content_type: str, body: bytes, status: int) -> None:
    headers = {"Content-Type": content_type}
    async with owing.session.post(f"{owing.root}/studies", data=body, headers=headers) as answer:
        assert answer.status == status, await answer.text()
    assert owing.half_received() == []


async def test_a_single_part_and_a_chunked_body_are_taken(owing: WebStage) -> None:
    headers = {"Content-Type": "application/dicom"}
    async with owing.session.post(
        f"{owing.root}/studies", data=part10(data_set(1)), headers=headers
    ) as answer:
        assert answer.status == 200

    async def drops() -> AsyncIterator[bytes]:
        whole = WRITER.part_head({"Content-Type": "application/dicom"}) + part10(data_set(2)) + WRITER.end()
        for at in range(0, len(whole), 7):
            yield whole[at : at + 7]

    headers = {"Content-Type": WRITER.content_type("application/dicom")}
    async with owing.session.post(f"{owing.root}/studies", data=drops(), headers=headers) as answer:
        assert answer.status == 200
    assert len(await owing.search("/studies")) == 2


# -- what is not here -------------------------------------------------------------------------------


async def test_no_match_is_no_answer_where_the_primary_may_have_one(owing: WebStage) -> None:
    await owing.store(part10(data_set(1)))
    today = TODAY.strftime("%Y%m%d")
    for window, question, status in (
        (None, "PatientID=nobody", 503),
        (today, "PatientID=nobody", 503),
        (today, f"PatientID=nobody&StudyDate={today}-", 204),
        (today, "PatientID=nobody&StudyDate=20200101-", 503),
        (today, "PatientID=nobody&offset=10", 204),
        (None, "PatientID=P1", 200),
        (None, f"StudyInstanceUID={uid(1)}&PatientID=nobody", 204),
    ):
        await owing.ask("window.set", {"from": window, "short": {}})
        path = f"/studies?{question}"
        found, answer, _ = await owing.get(path, **VIA_ROUTER)
        assert found == status, (window, question)
        assert answer.headers["Warning"].startswith("299 failover")
        if status == 503:
            assert int(answer.headers["Retry-After"]) > 0
        assert (await owing.get(path))[0] != 503  # straight to the archive it is what the archive holds


async def test_a_study_of_which_the_primary_has_more_is_partial(owing: WebStage) -> None:
    await owing.store(part10(data_set(1)))
    await owing.ask("window.set", {"from": None, "short": {uid(1): 5}})
    for path in (
        f"/studies/{uid(1)}",
        f"/studies/{uid(1)}/metadata",
        f"/studies/{uid(1)}/series/{uid(1, 1)}",
    ):
        status, answer, _ = await owing.get(path)
        assert (status, "more" in answer.headers["Warning"]) == (206, True), path
    assert (await owing.get(f"/studies/{uid(1)}/series/{uid(1, 1)}/instances/{uid(1, 1, 1)}"))[0] == 200


# -- doors ------------------------------------------------------------------------------------------


async def test_pages_and_state(owing: WebStage) -> None:
    async with owing.session.get(f"{owing.origin}/", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "/.failover/")
    for name, kind in (("", "text/html"), ("viewer.js", "text/javascript"), ("viewer.css", "text/css")):
        async with owing.session.get(f"{owing.origin}/.failover/{name}") as answer:
            assert (answer.status, answer.content_type) == (200, kind)
            assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
            assert "frame-ancestors" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/.failover/nothing.js", "/.failover/..%2f__init__.py"):
        async with owing.session.get(owing.origin + path) as answer:
            assert answer.status == 404
    await owing.store(part10(data_set(1)))
    async with owing.session.get(f"{owing.origin}/.failover/api/state", headers=VIA_ROUTER) as answer:
        state = await answer.json()
    assert (state["dicomweb"], state["owed"], state["held"]["instances"]) == ("/pacs/rs", 1, 1)
    assert state["window"]["sentence"] == "no day is covered completely by this archive"


async def test_no_address_but_those_named_is_answered(tmp_path: Path) -> None:
    async with a_web_archive(tmp_path, filled=False, web_callers="[10.9.9.0/24]") as stage:
        for path in ("/studies", "/nothing"):
            status, _, body = await stage.get(path)
            assert (status, b"not admitted" in body) == (403, True)
        assert (await stage.store(part10(data_set(1))))[0] == 403
