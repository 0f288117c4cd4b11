"""Identifiers of C-FIND, C-MOVE and C-GET: as callers really send them."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import Dataset
from pydicom.filereader import read_dataset

from failover.archive import find
from failover.archive.matches import Match, dump
from failover.archive.queries import Level
from failover.dicom.data_sets import encoded
from failover.dicom.query_keys import AnyOf, KeyUnreadable
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.errors import UnreadableDataSet

STUDY_FIND = find.STUDY_ROOT + "1"
PATIENT_FIND = find.PATIENT_ROOT + "1"


def identifier(syntax: str = EXPLICIT_LITTLE, **keys: object) -> find.Identifier:
    ds = Dataset()
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return find.read_identifier(encoded(ds, syntax), syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
def test_keys_are_read_in_both_syntaxes(syntax: str) -> None:
    asked = identifier(
        syntax,
        QueryRetrieveLevel="STUDY",
        SpecificCharacterSet="ISO_IR 192",
        PatientName="山田*",
        StudyInstanceUID=["1.2", "1.3"],
        RequestAttributesSequence=[Dataset()],
    )
    assert asked.keys[0x00100010] == "山田*"
    query = find.question(asked, STUDY_FIND)
    assert query.level is Level.STUDY
    assert query.keys[0x0020000D] == AnyOf(("1.2", "1.3"))


def test_the_same_question_is_read_once() -> None:
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.PatientID = "STUDY", "P1"
    raw = encoded(ds, EXPLICIT_LITTLE)
    asked, query = find.asked(raw, EXPLICIT_LITTLE, STUDY_FIND)
    assert asked == find.read_identifier(raw, EXPLICIT_LITTLE)
    assert query.keys == {0x00100020: AnyOf(("p1",))}
    assert find.asked(bytes(bytearray(raw)), EXPLICIT_LITTLE, STUDY_FIND)[1] is query
    assert find.asked(raw, EXPLICIT_LITTLE, PATIENT_FIND)[1] is not query
    ds.StudyInstanceUID = [f"1.2.{n}" for n in range(500)]
    long = encoded(ds, EXPLICIT_LITTLE)
    one, other = (find.asked(long, EXPLICIT_LITTLE, STUDY_FIND)[1] for _ in range(2))
    assert one == other
    assert one is not other


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
@pytest.mark.parametrize("undefined_length", [True, False])
@pytest.mark.parametrize(
    ("step", "is_told"), [("", False), ("*", False), ("SPS1", True), ("S*", True), (None, False)]
)
def test_a_key_within_a_sequence_is_told_to_have_no_part(
    syntax: str, undefined_length: bool, step: str | None, is_told: bool
) -> None:
    item, inner = Dataset(), Dataset()
    inner.CodeValue = step
    item.ScheduledProtocolCodeSequence = [inner]
    ds = Dataset()
    ds.QueryRetrieveLevel = "SERIES"
    ds.RequestAttributesSequence = [] if step is None else [item]
    ds["RequestAttributesSequence"].is_undefined_length = undefined_length
    query = find.question(find.read_identifier(encoded(ds, syntax), syntax), STUDY_FIND)
    assert query.unsupported == ({0x00400275} if is_told else set())
    assert not query.keys


def test_wild_cards_in_numbers_are_no_failure() -> None:
    # Implicit VR: Series Number is empty, Instance Number is `*`, as workstations send it.
    raw = b"\x08\x00\x52\x00\x06\0\0\0IMAGE \x20\x00\x11\x00\0\0\0\0\x20\x00\x13\x00\x02\0\0\0* "
    query = find.question(find.read_identifier(raw, IMPLICIT_LITTLE), STUDY_FIND)
    assert not query.keys


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        (STUDY_FIND, {}),
        (STUDY_FIND, {"QueryRetrieveLevel": "PATIENT"}),
        (PATIENT_FIND, {"QueryRetrieveLevel": "FRAME"}),
        (STUDY_FIND, {"QueryRetrieveLevel": "STUDY", "StudyTime": "noon"}),
    ],
)
def test_what_has_no_reading_is_refused(model: str, keys: dict[str, str]) -> None:
    with pytest.raises(KeyUnreadable):
        find.question(identifier(PatientID="", **keys), model)


@pytest.mark.parametrize(
    "keys",
    [
        {"QueryRetrieveLevel": "STUDY"},
        {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "*"},
        {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "1.2"},
        {"QueryRetrieveLevel": "STUDY", "PatientID": "P1", "StudyDate": "20250101"},
    ],
)
def test_a_retrieve_without_its_unique_key_takes_nothing(keys: dict[str, str]) -> None:
    with pytest.raises(KeyUnreadable):
        find.selection(identifier(**keys), find.STUDY_ROOT + "2")


def test_a_retrieve_by_patient_takes_no_wild_cards_and_minds_the_case() -> None:
    with pytest.raises(KeyUnreadable):
        find.selection(identifier(QueryRetrieveLevel="PATIENT", PatientID="P*"), find.PATIENT_ROOT + "2")
    query = find.selection(identifier(QueryRetrieveLevel="PATIENT", PatientID="p1"), find.PATIENT_ROOT + "2")
    assert query.exact == {0x00100020: "p1"}


def test_rubbish_is_no_identifier() -> None:
    with pytest.raises(UnreadableDataSet):
        find.read_identifier(b"\x08\x00\x52\x00\xff\xff\xff\xffrubbish", IMPLICIT_LITTLE)


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
def test_an_answer_holds_what_was_asked_for_in_utf_8(syntax: str) -> None:
    held = {
        "00080020": {"vr": "DA", "Value": ["20250101"]},
        "00080061": {"vr": "CS", "Value": ["CT", "SR"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]},
        "00101030": {"vr": "DS", "Value": [71.123456789012345678]},
        "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
        "00201208": {"vr": "IS", "Value": [12]},
        "00280010": {"vr": "US", "Value": [512]},
    }
    asked = identifier(
        QueryRetrieveLevel="STUDY",
        PatientName="",
        PatientWeight="",
        ModalitiesInStudy="",
        NumberOfStudyRelatedInstances="",
        Rows=None,
        ReferringPhysicianName="",
        RequestAttributesSequence=[],
    )
    answers = find.Answers(asked, Level.STUDY, "MINIPACS", syntax)
    raw = answers.of(Match(Level.STUDY, "1.2.3", None, None, dump(held).encode()))
    found = read_dataset(BytesIO(raw), syntax == IMPLICIT_LITTLE, True)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    found.decode()
    assert str(found.PatientName) == "Yamada^Tarou=山田^太郎"
    assert list(found.ModalitiesInStudy) == ["CT", "SR"]
    assert found.NumberOfStudyRelatedInstances == 12
    assert found.PatientWeight == pytest.approx(71.1234568)
    assert found.Rows == 512
    assert found.StudyInstanceUID == "1.2.3"
    assert found.RetrieveAETitle == "MINIPACS"
    assert found.ReferringPhysicianName == ""
    assert len(found.RequestAttributesSequence or []) == 0
    assert "StudyDate" not in found


def test_an_answer_that_was_made_before_is_that_of_the_same_question_to_the_same_study() -> None:
    def answers(asked: find.Identifier, ae_title: str, patient: str, syntax: str) -> bytes:
        held = {"00100020": {"vr": "LO", "Value": [patient]}, "0020000D": {"vr": "UI", "Value": ["1.2"]}}
        match = Match(Level.STUDY, "1.2", None, None, dump(held).encode())
        fresh = find.Answers(asked, Level.STUDY, ae_title, syntax).of(match)
        [known] = find.Answers(asked, Level.STUDY, ae_title, syntax, made).of_all([match])
        assert known == fresh
        return known

    made = find.Made(most=3)
    few = identifier(QueryRetrieveLevel="STUDY", PatientID="")
    more = identifier(QueryRetrieveLevel="STUDY", PatientID="", PatientSex="")
    seen = [
        answers(asked, ae_title, patient, syntax)
        for _ in range(2)  # the second time they are known, as far as there is room for them
        for asked in (few, more)
        for ae_title in ("ONE", "TWO")
        for patient in ("P1", "P2")  # the study was corrected
        for syntax in (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
    ]
    assert len(set(seen)) == 16


def test_answers_that_were_made_are_forgotten_beyond_their_number() -> None:
    made = find.Made(most=3)
    asked = identifier(QueryRetrieveLevel="STUDY")
    shape = ("MINIPACS", False, *asked.vrs.items())
    for number in range(10):
        match = Match(
            Level.STUDY, str(number), None, None, dump({"0020000D": {"vr": "UI", "Value": ["1"]}}).encode()
        )
        find.Answers(asked, Level.STUDY, "MINIPACS", EXPLICIT_LITTLE, made).of_all([match])
        find.Answers(asked, Level.IMAGE, "MINIPACS", EXPLICIT_LITTLE, made).of_all([match])
        assert len(made.of(shape)) <= 3


def test_answers_of_lower_levels_have_those_of_the_levels_above() -> None:
    study = [dump({"00100020": {"vr": "LO", "Value": [patient]}}).encode() for patient in ("P1", "P2")]
    asked = identifier(QueryRetrieveLevel="SERIES", PatientID="", Modality="")
    answers = find.Answers(asked, Level.SERIES, "MINIPACS", EXPLICIT_LITTLE)
    own = dump(
        {"00080060": {"vr": "CS", "Value": ["CT"]}, "0020000E": {"vr": "UI", "Value": ["1.3"]}}
    ).encode()
    found = [
        read_dataset(BytesIO(raw), False, True).PatientID
        for raw in answers.of_all([Match(Level.SERIES, "1", "1.3", None, own, (one,)) for one in study * 2])
    ]
    assert found == ["P1", "P2", "P1", "P2"]
