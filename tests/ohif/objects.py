"""What is uploaded through OHIF: a small CT image and a PDF of one page, as one study of a new patient."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from tests.unit.archive.objects import data_set, part10

UPLOADED_PATIENT: Final = "OHIF-UPLOAD"
_SIDE: Final = 128
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


def write_uploads(folder: Path) -> list[Path]:
    """Write both files; return their paths."""
    return [_written(folder / "image.dcm", _image()), _written(folder / "report.dcm", _report())]


def _written(path: Path, content: Dataset) -> Path:
    path.write_bytes(part10(content))
    return path


def _image() -> Dataset:
    ramp = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)).astype("<u2") * 16
    return data_set(
        700, 1, 1, PatientID=UPLOADED_PATIENT, PatientName="Upload^Test", Rows=_SIDE, Columns=_SIDE,
        PixelData=ramp.tobytes(), WindowCenter=2000, WindowWidth=4000, PixelSpacing=[1, 1],
        ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0], BitsStored=12, HighBit=11,
        StudyDate="20261120", StudyDescription="Uploaded",
    )  # fmt: skip


def _report() -> Dataset:
    found = data_set(
        700, 2, 1, PatientID=UPLOADED_PATIENT, PatientName="Upload^Test", Modality="DOC",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", StudyDescription="Uploaded", StudyDate="20261120",
        SeriesDescription="Report",
    )  # fmt: skip
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(found, keyword)
    found.MIMETypeOfEncapsulatedDocument = "application/pdf"
    found.EncapsulatedDocument = _PAGE + b"\0" * (len(_PAGE) % 2)
    found.DocumentTitle = "Report"
    return found
