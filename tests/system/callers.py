"""Callers of a site as a hospital has them: DCMTK, a DICOMweb client, a browser that never stops asking."""

from __future__ import annotations

import http.client
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pydicom
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from tests.peers.process import environment, find_program
from tests.system.site import Site, request

STUDY_KEYS = ("0020000D", "00100010", "00100020", "00080020", "00080050")


def dcmtk(program: str, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run one of DCMTK's tools."""
    return subprocess.run(
        [str(find_program(program)), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env=environment(),
        check=False,
    )


def studies(site: Site) -> dict[str, dict[str, Any]]:
    """Search all studies through the router; return what a worklist shows, by study instance UID."""
    answer = site.web("GET", "/dicom-web/studies?limit=100", accept="application/dicom+json")
    assert answer.status == 200, (answer.status, answer.body[:500])
    return {
        study["0020000D"]["Value"][0]: {key: study.get(key, {}).get("Value") for key in STUDY_KEYS}
        for study in answer.json()
    }


def retrieve(site: Site, study_instance_uid: str) -> dict[str, Dataset]:
    """Retrieve one study by WADO-RS through the router; the instances by SOP instance UID."""
    client = DICOMwebClient(f"http://127.0.0.1:{site.web_port}/dicom-web")
    return {str(found.SOPInstanceUID): found for found in client.retrieve_study(study_instance_uid)}


def find(site: Site, *keys: str) -> list[Dataset]:
    """C-FIND (study root, study level) through the router with DCMTK's findscu; the matches."""
    with tempfile.TemporaryDirectory() as folder:
        run = dcmtk(
            "findscu", "-S", "-X", "-od", folder, "-aet", "WORKSTATION", "-aec", site.ae_title,
            "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID",
            "-k", "PatientName", "-k", "PatientID",
            *[argument for key in keys for argument in ("-k", key)],
            "127.0.0.1", str(site.dicom_port),
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        found = [pydicom.dcmread(path, force=True) for path in sorted(Path(folder).glob("*.dcm"))]
    for match in found:
        match.decode()
    return found


def get(site: Site, study_instance_uid: str) -> dict[str, Dataset]:
    """C-GET of one study through the router with DCMTK's getscu; the instances by SOP instance UID."""
    with tempfile.TemporaryDirectory() as folder:
        run = dcmtk(
            "getscu", "-S", "-od", folder, "-aet", "WORKSTATION", "-aec", site.ae_title,
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_instance_uid}",
            "127.0.0.1", str(site.dicom_port),
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        found = {}
        for path in Path(folder).iterdir():
            instance = pydicom.dcmread(BytesIO(path.read_bytes()), force=True)
            found[str(instance.SOPInstanceUID)] = instance
        return found


def store(site: Site, file: bytes, *, port: int | None = None, called: str | None = None) -> bool:
    """C-STORE one instance with DCMTK's storescu; return whether it was acknowledged with success."""
    with tempfile.NamedTemporaryFile(suffix=".dcm") as on_disk:
        on_disk.write(file)
        on_disk.flush()
        run = dcmtk(
            "storescu", "-R", "-v", "-aet", "CT1", "-aec", called or site.ae_title,
            "127.0.0.1", str(port or site.dicom_port), on_disk.name,
        )  # fmt: skip
    return run.returncode == 0 and "Received Store Response (Success)" in run.stderr + run.stdout


def pixels(instances: dict[str, Dataset]) -> dict[str, bytes]:
    """Return the decoded pixels of each instance that has some."""
    return {
        uid: instance.pixel_array.tobytes() for uid, instance in instances.items() if "PixelData" in instance
    }


def new_study(file: bytes, number: int) -> tuple[str, bytes]:
    """Return (SOP instance UID, Part 10 file): a new study of a new patient, made of `file`."""
    instance = pydicom.dcmread(BytesIO(file))
    instance.PatientID = f"NEW-{number:04}"
    instance.StudyInstanceUID = f"2.25.7001{number}"
    instance.SeriesInstanceUID = f"2.25.7002{number}"
    instance.SOPInstanceUID = f"2.25.7003{number}"
    instance.AccessionNumber = f"N{number:04}"
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, instance, enforce_file_format=True)
    return str(instance.SOPInstanceUID), buffer.getvalue()


@dataclass
class Asked:
    """One request of a `Browser`: when it began, how long it took, what came."""

    at_s: float
    took_s: float
    status: int | None
    upstream: str | None
    error: str | None = None

    @property
    def good(self) -> bool:
        return self.status == 200


@dataclass
class Browser:
    """Asks the router for the same path without a pause, on new connections, until it is told to end."""

    site: Site
    path: str = "/dicom-web/studies?limit=100"
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._ended.is_set():
            started = time.monotonic()
            try:
                answer = request(
                    self.site.web_port, "GET", self.path, headers={"accept": "application/dicom+json"}
                )
                entry = Asked(started, time.monotonic() - started, answer.status, answer.upstream)
            except (OSError, http.client.HTTPException) as error:
                entry = Asked(started, time.monotonic() - started, None, None, repr(error))
            self.asked.append(entry)
            self._ended.wait(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(60)

    @property
    def failed(self) -> list[Asked]:
        return [entry for entry in self.asked if not entry.good]
