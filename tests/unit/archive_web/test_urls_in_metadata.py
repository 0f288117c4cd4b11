"""The object's URL is put into finished metadata; nothing that a sender wrote can take its place."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file

from failover.archive import metadata
from failover.archive.dicomweb.retrieve import _with_url


def test_a_text_that_looks_like_a_mark_stays_text(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageComments = "\\u0000url and \uffff"
    path = tmp_path / "object.dcm"
    dataset.save_as(path)
    found = json.loads(_with_url(metadata.read(path), "http://pacs/x"))
    assert found["00204000"]["Value"] == ["\\u0000url and "]
    assert found["00081190"]["Value"] == ["http://pacs/x"]
    assert found["7FE00010"]["BulkDataURI"] == "http://pacs/x/frames"
