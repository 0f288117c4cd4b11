"""What is uploaded through OHIF: a small CT image and a PDF of one page, as a study of its own patient."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from failover.clock import SystemClock
from tests.unit.archive.objects import data_set, part10

_SIDE: Final = 128
_TODAY: Final = SystemClock().wall().astimezone().strftime("%Y%m%d")  # older days are compared once an hour
_PAGE: Final = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R/Resources<</Font<</F<</Type/Font
/Subtype/Type1/BaseFont/Helvetica>>>>>>>>endobj
4 0 obj<</Length 44>>stream
BT /F 24 Tf 40 100 Td (A report as PDF) Tj ET
endstream endobj
trailer<</Root 1 0 R>>
%%EOF
"""


_STUDIES: Final = {"BEFORE": 700, "AFTER": 701}


def write_uploads(folder: Path, patient: str) -> list[Path]:
    """Write both files, of the patient BEFORE or AFTER; return their paths."""
    of_patient = {
        "PatientID": patient,
        "PatientName": f"Upload^{patient.title()}",
        "StudyDescription": "Uploaded",
    }
    study = _STUDIES[patient]
    return [
        _written(folder / f"{patient}-image.dcm", _image(study, of_patient)),
        _written(folder / f"{patient}-report.dcm", _report(study, of_patient)),
    ]


def _written(path: Path, content: Dataset) -> Path:
    path.write_bytes(part10(content))
    return path


def _image(study: int, of_patient: dict[str, str]) -> Dataset:
    ramp = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)).astype("<u2") * 16
    return data_set(
        study, 1, 1, Rows=_SIDE, Columns=_SIDE, **of_patient,
        PixelData=ramp.tobytes(), WindowCenter=2000, WindowWidth=4000, PixelSpacing=[1, 1],
        ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0], BitsStored=12, HighBit=11,
        StudyDate=_TODAY,
    )  # fmt: skip


def _report(study: int, of_patient: dict[str, str]) -> Dataset:
    found = data_set(
        study, 2, 1, Modality="DOC", SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", StudyDate=_TODAY,
        SeriesDescription="Report", **of_patient,
    )  # fmt: skip
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(found, keyword)
    found.MIMETypeOfEncapsulatedDocument = "application/pdf"
    found.EncapsulatedDocument = _PAGE + b"\0" * (len(_PAGE) % 2)
    found.DocumentTitle = "Report"
    return found
