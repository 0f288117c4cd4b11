"""Where frames lie in a file, told without a decoder."""

from __future__ import annotations

from io import BytesIO

import pydicom
from pydicom.encaps import encapsulate

from failover.archive.extents import FrameTables
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import data_set, part10, uid

JPEG = "1.2.840.10008.1.2.4.50"


async def test_frames_of_an_object_that_came_again_behind_another_head_are_found(room: Room) -> None:
    ds = data_set(PixelData=encapsulate([b"a frame."]))
    ds["PixelData"].is_undefined_length = True
    tables, found = FrameTables(), []
    for source in ("CT1", "A_MUCH_LONGER_AE"):
        again = pydicom.dcmread(BytesIO(part10(ds, JPEG)))
        again.file_meta.SourceApplicationEntityTitle = source
        content = BytesIO()
        again.save_as(content, enforce_file_format=True)
        await room.store(content.getvalue())
        held = room.index.instance(uid(1, 1, 1))
        assert held is not None
        extents = tables.of(held, [1])
        assert extents is not None
        ((at, length),) = extents
        found.append(held.path.read_bytes()[at : at + length])
        held.path.unlink()
    assert found == [b"a frame."] * 2
