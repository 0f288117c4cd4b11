"""What differs between two versions of an object, in words short enough to read."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from failover.archive import versions
from failover.archive.versions import differences
from tests.unit.archive.objects import an_object


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_only_what_differs_is_named(tmp_path: Path) -> None:
    one = written(tmp_path, "one", an_object(PatientID="1", StudyDescription="x" * 300))
    other = written(tmp_path, "other", an_object(PatientID="2", PixelData=b"\1" * 32))
    found = differences(one, other)
    assert found is not None
    assert [(d["keyword"], d["served"], d["quarantined"]) for d in found] == [
        ("StudyDescription", "x" * 200 + "…", None),
        ("PatientID", "1", "2"),
        ("PixelData", "32 bytes", "32 bytes"),
    ]
    assert differences(one, one) == []


def test_sequences_are_compared_by_what_is_in_them(tmp_path: Path) -> None:
    def item(meaning: str) -> Sequence:
        inner = Dataset()
        inner.CodeMeaning = meaning
        return Sequence([inner])

    one = written(tmp_path, "one", an_object(ProcedureCodeSequence=item("a")))
    other = written(tmp_path, "other", an_object(ProcedureCodeSequence=item("b")))
    found = differences(one, other)
    assert found is not None
    assert [(d["keyword"], d["served"]) for d in found] == [("ProcedureCodeSequence", "1 items")]
    assert differences(one, one) == []


def test_what_cannot_be_compared_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(tmp_path, "one", an_object())
    assert differences(None, one) is None
    assert differences(one, tmp_path / "gone") is None
    assert differences(one, written(tmp_path, "rubbish", b"no DICOM")) is None
    monkeypatch.setattr(versions, "LARGEST_BYTES", 10)
    found = differences(one, written(tmp_path, "other", an_object(PatientID="2")))
    assert found is not None
    assert [d["keyword"] for d in found] == ["PatientID", "PixelData"]
    assert found[1]["served"] == "not compared: too large"
