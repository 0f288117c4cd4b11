"""DCMTK's programs as callers of the archive: echo, store, find, move, get."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path

import pydicom
import pytest

from failover.app.samples import part10, sample_studies
from tests.integration.archive_stage import AE_TITLE, Stage, an_archive, dcmtk
from tests.peers.process import free_port
from tests.peers.storescp import Storescp

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen studies, one file for each instance of each series' first three."""
    folder = tmp_path_factory.mktemp("samples")
    seen: dict[str, int] = {}
    for number, ds in enumerate(sample_studies(date(2026, 1, 1))):
        seen[ds.SeriesInstanceUID] = seen.get(ds.SeriesInstanceUID, 0) + 1
        if seen[ds.SeriesInstanceUID] <= 3:
            kind = folder / ds.file_meta.TransferSyntaxUID
            kind.mkdir(exist_ok=True)
            (kind / f"{number:04d}.dcm").write_bytes(part10(ds))
    return folder


# How storescu proposes what a file is kept in.
_PROPOSED = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.90": "-xv",
}


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def at(stage: Stage, *, called: str = AE_TITLE, calling: str = "WORKSTATION") -> list[object]:
    return ["-aec", called, "-aet", calling, "127.0.0.1", stage.port]


async def stored(stage: Stage, samples: Path) -> list[Path]:
    files = files_in(samples)
    for syntax, option in _PROPOSED.items():
        code, said = await dcmtk("storescu", option, "-R", *at(stage), "+sd", samples / syntax)
        assert code == 0, said
    return files


async def test_echo_answers_and_a_wrong_name_is_rejected(tmp_path: Path) -> None:
    async with an_archive(tmp_path) as stage:
        assert (await dcmtk("echoscu", *at(stage)))[0] == 0
        code, said = await dcmtk("echoscu", *at(stage, called="NOBODY"))
        assert code != 0
        assert "Called AE Title Not Recognized" in said


async def test_only_callers_of_the_configuration_come_in(tmp_path: Path) -> None:
    callers = "{CT1: [127.0.0.0/8], CT2: [10.0.0.0/8]}"
    async with an_archive(tmp_path, dicom_callers=callers) as stage:
        assert (await dcmtk("echoscu", *at(stage, calling="CT1")))[0] == 0
        for stranger in ("CT2", "CT3"):
            code, said = await dcmtk("echoscu", *at(stage, calling=stranger))
            assert code != 0
            assert "Calling AE Title Not Recognized" in said


async def test_stored_studies_are_found_with_their_names(tmp_path: Path, samples: Path) -> None:
    async with an_archive(tmp_path) as stage:
        files = await stored(stage, samples)
        assert len(stage.objects()) == len(files)
        assert (await stage.ask("ledger.numbers"))["lag_objects"] == len(files)
        for pattern, name in (
            ("MÜLLER*", "Müller^Jürgen"),
            ("山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
            ("*لنزار*", "قباني^لنزار"),
            ("ΔΙΟΝΥΣΊΟΥ*", "Διονυσίου^Ελένη"),
        ):
            code, said = await dcmtk(
                "findscu", "-S", *at(stage), "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID",
                "-k", "SpecificCharacterSet=ISO_IR 192", "-k", f"PatientName={pattern}",
                "-k", "NumberOfStudyRelatedInstances", "-k", "ModalitiesInStudy",
            )  # fmt: skip
            assert code == 0
            assert name in said, said
            assert "ISO_IR 192" in said


@pytest.mark.parametrize("options", [[], ["--bit-preserving"]])
async def test_move_brings_every_instance_as_it_is_kept(
    tmp_path: Path, samples: Path, options: list[str]
) -> None:
    peer = Storescp(ae_title="DEST", options=options)
    with peer:
        async with an_archive(tmp_path, destinations={"DEST": peer.dicom_port}) as stage:
            files = await stored(stage, samples)
            sent = [pydicom.dcmread(path) for path in files]
            for study in sorted({ds.StudyInstanceUID for ds in sent}):
                code, said = await dcmtk(
                    "movescu", "-v", "-S", "-aem", "DEST", *at(stage), "-k", "QueryRetrieveLevel=STUDY",
                    "-k", f"StudyInstanceUID={study}",
                )  # fmt: skip
                assert code == 0, said
                assert "Success" in said, said
            received = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, peer.files())}
            assert len(received) == len(files)
            for ds in sent:
                got = received[ds.SOPInstanceUID]
                assert got.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
                assert got.get("PixelData") == ds.get("PixelData")


async def test_move_to_a_stranger_and_to_nobody_fails_as_it_should(tmp_path: Path, samples: Path) -> None:
    async with an_archive(tmp_path, destinations={"GONE": free_port()}) as stage:
        files = await stored(stage, samples)
        study = pydicom.dcmread(files[0]).StudyInstanceUID
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
        _, said = await dcmtk("movescu", "-v", "-S", "-aem", "STRANGER", *at(stage), *keys)
        assert "0xa801" in said.lower() or "MoveDestinationUnknown" in said, said
        _, said = await dcmtk("movescu", "-v", "-S", "-aem", "GONE", *at(stage), *keys)
        assert "0xa702" in said.lower() or "SubOperations" in said, said


async def test_get_brings_a_series_and_a_patient(tmp_path: Path, samples: Path) -> None:
    async with an_archive(tmp_path) as stage:
        files = [path for path in await stored(stage, samples) if _is_native(path)]
        first = pydicom.dcmread(files[0])
        for level, model, keys in (
            ("SERIES", "-S", [f"StudyInstanceUID={first.StudyInstanceUID}",
                              f"SeriesInstanceUID={first.SeriesInstanceUID}"]),
            ("PATIENT", "-P", [f"PatientID={first.PatientID}"]),
        ):  # fmt: skip
            folder = tmp_path / level
            folder.mkdir()
            arguments = [a for key in keys for a in ("-k", key)]
            code, said = await dcmtk(
                "getscu",
                "-v",
                model,
                *at(stage),
                "-od",
                folder,
                "-k",
                f"QueryRetrieveLevel={level}",
                *arguments,
            )
            assert code == 0, said
            got = [pydicom.dcmread(path) for path in files_in(folder)]
            assert got, said
            if level == "SERIES":
                assert {ds.SeriesInstanceUID for ds in got} == {first.SeriesInstanceUID}
            assert {ds.PatientID for ds in got} == {first.PatientID}
            pixels = {ds.SOPInstanceUID: ds for ds in got}
            if first.SOPInstanceUID in pixels:
                assert pixels[first.SOPInstanceUID].PixelData == first.PixelData


def _is_native(path: Path) -> bool:
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    return not ds.file_meta.TransferSyntaxUID.is_encapsulated and ds.Modality == "CT"


async def test_many_callers_store_at_once(tmp_path: Path, samples: Path) -> None:
    native = samples / "1.2.840.10008.1.2.1"
    async with an_archive(tmp_path) as stage:
        done = await asyncio.gather(
            *(dcmtk("storescu", "-R", *at(stage, calling=f"CT{n}"), "+sd", native) for n in range(4))
        )
        assert [code for code, _ in done] == [0] * 4, done
        assert len(stage.objects()) == len(files_in(native))
        assert stage.half_received() == []
