"""A structured report as HTML and as text."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from failover.archive.pixels import NoPixels
from failover.archive.reports import HTML, PLAIN, document
from tests.unit.archive_web.samples import part10


def item(kind: str, name: str, **attributes: object) -> Dataset:
    made = Dataset()
    made.ValueType = kind
    made.ConceptNameCodeSequence = [code(name)]
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def code(meaning: str) -> Dataset:
    made = Dataset()
    made.CodeMeaning = meaning
    return made


def a_report(path: Path, *content: Dataset) -> Path:
    report = Dataset()
    report.SpecificCharacterSet = "ISO_IR 192"
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3"
    report.PatientName, report.PatientID, report.PatientBirthDate = "Müller^Jürgen", "<b>7", "19560314"
    report.ConceptNameCodeSequence = [code("Report")]
    if content:
        report.ContentSequence = list(content)
    path.write_bytes(part10(report))
    return path


def measured() -> Dataset:
    value = Dataset()
    value.NumericValue = "3.5"
    value.MeasurementUnitsCodeSequence = [code("cm")]
    return value


def test_values_stand_below_their_names_and_the_patient_first(tmp_path: Path) -> None:
    path = a_report(
        tmp_path / "a.dcm",
        item("CONTAINER", "Findings", ContentSequence=[
            item("TEXT", "Lung", TextValue="clear\nno <script>alert(1)</script>"),
            item("NUM", "Diameter", MeasuredValueSequence=[measured()]),
            item("CODE", "Side", ConceptCodeSequence=[code("left")]),
        ]),
        item("PNAME", "Observer", PersonName="Doe^Jane"),
    )  # fmt: skip
    text = document(path, PLAIN).decode()
    assert text.splitlines() == [
        "Report", "Patient: Müller, Jürgen", "Born: 19560314", "ID: <b>7", "", "Findings", "  Lung: clear",
        "no <script>alert(1)</script>", "  Diameter: 3.5 cm", "  Side: left", "Observer: Doe, Jane",
    ]  # fmt: skip
    page = document(path, HTML).decode()
    assert "<b>Diameter</b> 3.5 cm" in page
    assert "&lt;b&gt;7" in page
    assert "<script" not in page
    assert page.count("<ul>") == page.count("</ul>") == 2
    assert page.index("Müller") < page.index("Findings")


def test_a_tree_without_end_is_cut_and_says_so(tmp_path: Path) -> None:
    deepest = item("TEXT", "deepest", TextValue="x")
    for _ in range(60):
        deepest = item("CONTAINER", "more", ContentSequence=[deepest])
    text = document(a_report(tmp_path / "deep.dcm", deepest), PLAIN).decode()
    assert "not shown here" in text
    assert "deepest" not in text


def test_what_has_no_content_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(NoPixels):
        document(a_report(tmp_path / "none.dcm"), HTML)
