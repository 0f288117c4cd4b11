"""Each key of PS3.4 C.6 and PS3.18 table 10.6.1-5 at its level, above it and below: by C-FIND and by QIDO-RS.

Each row: keyword, what the object has, keys that find it, keys that do not. Whatever the kind of matching is
for the VR (single value, wild card, list, range) stands in the row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pytest
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from failover.archive import find
from failover.archive.dicomweb.search import read_search
from failover.archive.matches import Match
from failover.archive.queries import Level, Query
from failover.dicom.data_sets import encoded
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import an_object, uid

Row = tuple[str, object, tuple[str, ...], tuple[str, ...]]

PATIENT: Final[list[Row]] = [
    ("PatientName", "Doe^Jane", ("Doe^Jane", "DOE^JANE", "doe*", "*jane", "D?e^Jane"), ("Doe", "Roe*")),
    ("PatientID", "P1", ("P1", "P*", "?1"), ("P9", "P")),
    ("IssuerOfPatientID", "HOSPITAL", ("HOSPITAL", "hosp*"), ("CLINIC",)),
    (
        "PatientBirthDate",
        "19700102",
        ("19700102", "19700101-19700103", "-19700102", "1970.01.02"),
        ("19710101-",),
    ),
    ("PatientBirthTime", "0830", ("0830", "08", "08-09", "0800-"), ("09", "-0829")),
    ("PatientSex", "F", ("F", "f"), ("M",)),
    ("OtherPatientIDs", "Q7", ("Q7", "Q*"), ("Q8",)),
    ("OtherPatientNames", "Smith^J", ("smith*",), ("Doe*",)),
    ("EthnicGroup", "X", ("X",), ("Y",)),
    ("PatientComments", "quiet", ("qui*", "quiet"), ("loud",)),
]
STUDY: Final[list[Row]] = [
    ("StudyInstanceUID", None, (uid(1), f"{uid(1)}\\{uid(9)}"), (uid(9), f"{uid(1)}*")),
    ("StudyDate", "20251215", ("20251215", "20251201-20251231", "20251215-", "-20251215"), ("20251216-",)),
    ("StudyTime", "101500", ("101500", "1015", "10", "1000-1100", "-1015"), ("11", "101501-")),
    ("AccessionNumber", "A1", ("A1", "a1", "*1"), ("A2", "A")),
    ("StudyID", "S1", ("S1", "S*"), ("S2",)),
    ("StudyDescription", "CT Thorax", ("ct thorax", "*thorax*", "CT?Thorax"), ("CT",)),
    ("ReferringPhysicianName", "Ref^One", ("Ref^One", "ref*"), ("Two*",)),
    ("PhysiciansOfRecord", "Rec^One", ("rec*",), ("Two*",)),
    ("NameOfPhysiciansReadingStudy", "Read^One", ("read*",), ("Two*",)),
    ("AdmittingDiagnosesDescription", "cough", ("cough", "c*"), ("cold",)),
    ("PatientAge", "055Y", ("055Y",), ("056Y",)),
    ("PatientSize", "1.7", ("1.7", "1.70"), ("1.8",)),
    ("PatientWeight", "71", ("71", "71.0"), ("72",)),
    ("Occupation", "baker", ("bak*",), ("smith",)),
    ("AdditionalPatientHistory", "none known", ("none*",), ("some",)),
    ("RequestingPhysician", "Ask^One", ("ask*",), ("Two*",)),
    ("RequestedProcedureDescription", "Thorax", ("thorax",), ("Knee",)),
    ("ModalitiesInStudy", None, ("CT", "C?", "MR\\CT"), ("MR",)),
    ("SOPClassesInStudy", None, ("1.2.840.10008.5.1.4.1.1.2",), ("1.2.840.10008.5.1.4.1.1.4",)),
]
SERIES: Final[list[Row]] = [
    ("SeriesInstanceUID", None, (uid(1, 1), f"{uid(1, 1)}\\{uid(9)}"), (uid(9),)),
    ("Modality", "CT", ("CT", "C*"), ("MR",)),
    ("SeriesNumber", 1, ("1", "01"), ("2",)),
    ("SeriesDescription", "axial", ("axial", "ax*"), ("sagittal",)),
    ("SeriesDate", "20251215", ("20251215", "20251201-20251231"), ("20251216-",)),
    ("SeriesTime", "102000", ("1020", "10-11"), ("1021-",)),
    ("BodyPartExamined", "CHEST", ("CHEST", "ch*"), ("KNEE",)),
    ("Laterality", "L", ("L",), ("R",)),
    ("ProtocolName", "Routine", ("rout*",), ("Special",)),
    ("PatientPosition", "HFS", ("HFS",), ("FFS",)),
    ("Manufacturer", "ACME", ("acme",), ("OTHER",)),
    ("InstitutionName", "General", ("gen*",), ("Other",)),
    ("StationName", "CT1", ("CT1",), ("CT2",)),
    ("PerformingPhysicianName", "Perf^One", ("perf*",), ("Two*",)),
    ("OperatorsName", "Op^One", ("op*",), ("Two*",)),
    ("FrameOfReferenceUID", uid(7), (uid(7), f"{uid(7)}\\{uid(8)}"), (uid(8),)),
    ("PerformedProcedureStepStartDate", "20251215", ("20251215", "20251214-"), ("-20251214",)),
    ("PerformedProcedureStepStartTime", "1010", ("1010", "10"), ("11-",)),
    ("PerformedProcedureStepID", "PPS1", ("PPS1", "PPS*"), ("PPS2",)),
    ("PerformedProcedureStepDescription", "scan", ("scan",), ("other",)),
]
IMAGE: Final[list[Row]] = [
    ("SOPInstanceUID", None, (uid(1, 1, 1), f"{uid(1, 1, 1)}\\{uid(9)}"), (uid(9),)),
    ("SOPClassUID", None, ("1.2.840.10008.5.1.4.1.1.2",), ("1.2.840.10008.5.1.4.1.1.4",)),
    ("InstanceNumber", 1, ("1", "01"), ("2",)),
    ("AcquisitionNumber", 3, ("3",), ("4",)),
    ("ContentDate", "20251215", ("20251215", "2025.12.15-"), ("-20251214",)),
    ("ContentTime", "1030", ("1030", "10-"), ("11",)),
    ("AcquisitionDate", "20251215", ("20251215",), ("20251214",)),
    ("AcquisitionTime", "1029", ("1029", "-1030"), ("1030-",)),
    (
        "AcquisitionDateTime",
        "20251215102900",
        ("20251215102900", "202512151000-202512151100"),
        ("20251216-",),
    ),
    ("InstanceCreationDate", "20251215", ("20251215",), ("20251216",)),
    ("InstanceCreationTime", "1031", ("1031",), ("1032",)),
    ("ImageType", ["ORIGINAL", "PRIMARY"], ("PRIMARY", "orig*"), ("DERIVED",)),
    ("Rows", 4, ("4",), ("5",)),
    ("Columns", 4, ("4",), ("5",)),
    ("BitsAllocated", 16, ("16",), ("8",)),
    ("NumberOfFrames", 1, ("1",), ("2",)),
    ("ContentLabel", "LABEL", ("LABEL", "lab*"), ("OTHER",)),
    ("ContentDescription", "words", ("wor*",), ("other",)),
]
ALL: Final = ((Level.PATIENT, PATIENT), (Level.STUDY, STUDY), (Level.SERIES, SERIES), (Level.IMAGE, IMAGE))
SEQUENCES: Final = {
    Level.STUDY: ("ProcedureCodeSequence", "ReferencedStudySequence", "AdmittingDiagnosesCodeSequence"),
    Level.SERIES: ("RequestAttributesSequence", "PerformedProtocolCodeSequence"),
    Level.IMAGE: ("ReferencedImageSequence", "ConceptNameCodeSequence"),
}


@pytest.fixture
async def stocked(room: Room) -> Room:
    held = {key: value for _, rows in ALL for key, value, _, _ in rows if value is not None}
    await room.store(an_object(1, **held))  # type: ignore[arg-type]
    other = {
        "PatientName": "Bystander", "PatientID": "Z", "PatientBirthDate": None, "StudyDate": None,
        "StudyTime": None, "AccessionNumber": "Z", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1",
        "Modality": "US", "SeriesNumber": 9, "InstanceNumber": 9, "Rows": 9, "Columns": 9,
        "BitsAllocated": 32,
    }  # fmt: skip
    await room.store(an_object(2, **other))  # type: ignore[arg-type]
    return room


def by_find(level: Level, keyword: str, key: str, *, patient_root: bool = True) -> Query:
    ds = Dataset()
    ds.QueryRetrieveLevel = level.name
    ds.add_new(keyword, "LO", key)  # as text: a range is no value of its VR
    model = find.PATIENT_ROOT if patient_root else find.STUDY_ROOT
    return find.question(find.read_identifier(encoded(ds, EXPLICIT_LITTLE), EXPLICIT_LITTLE), model + "1")


def by_qido(level: Level, keyword: str, key: str, *, by_number: bool) -> Query:
    name = f"{tag_for_keyword(keyword):08x}" if by_number else keyword
    return read_search(level, [(name, key)], {}).query


def all_ways(level: Level, keyword: str, key: str) -> Iterable[Query]:
    yield by_find(level, keyword, key)
    if level is not Level.PATIENT:
        yield by_find(level, keyword, key, patient_root=False)
        yield by_qido(level, keyword, key, by_number=True)
        yield by_qido(level, keyword, key, by_number=False)


def patient_of(match: Match) -> str:
    return str(match.attributes()["00100020"]["Value"][0])


@pytest.mark.parametrize(("own", "rows"), ALL)
async def test_each_key_is_matched_at_its_level_and_below(stocked: Room, own: Level, rows: list[Row]) -> None:
    wrong = []
    for keyword, _, hits, misses in rows:
        for key in (*hits, *misses):
            for level in Level:
                for query in all_ways(level, keyword, key) if level >= own else ():
                    found = stocked.index.search_now(query)
                    patients = {patient_of(match) for match in found}
                    if patients != ({"P1"} if key in hits else set()) or query.unsupported:
                        wrong.append((keyword, key, level.name))
    assert wrong == []


@pytest.mark.parametrize(("own", "rows"), ALL)
async def test_each_key_without_a_value_matches_all(stocked: Room, own: Level, rows: list[Row]) -> None:
    for keyword, *_ in rows:
        for key in ("", "*"):
            for query in all_ways(own, keyword, key):
                assert not query.unsupported
                assert len(stocked.index.search_now(query)) == 2, keyword


@pytest.mark.parametrize(("own", "rows"), ALL[1:])
def test_each_key_above_its_level_is_told_to_have_no_part(own: Level, rows: list[Row]) -> None:
    for keyword, _, (key, *_), _ in rows:
        for level in (one for one in Level if one < own):
            for query in all_ways(level, keyword, key):
                assert query.unsupported == {tag_for_keyword(keyword)}
                assert not query.keys


@pytest.mark.parametrize("level", SEQUENCES)
def test_sequences_are_return_keys_and_told_where_they_are_asked_into(level: Level) -> None:
    for keyword in SEQUENCES[level]:
        item = Dataset()
        item.CodeValue = "T-D3000"
        for value, told in (([], False), ([Dataset()], False), ([item], True)):
            ds = Dataset()
            ds.QueryRetrieveLevel = level.name
            setattr(ds, keyword, value)
            raw = encoded(ds, EXPLICIT_LITTLE)
            identifier, query = find.asked(raw, EXPLICIT_LITTLE, find.STUDY_ROOT + "1")
            assert query.unsupported == ({tag_for_keyword(keyword)} if told else set())
            assert tag_for_keyword(keyword) in identifier.vrs  # so it is returned, empty
        asked = read_search(level, [(f"{keyword}.CodeValue", "T-D3000")], {})
        assert asked.query.unsupported == {tag_for_keyword(keyword)}


async def test_day_and_time_are_each_a_range_of_its_own(room: Room) -> None:
    """PS3.4 C.2.2.2.5: matched as one moment only where that was negotiated, which is not offered."""
    for study, day, time in ((1, "20251214", "2300"), (2, "20251215", "0100"), (3, "20251215", "2200")):
        await room.store(an_object(study, StudyDate=day, StudyTime=time))
    query = by_qido(Level.STUDY, "StudyDate", "20251214-20251215", by_number=False)
    both = read_search(
        Level.STUDY, [("StudyDate", "20251214-20251215"), ("StudyTime", "2200-2330")], {}
    ).query
    assert len(room.index.search_now(query)) == 3
    assert {match.study_instance_uid for match in room.index.search_now(both)} == {uid(1), uid(3)}
