"""A study as a zip archive with a DICOMDIR, read again by zipfile, pydicom's FileSet and DCMTK."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet

from failover.app.samples import sample_studies
from tests.integration.archive_stage import dcmtk
from tests.integration.dicomweb_stage import TODAY, WebStage, a_web_archive
from tests.unit.archive.objects import data_set, part10, uid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

EXPLICIT = "1.2.840.10008.1.2.1"


async def zipped(stage: WebStage, study: str, folder: Path, accept: str = "application/zip") -> list[str]:
    """Fetch a study as zip, unpack it below `folder`; return the names of its members."""
    status, answer, body = await stage.get(f"/studies/{study}", Accept=accept)
    assert (status, answer.headers["Content-Type"]) == (200, "application/zip"), body
    assert answer.headers["Content-Disposition"] == 'attachment; filename="DICOM.zip"'
    with zipfile.ZipFile(BytesIO(body)) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
        return archive.namelist()


async def test_every_sample_study_is_a_file_set_that_others_read(tmp_path: Path) -> None:
    """Given images, multi-frames, reports and colour, when each study is fetched, then all of it is there."""
    samples = [*sample_studies(TODAY)]
    studies = list(dict.fromkeys(str(ds.StudyInstanceUID) for ds in samples))
    async with a_web_archive(tmp_path / "archive") as stage:
        for number, study in enumerate(studies):
            folder = tmp_path / str(number)
            names = await zipped(stage, study, folder)
            wanted = {str(ds.SOPInstanceUID): ds for ds in samples if ds.StudyInstanceUID == study}
            assert len(names) == len(wanted) + 2, "objects, DICOMDIR, README.TXT"
            for name in names:
                parts = name.removesuffix(".TXT").split("/")
                assert all(1 <= len(part) <= 8 and part.replace("_", "A").isalnum() for part in parts)
                assert name == name.upper()
            found = FileSet(folder / "DICOMDIR")
            assert len(found) == len(wanted)
            for instance in found:
                loaded = instance.load()
                original = wanted.pop(str(loaded.SOPInstanceUID))
                assert loaded.PatientName == original.PatientName
                assert instance.ReferencedTransferSyntaxUIDInFile == loaded.file_meta.TransferSyntaxUID
                assert loaded.file_meta.TransferSyntaxUID == EXPLICIT
            assert wanted == {}
            code, said = await dcmtk("dcmdump", "+U8", "+P", "DirectoryRecordType", folder / "DICOMDIR")
            assert code == 0, said
            # Given the directory and one more file, dcmmkdir reads all records by their offsets.
            more = folder / "DICOM" / "MORE"
            more.write_bytes(part10(data_set(77, StudyID="7")))
            code, said = await dcmtk(
                "dcmmkdir", "-Pgp", "+A", "-W", "-nb", "+id", folder, "+D", folder / "DICOMDIR", "DICOM/MORE"
            )
            assert code == 0, said
            assert "E:" not in said
            assert len(FileSet(folder / "DICOMDIR")) == len(found) + 1


async def test_as_stored_or_by_a_link_and_at_series_level(tmp_path: Path) -> None:
    samples = [*sample_studies(TODAY)]
    packed = next(ds for ds in samples if ds.file_meta.TransferSyntaxUID.is_compressed)
    study = str(packed.StudyInstanceUID)
    async with a_web_archive(tmp_path / "archive") as stage:
        await zipped(stage, study, tmp_path / "stored", "application/zip; transfer-syntax=*")
        kept = {str(i.load().SOPInstanceUID): i.load() for i in FileSet(tmp_path / "stored" / "DICOMDIR")}
        found = kept[str(packed.SOPInstanceUID)]
        assert found.file_meta.TransferSyntaxUID == packed.file_meta.TransferSyntaxUID
        assert found.PixelData == packed.PixelData
        async with stage.session.get(f"{stage.origin}/.failover/download/{study}") as answer:
            assert answer.status == 200
            body = await answer.read()
        with zipfile.ZipFile(BytesIO(body)) as archive:
            assert archive.testzip() is None
            assert "DICOMDIR" in archive.namelist()
        status, answer, body = await stage.get(
            f"/studies/{study}/series/{packed.SeriesInstanceUID}", Accept="application/zip"
        )
        assert status == 200
        assert zipfile.ZipFile(BytesIO(body)).testzip() is None
        status, _, _ = await stage.get(f"/studies/{uid(1)}", Accept="application/zip")
        assert status == 404
        status, _, _ = await stage.get(
            f"/studies/{study}", Accept="application/zip; transfer-syntax=1.2.840.10008.1.2.4.90"
        )
        assert status == 406
        status, answer, _ = await stage.get(f"/studies/{study}", Accept="*/*")
        assert answer.headers["Content-Type"].startswith("multipart/related")


async def test_an_object_that_cannot_be_decoded_goes_as_it_is_stored(tmp_path: Path) -> None:
    broken = data_set(1, PixelData=b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x04\0\0\0\xff\xd8\xff\xd9")
    broken["PixelData"].is_undefined_length = True
    content = part10(broken, "1.2.840.10008.1.2.4.70")
    async with a_web_archive(tmp_path / "archive", filled=False) as stage:
        status, said = await stage.store(content, part10(data_set(1, 1, 2, PatientName="Ⅷ^漢字", StudyID="")))
        assert status == 200, said
        await zipped(stage, uid(1), tmp_path / "out")
        found = {i.load().InstanceNumber: i for i in FileSet(tmp_path / "out" / "DICOMDIR")}
        assert found[1].ReferencedTransferSyntaxUIDInFile == "1.2.840.10008.1.2.4.70"
        assert found[2].load().PatientName == "Ⅷ^漢字"
        records = pydicom.dcmread(tmp_path / "out" / "DICOMDIR").DirectoryRecordSequence
        assert [record.StudyID for record in records if "StudyID" in record] == ["UNKNOWN"]


async def test_a_file_that_ends_too_soon_breaks_the_archive_visibly(tmp_path: Path) -> None:
    """Given the second file cut short, when the study is fetched, then the caller sees a broken answer."""
    async with a_web_archive(tmp_path / "archive", filled=False) as stage:
        await stage.store(part10(data_set(1)), part10(data_set(1, 1, 2)))
        files = sorted((stage.configuration.archive.data_dir / "objects").rglob("*.dcm"))
        two = next(file for file in files if pydicom.dcmread(file).InstanceNumber == 2)
        await stage.get(f"/studies/{uid(1)}/metadata")  # kept: the directory needs no second look
        two.write_bytes(two.read_bytes()[:-5])
        with pytest.raises(Exception, match=r"payload|disconnected|Connection"):
            await stage.get(f"/studies/{uid(1)}", Accept="application/zip")
