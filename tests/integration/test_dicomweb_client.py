"""dicomweb-client from PyPI against the archive: a peer that was not written by us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import pydicom
import pytest
import pytest_asyncio
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from failover.app.samples import PATIENTS
from failover.archive.dicomweb.accept import DICOM
from tests.integration.dicomweb_stage import WebStage, a_web_archive
from tests.unit.archive.objects import data_set, part10, uid

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
_T = TypeVar("_T")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WebStage]:
    async with a_web_archive(tmp_path_factory.mktemp("archive"), has_primary=False) as stage:
        yield stage


async def using(archive: WebStage, work: Callable[[DICOMwebClient], _T]) -> _T:
    """Run `work` in a thread: the client blocks, and the archive is in this loop."""
    return await asyncio.to_thread(lambda: work(DICOMwebClient(url=archive.root)))


def read(found: dict[str, Any]) -> Dataset:
    return Dataset.from_json(found)


async def test_it_finds_every_patient_by_the_name_that_was_stored(archive: WebStage) -> None:
    def names(client: DICOMwebClient) -> set[str]:
        return {str(read(one).PatientName) for one in client.search_for_studies(get_remaining=True)}

    assert await using(archive, names) == {patient.name for patient in PATIENTS}


async def test_it_walks_down_to_frames(archive: WebStage) -> None:
    def walk(client: DICOMwebClient) -> tuple[Any, Any]:
        (study,) = client.search_for_studies(search_filters={"PatientID": "DEMO-0002"}, limit=1)
        study_uid = read(study).StudyInstanceUID
        series_uid = read(client.search_for_series(study_uid)[0]).SeriesInstanceUID
        instance_uid = read(client.search_for_instances(study_uid, series_uid)[0]).SOPInstanceUID
        metadata = client.retrieve_series_metadata(study_uid, series_uid)
        assert len(metadata) == len(client.search_for_instances(study_uid, series_uid))
        whole = client.retrieve_instance(study_uid, series_uid, instance_uid)
        (frame,) = client.retrieve_instance_frames(study_uid, series_uid, instance_uid, [1])
        return whole, frame

    whole, frame = await using(archive, walk)
    assert np.array_equal(np.frombuffer(frame, "<i2").reshape(whole.pixel_array.shape), whole.pixel_array)


async def test_it_retrieves_series_and_study_in_every_way_it_knows(archive: WebStage) -> None:
    def retrieve(client: DICOMwebClient) -> None:
        (study,) = client.search_for_studies(search_filters={"PatientID": "DEMO-0001"}, limit=1)
        wanted = read(study)
        for media_types in (None, ((DICOM, "*"),), ((DICOM, "1.2.840.10008.1.2.1"),)):
            found = client.retrieve_study(wanted.StudyInstanceUID, media_types=media_types)
            assert len(found) == wanted.NumberOfStudyRelatedInstances
        streamed = list(client.iter_study(wanted.StudyInstanceUID))
        assert {one.StudyInstanceUID for one in streamed} == {wanted.StudyInstanceUID}

    await using(archive, retrieve)


async def test_it_gets_pictures(archive: WebStage) -> None:
    def picture(client: DICOMwebClient) -> None:
        (study,) = client.search_for_studies(search_filters={"PatientID": "DEMO-0002"}, limit=1)
        study_uid = read(study).StudyInstanceUID
        one = read(client.search_for_instances(study_uid)[0])
        where = (study_uid, one.SeriesInstanceUID, one.SOPInstanceUID)
        assert client.retrieve_instance_rendered(*where, media_types=("image/png",))[:4] == b"\x89PNG"
        assert client.retrieve_instance_rendered(*where)[:2] == b"\xff\xd8"
        assert (
            client.retrieve_instance_frames_rendered(*where, [1], media_types=("image/jpeg",))[:2]
            == b"\xff\xd8"
        )

    await using(archive, picture)


async def test_it_stores_and_finds_again(archive: WebStage) -> None:
    instance = pydicom.dcmread(BytesIO(part10(data_set(7))))

    def store(client: DICOMwebClient) -> Dataset:
        answer = client.store_instances([instance])
        assert client.retrieve_study_metadata(uid(7))
        return answer

    answer = await using(archive, store)
    (named,) = answer.ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == uid(7, 1, 1)
