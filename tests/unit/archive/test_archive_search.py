"""What a search finds in the index, by level and kind of key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from failover.archive import compressor, find, lost, statements
from failover.archive.queries import Level, make_query
from failover.archive.statements import to_sql
from failover.dicom.query_keys import KeyUnreadable
from failover.model import Origin
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import an_object, uid


@pytest.fixture
async def stocked(room: Room) -> Room:
    """Five studies, whose names need several character sets."""
    for study, name, date, modality in (
        (1, "Müller^Jürgen", "20251201", "CT"),
        (2, "Yamada^Tarou=山田^太郎=やまだ^たろう", "20251202", "MR"),
        (3, "قباني^لنزار", "20251203", "CT"),
        (4, "Διονυσίου^Ελένη", "20251204", "US"),
        (5, "O'Brien^Siobhán^^Dr", "20251205", "CT"),
    ):
        for series in (1, 2):
            await room.store(
                an_object(
                    study,
                    series,
                    1,
                    PatientName=name,
                    StudyDate=date,
                    Modality=modality if series == 1 else "SR",
                    SeriesDescription=f"Series {series} [100%]",
                )
            )
    return room


def studies(matches: Sequence[object]) -> list[int]:
    return [int(m.study_instance_uid.rsplit(".", 1)[1]) for m in matches]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"PatientName": ""}, [5, 4, 3, 2, 1]),
        ({"PatientName": "*"}, [5, 4, 3, 2, 1]),
        ({"PatientName": "müller^jürgen"}, [1]),
        ({"PatientName": "MÜLLER*"}, [1]),
        ({"PatientName": "M\u0075\u0308ller*"}, [1]),  # ü from two code points
        ({"PatientName": "山田*"}, [2]),
        ({"PatientName": "*たろう"}, [2]),
        ({"PatientName": "=山田^太郎"}, [2]),
        ({"PatientName": "山田^太郎="}, []),
        ({"PatientName": "yamada*=*"}, [2]),
        ({"PatientName": "قباني*"}, [3]),
        ({"PatientName": "διονυσίου^ΕΛΈΝΗ"}, [4]),
        ({"PatientName": "ΔΙΟΝΥΣΊΟΥ*"}, [4]),
        ({"PatientName": "o'brien^siobh?n^^dr"}, [5]),
        ({"PatientName": "[O]*"}, []),
        ({"PatientName": "müller^jürgen^*"}, [1]),
        ({"PatientID": "p3"}, [3]),
        ({"PatientID": "P?"}, [5, 4, 3, 2, 1]),
        ({"StudyDate": "20251203"}, [3]),
        ({"StudyDate": "20251203-"}, [5, 4, 3]),
        ({"StudyDate": "-20251202"}, [2, 1]),
        ({"StudyDate": "20251202-20251204"}, [4, 3, 2]),
        ({"StudyTime": "10"}, [5, 4, 3, 2, 1]),
        ({"StudyTime": "1016-"}, []),
        ({"ModalitiesInStudy": "CT"}, [5, 3, 1]),
        ({"ModalitiesInStudy": "US\\MR"}, [4, 2]),
        ({"ModalitiesInStudy": "C?\\U*"}, [5, 4, 3, 1]),
        ({"StudyInstanceUID": uid(1)}, [1]),
        ({"StudyInstanceUID": f"{uid(1)}\\{uid(4)}\\9.9"}, [4, 1]),
        ({"StudyInstanceUID": uid(1) + "*"}, []),
        ({"AccessionNumber": "A2", "PatientName": "Y*"}, [2]),
        ({"AccessionNumber": "A2", "PatientName": "M*"}, []),
        ({"SOPClassesInStudy": "1.2.840.10008.5.1.4.1.1.2"}, [5, 4, 3, 2, 1]),
        ({"ReferringPhysicianName": "nobody"}, []),
        ({"PatientName": "' OR 1=1 --"}, []),
        ({"PatientID": '"; DROP TABLE studies; --'}, []),
    ],
)
async def test_studies_by_key(stocked: Room, keys: dict[str, str], found: list[int]) -> None:
    assert studies(await stocked.find(Level.STUDY, **keys)) == found


async def test_levels_below_are_found_across_studies_too(stocked: Room) -> None:
    assert len(await stocked.find(Level.SERIES, Modality="SR")) == 5
    assert len(await stocked.find(Level.SERIES, Modality="CT", PatientName="M*")) == 1
    assert len(await stocked.find(Level.SERIES, SeriesDescription="series 1 [[]*")) == 0
    assert len(await stocked.find(Level.SERIES, SeriesDescription="series 1 [*")) == 5
    assert len(await stocked.find(Level.IMAGE, InstanceNumber="01", StudyInstanceUID=uid(2))) == 2
    assert len(await stocked.find(Level.IMAGE, Rows="4", SeriesNumber="2")) == 5
    assert len(await stocked.find(Level.IMAGE, Rows="5")) == 0


@pytest.mark.parametrize("number", ["--5", "-", "2\N{SUPERSCRIPT TWO}", "nan", "1e999", "9" * 40])
async def test_what_is_no_number_of_a_series_finds_none(stocked: Room, number: str) -> None:
    assert await stocked.find(Level.SERIES, SeriesNumber=number) == []
    assert await stocked.find(Level.IMAGE, InstanceNumber=number) == []


async def test_a_patient_is_counted_over_studies(stocked: Room) -> None:
    await stocked.store(an_object(6, PatientName="Müller^Jürgen", PatientID="P1"))
    await stocked.store(an_object(7, PatientName="Other^One", PatientID="p1"))
    (one, other) = await stocked.find(Level.PATIENT, PatientID="P1")
    counts = {
        m.attributes()["00100020"]["Value"][0]: [
            m.attributes()[tag]["Value"][0] for tag in ("00201200", "00201202", "00201204")
        ]
        for m in (one, other)
    }
    assert counts == {"P1": [2, 3, 3], "p1": [1, 1, 1]}


async def test_patients_without_an_id_are_not_one_patient(room: Room) -> None:
    await room.store(an_object(1, PatientID="", PatientName="Unknown^A"))
    await room.store(an_object(2, PatientID="", PatientName="Unknown^B"))
    assert len(await room.find(Level.PATIENT)) == 2


async def test_answers_are_finished_json_in_order_of_tags(stocked: Room) -> None:
    (match,) = await stocked.find(StudyInstanceUID=uid(2))
    base = 'http://host/"weird"/dicom-web'
    answer = json.loads(match.json(base))
    assert list(answer) == sorted(answer)
    assert answer["00081190"]["Value"] == [f"{base}/studies/{uid(2)}"]
    assert answer["00080061"]["Value"] == ["MR", "SR"]
    assert answer["00201206"]["Value"] == [2]
    assert answer["00100010"]["Value"] == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    ]
    (series, _) = await stocked.find(Level.SERIES, StudyInstanceUID=uid(2))
    whole = json.loads(series.json(base, with_levels_above=True))
    assert whole["00100020"]["Value"] == ["P2"]
    assert whole["00081190"]["Value"] == [f"{base}/studies/{uid(2)}/series/{uid(2, 1)}"]


@pytest.mark.parametrize("hostile", ["\uffff/x", "a\x01b", "\\u0001", '"},"x":{', "</script>", "a\0b"])
async def test_no_value_of_a_sender_breaks_the_json(room: Room, hostile: str) -> None:
    await room.store(an_object(StudyDescription=hostile))
    (match,) = await room.find()
    answer = json.loads(match.json("http://h"))
    assert answer["00081190"]["Value"] == [f"http://h/studies/{uid(1)}"]
    assert "http" not in json.dumps(answer["00081030"])


async def test_limit_and_offset(stocked: Room) -> None:
    for keys in ({}, {0x00080090: "*"}, {0x00100010: "*"}):
        query = make_query(Level.STUDY, keys, limit=2, offset=1)
        assert studies(await stocked.index.search(query)) == [4, 3]
    await stocked.store(an_object(5, 1, 1, ReferringPhysicianName="Ref^One"), Origin.REPLICATED)
    await stocked.store(an_object(3, 1, 1, ReferringPhysicianName="Ref^One"), Origin.REPLICATED)
    residual = make_query(Level.STUDY, {0x00080090: "ref*"}, limit=1, offset=1)
    assert to_sql(residual).residual
    assert len(await stocked.index.search(residual)) == 1


def test_a_key_that_has_no_part_is_named() -> None:
    query = make_query(Level.STUDY, {0x0008103E: "brain", 0x00187777: "x", 0x00201206: "3", 0x00080061: ""})
    assert query.unsupported == {0x0008103E, 0x00187777}
    assert not query.keys


@pytest.mark.parametrize(
    ("tag", "text"),
    [(0x00080020, "yesterday"), (0x00080020, "2025"), (0x00080020, "-"), (0x00080030, "25h"),
     (0x00080020, "20250101\\20250102"), (0x00100020, "x" * 5000),
     (0x0020000D, "\\".join(map(str, range(10_001))))],
)  # fmt: skip
def test_a_key_without_a_reading_is_refused(tag: int, text: str) -> None:
    with pytest.raises(KeyUnreadable):
        make_query(Level.STUDY, {tag: text})


def test_only_questions_with_few_answers_run_in_the_loop() -> None:
    def scans(level: Level, keys: dict[int, str], limit: int | None = None) -> bool:
        return to_sql(make_query(level, keys, limit=limit)).scans

    assert not scans(Level.STUDY, {0x00100020: "P1"})
    assert not scans(Level.STUDY, {0x0020000D: "1.2.3"})
    assert not scans(Level.STUDY, {}, limit=100)
    assert not scans(Level.STUDY, {0x00100010: "Must*"})
    assert not scans(Level.STUDY, {0x00080020: "20250101"})
    assert scans(Level.STUDY, {0x00080020: "20240101-20250101"})
    assert scans(Level.IMAGE, {0x00080020: "20250101"})
    assert scans(Level.STUDY, {0x00100010: "*er*"})
    assert scans(Level.STUDY, {})
    assert scans(Level.IMAGE, {0x00080060: "CT"})


async def test_a_name_that_many_begin_with_is_looked_for_in_the_order_of_the_answer(
    stocked: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan() -> str:
        sql = stocked.index._sql(query)
        steps = stocked.index.reader().execute(f"EXPLAIN QUERY PLAN {sql.text}", sql.parameters)
        return " ".join(step["detail"] for step in steps)

    query = make_query(Level.STUDY, {0x00100010: "mül*"}, limit=3)
    few = studies(await stocked.index.search(query))
    assert "studies_by_name_1" in plan()
    monkeypatch.setattr(statements, "_FEW_NAMES", 0)
    query = replace(query)
    assert "studies_by_name_1" not in plan()
    assert studies(await stocked.index.search(query)) == few != []


async def test_a_day_that_many_studies_have_is_read_in_a_thread(
    stocked: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    (some, *_) = await stocked.index.search(make_query(Level.STUDY, {}))
    day = some.attributes()["00080020"]["Value"][0]
    query = make_query(Level.STUDY, {0x00080020: day})
    few = await stocked.index.search(query)
    assert not stocked.index._sql(query).scans
    monkeypatch.setattr(statements, "_FEW_OF_A_DAY", 0)
    query = replace(query)
    assert stocked.index._sql(query).scans
    assert await stocked.index.search(query) == few != []


@pytest.mark.parametrize("tag", [0x00081030, 0x00100020])
async def test_as_many_patterns_as_are_read_are_searched_and_more_are_refused(room: Room, tag: int) -> None:
    await room.store(an_object(PatientID="a", StudyDescription="a", PatientName="a b"))
    some = make_query(Level.STUDY, {tag: "\\".join(["b*"] * 499 + ["a*"])})
    assert len(await room.index.search(some)) == 1
    words = {0x00100010: "a " * 250 + "b " * 250}
    assert len(await room.index.search(make_query(Level.STUDY, words, fuzzy=True))) == 1
    with pytest.raises(KeyUnreadable):
        make_query(Level.STUDY, {tag: "\\".join(["b*"] * 501)})
    with pytest.raises(KeyUnreadable):
        make_query(Level.STUDY, {0x00100010: "a " * 501}, fuzzy=True)


@pytest.mark.parametrize("asked", [True, False])
async def test_sop_classes_of_a_study_are_given_where_they_are_asked_for(room: Room, asked: bool) -> None:
    for series, sop_class in ((1, "1.2.840.10008.5.1.4.1.1.2"), (2, "1.2.840.10008.5.1.4.1.1.88.11")):
        await room.store(an_object(1, series, 1, SOPClassUID=sop_class))
    keys = {0x00080052: "STUDY"} | ({0x00080062: ""} if asked else {})
    identifier = find.Identifier(keys, {0x00080052: "CS", 0x00080062: "UI"})
    (match,) = await room.index.search(find.question(identifier, find.STUDY_ROOT + "1"))
    found = match.attributes()
    assert list(found) == sorted(found)
    classes = found.get("00080062", {}).get("Value")
    assert classes == (["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"] if asked else None)


async def test_instance_and_acquisition_number_are_two_keys(room: Room) -> None:
    for number in (1, 2, 3):
        await room.store(an_object(1, 1, number, InstanceNumber=number, AcquisitionNumber=4 - number))
    for tag, wanted in ((0x00200013, "1"), (0x00200012, "3")):
        (found,) = await room.index.search(make_query(Level.IMAGE, {tag: wanted}))
        assert found.sop_instance_uid == uid(1, 1, 1)


async def test_what_is_looked_for_among_all_objects_has_an_index_of_its_own(room: Room) -> None:
    for statement, index in (
        (compressor._OWED_AGAIN, "instances_owed_compressed"),
        (lost._MAY_BE_LOST, "instances_hidden"),
    ):
        steps = room.index.reader().execute(f"EXPLAIN QUERY PLAN {statement}")
        assert index in " ".join(step["detail"] for step in steps)


async def test_a_hostile_pattern_ends_soon(room: Room) -> None:
    await room.store(an_object(PatientName="a" * 60, ReferringPhysicianName="a" * 60))
    pattern = "a*" * 30 + "b"
    assert await room.find(PatientName=pattern) == []
    assert await room.find(ReferringPhysicianName=pattern) == []
    assert await room.find(PatientID="?" * 2000 + "*" * 2000) == []


async def test_the_index_survives_its_own_restart(room: Room) -> None:
    from failover.archive.index import Index

    await room.store(an_object())
    await room.index.set_window(None, {uid(1): 5})
    room.index.close()
    again = Index(room.data_dir, has_primary=True)
    assert again.numbers()["studies"] == 1
    assert again.window.short == {uid(1): 5}
    again.close()
