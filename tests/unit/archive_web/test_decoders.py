"""Decoding in processes of their own: what comes back, what a hostile object does, and to whom."""

from __future__ import annotations

import contextlib
import os
import signal
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import imagecodecs
import numpy as np
import psutil
import pydicom
import pytest

from failover.archive.codecs import Undecodable
from failover.archive.decoder import DECODER_BYTES
from failover.archive.decoders import Decoders
from failover.archive.pixels import NoPixels, NoSuchFrame, open_image
from failover.archive.rendering import View, decoded_frame
from failover.dicom.part10 import write_head
from failover.dicom.syntaxes import DEFLATED, EXPLICIT_LITTLE
from failover.errors import UnreadableDataSet
from tests.unit.archive_web.samples import FILES, image


@contextlib.asynccontextmanager
async def decoders(**settings: float) -> AsyncIterator[Decoders]:
    made = Decoders(1, **settings)
    try:
        yield made
    finally:
        await made.close()


async def frame(made: Decoders, path: Path, number: int, *, decoded: bool) -> bytes:
    async with made.frame(path, number, decoded=decoded) as pieces:
        return b"".join([piece async for piece in pieces])


async def count(made: Decoders, path: Path) -> int:
    async with made.data_set(path, EXPLICIT_LITTLE) as pieces:
        return sum([len(piece) async for piece in pieces])


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if "decoder" in " ".join(child.cmdline())}


async def test_one_that_was_started_ahead_is_the_one_that_answers() -> None:
    async with decoders() as made:
        await made.start_one()
        (ahead,) = children()
        assert await made.number_of_frames(FILES / "examples_ybr_color.dcm") > 0
        assert children() == {ahead}
    assert children() == set()


async def test_pictures_frames_and_metadata_come_back() -> None:
    path = FILES / "examples_ybr_color.dcm"
    async with decoders() as made:
        assert (await made.picture(path, 2, View()))[:2] == b"\xff\xd8"
        assert await frame(made, path, 1, decoded=True) == decoded_frame(open_image(path), 1)
        assert await frame(made, path, 1, decoded=False) == open_image(path).read_frame(1)
        assert await made.number_of_frames(path) == open_image(path).frames
        assert (await made.metadata(path))[:1] == b"{"
    assert children() == set()


async def test_what_cannot_be_given_is_told_and_the_process_goes_on(tmp_path: Path) -> None:
    async with decoders() as made:
        await made.metadata(FILES / "CT_small.dcm")
        first = children()
        with pytest.raises(NoPixels):
            await made.picture(FILES / "rtplan.dcm", 1, View())
        with pytest.raises(NoSuchFrame):
            await frame(made, FILES / "CT_small.dcm", 2, decoded=False)
        with pytest.raises(FileNotFoundError):
            await made.metadata(tmp_path / "nothing.dcm")
        assert children() == first


async def test_a_decoder_that_is_killed_is_replaced() -> None:
    path = FILES / "CT_small.dcm"
    async with decoders() as made:
        await made.metadata(path)
        (pid,) = children()
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(Undecodable):  # either the death is seen, or a new process answers
            await made.metadata(path)
        assert (await made.metadata(path))[:1] == b"{"
        assert children() != {pid}


async def test_one_that_takes_too_long_is_killed() -> None:
    path = FILES / "CT_small.dcm"
    async with decoders(timeout_s=5.0) as made:
        await made.metadata(path)
        (pid,) = children()
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(Undecodable, match="too long"):
            await made.metadata(path)
        assert (await made.metadata(path))[:1] == b"{"


async def test_an_answer_left_in_the_middle_costs_a_process_and_nothing_more(tmp_path: Path) -> None:
    path = image(tmp_path / "large.dcm", np.zeros((4096, 4096), np.uint16))
    async with decoders() as made:
        async with made.frame(path, 1, decoded=True) as pieces:
            assert len(await anext(pieces)) > 0
        assert len(await frame(made, path, 1, decoded=True)) == 4096 * 4096 * 2


@pytest.mark.parametrize("what", ["65535 x 65535", "2^31 frames", "deflate bomb", "bomb of items", "huge"])
async def test_hostile_claims_are_refused_and_leave_no_memory_behind(tmp_path: Path, what: str) -> None:
    path = hostile(tmp_path, what)
    async with decoders() as made:
        await made.metadata(FILES / "CT_small.dcm")
        before = psutil.Process().memory_info().rss
        for _ in range(2):
            # "2^31 frames" holds one real frame; of the items there is metadata and no picture.
            with contextlib.suppress(*REFUSALS):
                await made.picture(path, 1, View())
            with contextlib.suppress(*REFUSALS):
                await made.metadata(path)
            with pytest.raises(REFUSALS):
                await frame(made, path, 2**31 - 1, decoded=True)
            with contextlib.suppress(*REFUSALS):
                await count(made, path)
        for pid in children():
            assert psutil.Process(pid).memory_info().vms <= DECODER_BYTES
        assert psutil.Process().memory_info().rss - before < 64 * 2**20


REFUSALS = (NoPixels, NoSuchFrame, Undecodable, UnreadableDataSet)


def hostile(folder: Path, what: str) -> Path:
    path = image(folder / "hostile.dcm", np.zeros((8, 8), np.uint16))
    if what == "deflate bomb":
        machine = zlib.compressobj(9, zlib.DEFLATED, -15)
        content = b"".join(machine.compress(bytes(2**20)) for _ in range(1024)) + machine.flush()
        path.write_bytes(write_head("1.2.840.10008.5.1.4.1.1.7", "1.2.3.4", DEFLATED) + content)
        return path
    if what == "bomb of items":
        head = write_head("1.2.840.10008.5.1.4.1.1.7", "1.2.3.4", EXPLICIT_LITTLE)
        items = b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000
        sequence = b"\x08\0\x40\x11SQ\0\0" + len(items).to_bytes(4, "little") + items
        path.write_bytes(head + sequence)
        return path
    header = pydicom.dcmread(path)
    if what == "2^31 frames":
        header.NumberOfFrames = 2**31 - 1
    else:
        header.Rows = header.Columns = 65535 if what.startswith("6") else 16000
    if what == "huge":  # within the limit of a frame, beyond that of a decoder
        header.BitsAllocated = header.BitsStored = 8
        header.HighBit = 7
        small = imagecodecs.jpeg2k_encode(np.zeros((16000, 16000), np.uint8), level=100)
        header.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        header.PixelData = pydicom.encaps.encapsulate([bytes(small)])
        header["PixelData"].VR = "OB"
    header.save_as(path)
    return path
