"""`failover import`: what is sent, how the archive's answer is read, and how the command ends."""

from __future__ import annotations

import email
import email.policy
import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import Result

from failover.cli.sources import FileSource, is_part10
from failover.cli.stow import batches
from failover.dicom.part10 import write_head

Failover = Callable[..., Result]


class Archive(ThreadingHTTPServer):
    """A STOW listener that keeps what it gets, and refuses objects that contain `refuse`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Stow)
        self.kept: list[bytes] = []
        self.requests: list[tuple[str, str | None]] = []
        self.dies_after: int | None = None
        self.handle_error = _say_nothing  # type: ignore[method-assign]
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Stow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Archive

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)["SOPInstanceUID"][0].split(",")
        here = {_uid(one) for one in self.server.kept}
        content = json.dumps([{} for uid in asked if uid in here]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        if self.server.dies_after is not None and len(self.server.requests) >= self.server.dies_after:
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["X-Failover-Origin"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        parts = [part.get_payload(decode=True) for part in message.iter_parts()]
        good = [part for part in parts if b"refuse" not in part]
        self.server.kept += good
        failed = [{"00081197": {"vr": "US", "Value": [0xC000]}}] * (len(parts) - len(good))
        answer = {
            "00081199": {"vr": "SQ", "Value": [{"00081155": {"Value": [_uid(part)]}} for part in good]},
            "00081198": {"vr": "SQ", "Value": failed},
        }
        content = json.dumps(answer).encode()
        self.send_response(200 if not failed else 202 if good else 409)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""


def _uid(content: bytes) -> str:
    return f"1.2.{int.from_bytes(hashlib.sha256(content).digest()[:8])}"


def _say_nothing(*_: object) -> None:
    """A caller that leaves in the middle of its request is no fault of ours."""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    server = Archive()
    (tmp_path / "failover.yaml").write_text(f"archive: {{web: {{port: {server.server_port}}}}}\n")
    yield server
    server.shutdown()
    server.server_close()


def part10(path: Path, content: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = bytes(128) + b"DICM" + content
    path.write_bytes(whole)
    return whole


def test_folders_are_sent_and_other_files_left_out(
    failover: Failover, archive: Archive, tmp_path: Path
) -> None:
    sent = [part10(tmp_path / f"cd/a/{n}.dcm", b"\r\n--x--\r\n" + bytes([n]) * 3000) for n in range(30)]
    (tmp_path / "cd/DICOMDIR").write_bytes(
        write_head("1.2.840.10008.1.3.10", "1.2.3", ExplicitVRLittleEndian)
    )
    (tmp_path / "cd/readme.txt").write_text("hello")
    ended = failover("import", "cd", "cd/a/0.dcm")
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == "30 kept, 2 left out (no DICOM files)\n"
    assert sorted(archive.kept) == sorted(sent)
    assert archive.requests == [("/dicom-web/studies", "imported")] * 2, (
        "25 in the first request, 5 in the next"
    )


def test_what_the_archive_refuses_is_named(failover: Failover, archive: Archive, tmp_path: Path) -> None:
    for name, content in (("good", b"a"), ("bad", b"refuse"), ("fine", b"b")):
        part10(tmp_path / f"cd/{name}", content)
    ended = failover("import", "cd")
    assert ended.exit_code == 1
    assert ended.stderr == "cd/bad: the archive cannot read it (0xC000)\n"
    assert ended.stdout == "2 kept, 1 not kept\n"
    facts = json.loads(failover("import", "cd", "--json").stdout)
    assert (facts["kept"], facts["kept_before"], facts["failed"], facts["not_dicom"]) == (0, 2, 1, 0)


def test_no_archive_ends_with_3(failover: Failover, tmp_path: Path) -> None:
    (tmp_path / "failover.yaml").write_text("archive: {web: {port: 1}}\n")
    part10(tmp_path / "one", b"")
    ended = failover("import", "one")
    assert ended.exit_code == 3
    assert ended.stderr.startswith("no archive answers at 127.0.0.1:1: Connection refused; 0 of 1")


def test_what_was_refused_before_the_archive_went_away_is_named_all_the_same(
    failover: Failover, archive: Archive, tmp_path: Path
) -> None:
    part10(tmp_path / "cd/00", b"refuse")
    for n in range(1, 30):
        part10(tmp_path / f"cd/{n:02}", b"a")
    archive.dies_after = 26  # the first batch, then file by file
    ended = failover("import", "cd", "--json")
    assert ended.exit_code == 3
    facts = json.loads(ended.stdout)
    assert facts["failures"] == ["cd/00: the archive cannot read it (0xC000)"]
    assert (facts["kept"], facts["not_sent"]) == (24, 5)
    assert "25 of 30 files were sent before" in ended.stderr


def test_what_is_not_there_ends_with_2(failover: Failover, archive: Archive) -> None:
    ended = failover("import", "nowhere", "neither")
    assert ended.exit_code == 2
    assert ended.stderr.splitlines() == [
        "nowhere: there is no such file or folder",
        "neither: there is no such file or folder",
    ]
    assert failover("import").exit_code == 2


def test_batches_are_bounded(tmp_path: Path) -> None:
    files = [FileSource(tmp_path / str(n)) for n in range(60)]
    for file in files:
        file.path.write_bytes(b"x")
    assert [len(batch) for batch in batches(files)] == [25, 25, 10]
    assert list(batches([])) == []


def test_a_dicom_file_is_known_by_its_prefix(tmp_path: Path) -> None:
    part10(tmp_path / "yes", b"")
    (tmp_path / "no").write_bytes(b"xDICM" * 50)
    (tmp_path / "short").write_bytes(b"")
    assert [is_part10(tmp_path / name) for name in ("yes", "no", "short")] == [True, False, False]


def test_an_import_that_was_broken_off_goes_on(failover: Failover, archive: Archive, tmp_path: Path) -> None:
    """Given an archive that dies after the first request, when it is started again, then the rest is sent."""
    for n in range(30):
        part10(tmp_path / f"cd/{n:02}.dcm", bytes([n]) * 3000)
    archive.dies_after = 1
    ended = failover("import", "cd")
    assert ended.exit_code == 3
    assert "25 of 30 files were sent before" in ended.stderr
    assert "the same command goes on where this one ended" in ended.stderr
    archive.dies_after = None
    os.utime(tmp_path / "cd/07.dcm", (1, 1))  # it has changed since: it is sent again
    ended = failover("import", "cd")
    assert (ended.exit_code, ended.stdout) == (0, "6 kept, 24 kept by the import before\n")
    assert len(archive.kept) == 31
    # A third one, of what is all taken, begins anew: the archive may be another by then.
    assert failover("import", "cd").stdout == "30 kept\n"


def test_what_the_archive_holds_no_more_is_sent_again(
    failover: Failover, archive: Archive, tmp_path: Path
) -> None:
    """Given an import that was broken off, when a backup of the index from its middle is put back, what came
    after that backup goes again; and all of it when the index is new."""
    for n in range(60):
        part10(tmp_path / f"cd/{n:02}.dcm", bytes([n]) * 3000)
    archive.dies_after = 2
    assert "50 of 60 files were sent before" in failover("import", "cd").stderr
    del archive.kept[25:]
    archive.dies_after = 3
    assert "25 of 35 files were sent before" in failover("import", "cd").stderr
    archive.dies_after = None
    assert failover("import", "cd", "--json").stdout.startswith('{\n  "kept": 10,\n  "kept_before": 50,')
    assert len(set(archive.kept)) == len(archive.kept) == 60
    archive.dies_after = len(archive.requests) + 2
    assert failover("import", "cd").exit_code == 3
    archive.kept.clear()
    archive.dies_after = None
    assert failover("import", "cd").stdout == "60 kept\n"


def test_zip_archives_are_sent_without_being_unpacked(
    failover: Failover, archive: Archive, tmp_path: Path
) -> None:
    sent = [part10(tmp_path / f"cd/{n}.dcm", bytes([n]) * 3000) for n in range(3)]
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as written:
        for n in range(3):
            written.write(tmp_path / f"cd/{n}.dcm", f"../../IMAGES/{n}")
        written.writestr("README.TXT", "hello")
    before = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    ended = failover("import", "study.zip")
    assert (ended.exit_code, ended.stdout) == (0, "3 kept, 1 left out (no DICOM files)\n")
    assert sorted(archive.kept) == sorted(sent)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == before


def test_a_broken_zip_and_a_broken_member_are_named(
    failover: Failover, archive: Archive, tmp_path: Path
) -> None:
    whole = part10(tmp_path / "one.dcm", b"a" * 5000)
    with zipfile.ZipFile(tmp_path / "cd.zip", "w") as written:
        written.writestr("good", whole)
        written.writestr("bad", whole)
    content = bytearray((tmp_path / "cd.zip").read_bytes())
    content[content.rindex(b"bad" + bytes(128)) + 4000] ^= 1  # its checksum does not fit any more
    (tmp_path / "cd.zip").write_bytes(content)
    (tmp_path / "cut.zip").write_bytes(content[:2000])
    ended = failover("import", "cd.zip", "cut.zip")
    assert ended.exit_code == 1
    assert ended.stderr == "cd.zip:bad: cannot be read\n"
    assert ended.stdout == "1 kept, 1 not kept, 1 left out (no DICOM files)\n"


def test_a_dicomdir_brings_what_it_names_and_nothing_outside(
    failover: Failover, archive: Archive, tmp_path: Path
) -> None:
    wanted = part10(tmp_path / "cd/images/one", b"wanted")
    part10(tmp_path / "cd/images/two", b"not named")
    part10(tmp_path / "secret", b"outside")
    records = []
    for parts in (None, ["IMAGES", "ONE"], ["..", "SECRET"], ["IMAGES", "GONE"]):
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        if parts:
            record.ReferencedFileID = parts
        records.append(record)
    directory = Dataset()
    directory.SOPClassUID, directory.SOPInstanceUID = "1.2.840.10008.1.3.10", "1.2.3"
    directory.DirectoryRecordSequence = records
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "cd/DICOMDIR", directory, enforce_file_format=True)
    ended = failover("import", "cd/DICOMDIR")
    assert ended.exit_code == 1
    assert archive.kept == [wanted]
    assert ended.stderr.splitlines() == [
        "cd/DICOMDIR: names ../SECRET, which is not there",
        "cd/DICOMDIR: names IMAGES/GONE, which is not there",
    ]
