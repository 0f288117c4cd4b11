"""The sample studies: enough, recent, several character sets, readable, and the same each time."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset

from failover.app.samples import PATIENTS, part10, sample_studies, write_samples

TODAY = date(2026, 3, 1)


@pytest.fixture(scope="module")
def samples() -> list[FileDataset]:
    """As a reader of the files sees them."""
    return [pydicom.dcmread(BytesIO(part10(instance))) for instance in sample_studies(TODAY)]


def test_there_are_a_dozen_recent_studies_of_several_modalities(samples: list[FileDataset]) -> None:
    dates = {instance.StudyInstanceUID: instance.StudyDate for instance in samples}
    assert len(dates) >= 12
    assert max(dates.values()) == TODAY.strftime("%Y%m%d")
    assert min(dates.values()) >= (TODAY - timedelta(days=89)).strftime("%Y%m%d")
    assert {"CT", "MR", "US", "XC", "SR"} <= {instance.Modality for instance in samples}
    assert any(int(instance.get("NumberOfFrames", 1)) > 1 for instance in samples)


def test_names_are_written_in_their_own_character_sets(samples: list[FileDataset]) -> None:
    names = {instance.PatientID: str(instance.PatientName) for instance in samples}
    assert names == {patient.patient_id: patient.name for patient in PATIENTS}
    sets = {str(instance.SpecificCharacterSet) for instance in samples}
    assert len(sets) >= 5


def test_each_instance_has_its_own_uid_and_its_study_one_patient(samples: list[FileDataset]) -> None:
    assert len({instance.SOPInstanceUID for instance in samples}) == len(samples)
    patients = defaultdict(set)
    for instance in samples:
        patients[instance.StudyInstanceUID].add(instance.PatientID)
        assert instance.file_meta.MediaStorageSOPInstanceUID == instance.SOPInstanceUID
    assert all(len(ids) == 1 for ids in patients.values())


def test_slices_of_a_stack_lie_one_after_the_other_and_differ(samples: list[FileDataset]) -> None:
    stack = [i for i in samples if i.SeriesInstanceUID == samples[0].SeriesInstanceUID]
    places = np.array([i.ImagePositionPatient for i in stack], dtype=float)
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert np.allclose(steps, 5.0, atol=0.01)
    assert len({i.PixelData for i in stack}) == len(stack)


def test_two_calls_give_the_same_bytes_and_another_seed_other_uids(tmp_path: Path) -> None:
    first = write_samples(tmp_path / "a", TODAY)
    second = write_samples(tmp_path / "b", TODAY)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    other = next(iter(sample_studies(TODAY, seed=2)))
    assert other.SOPInstanceUID != pydicom.dcmread(first[0]).SOPInstanceUID
