"""The DICOM JSON model against annex F and against pydicom's own."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data.data_manager import DATA_ROOT
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from failover.dicom.json_model import attribute, first, person_name, to_json, values

FILES = Path(DATA_ROOT) / "test_files"


def empties(item: Any) -> list[str]:
    """Return where a `Value` is empty."""
    if isinstance(item, dict):
        found = [key for key, value in item.items() if key == "Value" and value in ([], [None], [""])]
        return found + [e for value in item.values() for e in empties(value)]
    return [e for one in item for e in empties(one)] if isinstance(item, list) else []


@pytest.mark.parametrize("path", sorted(FILES.glob("*.dcm")), ids=lambda p: p.name)
def test_every_object_becomes_json(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = to_json(
            pydicom.dcmread(path, force=True, defer_size=1024), bulk_uri=lambda where, _: f"bulk/{where}"
        )
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert empties(found) == []
    assert list(found) == sorted(found)


@pytest.mark.parametrize("name", ["CT_small.dcm", "test-SR.dcm", "rtplan.dcm", "MR_small_bigendian.dcm"])
def test_it_says_what_pydicom_says(name: str) -> None:
    dataset = pydicom.dcmread(FILES / name)
    theirs, ours = dataset.to_json_dict(), to_json(dataset)
    assert set(ours) == {tag for tag in theirs if not tag.endswith("0000")}
    for tag, expected in theirs.items():
        if tag in ours and tag != "00080005":
            assert ours[tag]["vr"] == expected["vr"]
            assert ours[tag].get("InlineBinary") == expected.get("InlineBinary")
            if expected["vr"] not in ("SQ", "PN"):
                assert ours[tag].get("Value", []) == expected.get("Value", [])


def test_an_attribute_without_value_has_no_value() -> None:
    dataset = Dataset()
    dataset.PatientName = ""
    dataset.ModalitiesInStudy = []
    dataset.AccessionNumber = None
    dataset.PixelSpacing = None
    dataset.ReferencedStudySequence = Sequence()
    found = to_json(dataset)
    assert set(found) == {"00100010", "00080061", "00080050", "00280030", "00081110"}
    assert all(list(one) == ["vr"] for one in found.values())


def test_names_stand_in_their_groups() -> None:
    assert person_name("Yamada^Tarou=山田^太郎=やまだ^たろう") == {
        "Alphabetic": "Yamada^Tarou",
        "Ideographic": "山田^太郎",
        "Phonetic": "やまだ^たろう",
    }
    assert person_name("=山田^太郎") == {"Ideographic": "山田^太郎"}
    assert person_name("Doe^^^^") == {"Alphabetic": "Doe"}


def test_names_of_every_repertoire_are_unicode() -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=山田^太郎"
    found = to_json(dataset)
    assert found["00080005"]["Value"] == ["ISO_IR 192"]
    assert first(found, "00100010") == "Yamada^Tarou=山田^太郎"


def test_numbers_are_numbers_and_what_is_none_is_text() -> None:
    dataset = Dataset()
    dataset.WindowCenter = ["40", "400.5"]
    dataset.InstanceNumber = 7
    dataset.RecommendedDisplayFrameRateInFloat = float("nan")
    dataset.add_new(0x00189073, "FD", [float("inf"), 1.5])
    dataset.add_new(0x00280009, "AT", 0x00181063)
    dataset.add_new(0x7FE00001, "UV", 2**60)
    found = to_json(dataset)
    assert found["00281050"]["Value"] == [40, 400.5]
    assert found["00200013"]["Value"] == [7]
    assert found["00089459"]["Value"] == ["NaN"]
    assert found["00189073"]["Value"] == ["Infinity", 1.5]
    assert found["00280009"]["Value"] == ["00181063"]
    assert found["7FE00001"]["Value"] == [str(2**60)]


def test_an_empty_value_among_others_is_null() -> None:
    dataset = Dataset()
    dataset.add_new(0x00080008, "CS", ["ORIGINAL", "", "AXIAL", ""])
    assert to_json(dataset)["00080008"]["Value"] == ["ORIGINAL", None, "AXIAL"]


def test_bulk_data_has_its_path_also_within_items() -> None:
    inner = Dataset()
    inner.add_new(0x54001010, "OW", b"\1\2" * 8)
    outer = Dataset()
    outer.WaveformSequence = Sequence([Dataset(), inner])
    outer.PixelData = b"\0" * 10
    outer["PixelData"].VR = "OW"
    asked: list[tuple[str, int]] = []

    def uri(where: str, size_bytes: int) -> str | None:
        asked.append((where, size_bytes))
        return f"/bulk/{where}" if size_bytes > 10 else None

    found = to_json(outer, bulk_uri=uri)
    assert asked == [("54000100/1/54001010", 16), ("7FE00010", 10)]
    assert found["54000100"]["Value"][1]["54001010"] == {
        "vr": "OW",
        "BulkDataURI": "/bulk/54000100/1/54001010",
    }
    assert found["7FE00010"]["InlineBinary"] == "AAAAAAAAAAAAAA=="


def test_values_are_read_back() -> None:
    item = {"00080061": {"vr": "CS", "Value": ["CT", "SR"]}, "00080050": {"vr": "SH"}, "x": {"Value": None}}
    assert values(item, "00080061") == ["CT", "SR"]
    assert values(item, "00080050") == values(item, "x") == values(item, "missing") == []
    assert first(item, "00080050") is None
    assert attribute("CS", ["CT", "", None]) == {"vr": "CS", "Value": ["CT"]}
    assert attribute("CS", []) == {"vr": "CS"}
