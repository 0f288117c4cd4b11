"""Proven objects are compressed, one by one; what is owed never, and what is owed again comes back first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from failover.archive.compressor import REASONS, Compressor
from failover.archive.damaged import AGAIN_AFTER_S, Damaged
from failover.archive.decoders import Decoders
from failover.archive.janitor import Janitor
from failover.archive.replacing import READERS_S
from failover.archive.retention import Policy
from failover.metrics import ArchiveMetrics
from failover.model import DebtState, Origin
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import part10, uid
from tests.unit.archive.test_compressing import SIGNED, an_image

J70 = "1.2.840.10008.1.2.4.70"
MakeCompressor = Callable[..., Compressor]


@pytest.fixture
async def compressor(room: Room) -> AsyncIterator[MakeCompressor]:
    made: list[Compressor] = []

    def make(default: str = "jpeg-lossless", **by_modality: str) -> Compressor:
        metrics = ArchiveMetrics(CollectorRegistry())
        made.append(
            Compressor(
                room.data_dir,
                room.index,
                room.instances,
                Damaged(room.data_dir, room.index, metrics, room.clock, room.troubles),
                default,
                by_modality,
                metrics,
                room.clock,
            )
        )
        return made[-1]

    yield make
    for one in made:
        await one.close()


def image(study: int, **attributes: object) -> bytes:
    ds = an_image(SIGNED, **attributes)
    ds.StudyInstanceUID, ds.SOPInstanceUID = uid(study), uid(study, 1, 1)
    ds.SeriesInstanceUID = uid(study, 1)
    return part10(ds)


def count(compressor: Compressor, result: str) -> float:
    value = compressor._metrics.registry.get_sample_value(
        "failover_archive_compressed_total", {"result": result}
    )
    assert value is not None
    return value


async def test_what_is_proven_is_compressed_and_what_is_owed_is_not(
    room: Room, compressor: MakeCompressor
) -> None:
    await room.store(image(1), Origin.CALLER)
    await room.store(image(2), Origin.REPLICATED)
    await room.store(image(3), Origin.COPIED)  # nobody has asked the primary for it yet
    before, bytes_before = room.index.row(uid(2, 1, 1)), room.index.numbers()["bytes"]
    assert before is not None
    work = compressor()
    assert await work.turn()
    assert not await work.turn()
    syntaxes = [held.transfer_syntax_uid for n in (1, 2, 3) for held in room.index.instances(study=uid(n))]
    assert syntaxes == ["1.2.840.10008.1.2.1", J70, "1.2.840.10008.1.2.1"]
    [held] = room.index.instances(study=uid(2))
    assert json.loads(held.json)["00083002"]["Value"] == [J70]
    assert held.path.stat().st_size == held.size_bytes < before["bytes"]
    assert room.index.numbers()["bytes"] == bytes_before - before["bytes"] + held.size_bytes
    row = room.index.row(uid(2, 1, 1))
    assert row is not None
    assert row["arrived_digest"] == before["digest"] != row["digest"]
    assert count(work, "done") == 1
    ratio = work._metrics.registry.get_sample_value("failover_archive_compression_ratio", {"modality": "CT"})
    assert ratio == before["bytes"] / held.size_bytes


async def test_what_the_disk_has_damaged_is_not_given_a_digest_that_is_right(
    room: Room, compressor: MakeCompressor
) -> None:
    await room.store(image(1), Origin.REPLICATED)
    [held] = room.index.instances(study=uid(1))
    content = bytearray(held.path.read_bytes())
    content[(held.pixel_offset or 0) + 40] ^= 0x10
    held.path.write_bytes(content)
    before = room.index.row(uid(1, 1, 1))
    work = compressor()
    assert await room.finish(work.turn(), AGAIN_AFTER_S)
    after = room.index.row(uid(1, 1, 1))
    assert before is not None
    assert after is not None
    assert (after["path"], after["digest"]) == (before["path"], before["digest"])
    assert after["hidden"], "nobody reads a wrong image"
    assert [one["reason"] for one in room.index.quarantined()] == ["damaged"]
    assert count(work, "done") == 0


async def test_who_has_begun_to_read_ends_and_then_the_old_file_goes(
    room: Room, compressor: MakeCompressor
) -> None:
    await room.store(image(1), Origin.REPLICATED)
    [held] = room.index.instances(study=uid(1))
    assert await compressor().turn()
    room.janitor.turn()
    room.janitor.compare_folder(held.path.parent.name)
    assert held.path.stat().st_size == held.size_bytes
    await room.clock.advance(READERS_S + 1)
    room.janitor.turn()
    assert not held.path.exists()
    assert [file.relative_to(room.data_dir) for file in room.files()] == [
        now.path.relative_to(room.data_dir) for now in room.index.instances(study=uid(1))
    ]


async def test_what_is_owed_again_is_sent_as_it_came(room: Room, compressor: MakeCompressor) -> None:
    await room.store(image(1), Origin.REPLICATED)
    [held] = room.index.instances(study=uid(1))
    came, digest = held.path.read_bytes(), held.digest
    work = compressor()
    assert await work.turn()
    await room.ledger.mark([uid(1, 1, 1)], DebtState.OWED)
    [entry] = room.ledger.entries([DebtState.OWED])
    assert entry["restoring"], "the replicator waits for it"
    assert await work.turn()
    [entry] = room.ledger.entries([DebtState.OWED])
    assert not entry["restoring"]
    [again] = room.index.instances(study=uid(1))
    assert (again.digest, entry["path"]) == (digest, str(again.path))
    assert again.path.read_bytes()[again.data_set_offset :] == came[held.data_set_offset :]
    assert entry["transfer_syntax_uid"] == "1.2.840.10008.1.2.1"
    assert not await work.turn(), "it stays what it was while it is owed"
    await room.ledger.mark([uid(1, 1, 1)], DebtState.PROVEN)
    await room.clock.advance(3600)
    assert await work.turn()
    assert [h.transfer_syntax_uid for h in room.index.instances(study=uid(1))] == [J70]


async def test_what_cannot_be_brought_back_is_sent_as_it_is(room: Room, compressor: MakeCompressor) -> None:
    await room.store(image(1), Origin.REPLICATED)
    work = compressor()
    assert await work.turn()
    await room.index.write(
        lambda t: t.connection.execute("UPDATE instances SET arrived_digest = ?", (b"of other bytes",))
    )
    await room.ledger.mark([uid(1, 1, 1)], DebtState.OWED)
    assert await work.turn()
    [entry] = room.ledger.entries([DebtState.OWED])
    assert not entry["restoring"]
    assert entry["transfer_syntax_uid"] == J70
    assert count(work, "unrestorable") == 1


@pytest.mark.parametrize("lost", ["a bit", "every frame"])
async def test_a_damaged_one_that_is_owed_again_is_neither_brought_back_nor_sent(
    room: Room, compressor: MakeCompressor, lost: str
) -> None:
    await room.store(image(1), Origin.REPLICATED)
    work = compressor()
    assert await work.turn()
    [held] = room.index.instances(study=uid(1))
    content, start = bytearray(held.path.read_bytes()), held.pixel_offset or 0
    if lost == "a bit":
        content[held.data_set_offset + 20] ^= 1  # it would still be decoded
    else:
        content[start:] = bytes(len(content) - start)
    held.path.write_bytes(content)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.OWED)
    assert await room.finish(work.turn(), AGAIN_AFTER_S)
    row = room.index.row(uid(1, 1, 1))
    assert row is not None
    assert (row["digest"], row["hidden"]) == (held.digest, 1)
    assert not held.path.exists(), "what the primary would have been sent"
    assert [one["reason"] for one in room.index.quarantined()] == ["damaged"]
    assert list(room.troubles.sentences()) == ["objects_damaged"]
    assert count(work, "unrestorable") == 0


async def test_the_original_that_comes_again_is_known_and_so_is_its_other_encoding(
    room: Room, compressor: MakeCompressor
) -> None:
    original = image(1)
    await room.store(original, Origin.REPLICATED)
    assert await compressor().turn()
    assert (await room.store(original)).result == "known"
    ds = an_image(SIGNED)
    ds.StudyInstanceUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = uid(1), uid(1, 1, 1), uid(1, 1)
    assert (await room.store(part10(ds, "1.2.840.10008.1.2"))).result == "known"
    [held] = room.index.instances(study=uid(1))
    assert held.transfer_syntax_uid == J70


async def test_the_original_heals_a_compressed_file_that_is_gone(
    room: Room, compressor: MakeCompressor
) -> None:
    await room.store(image(1), Origin.REPLICATED)
    assert await compressor().turn()
    [held] = room.index.instances(study=uid(1))
    held.path.unlink()
    assert (await room.store(image(1), Origin.REPLICATED)).result == "known"
    [again] = room.index.instances(study=uid(1))
    assert again.path.stat().st_size == again.size_bytes
    assert again.transfer_syntax_uid == "1.2.840.10008.1.2.1"


async def test_a_correction_that_comes_meanwhile_wins(room: Room, compressor: MakeCompressor) -> None:
    """Given an object that is being compressed, when the primary corrects it, then the correction stays."""
    await room.store(image(1), Origin.REPLICATED)
    work = compressor()
    seen = work._next()
    await room.store(image(1, PatientID="RIGHT"), Origin.REPLICATED)
    assert seen is not None
    await work._compress(seen)
    [held] = room.index.instances(study=uid(1))
    assert held.transfer_syntax_uid == "1.2.840.10008.1.2.1"
    assert b"RIGHT" in held.path.read_bytes()
    assert count(work, "done") == 0
    assert not list((room.data_dir / "incoming").iterdir())


async def test_what_waits_is_counted(room: Room, compressor: MakeCompressor) -> None:
    """Given three proven objects, one of a modality that stays as it is, and one owed, then two wait."""
    for study, modality in ((1, "CT"), (2, "CT"), (3, "US")):
        await room.store(image(study, Modality=modality), Origin.REPLICATED)
    await room.store(image(4), Origin.CALLER)

    def waiting(work: Compressor) -> float | None:
        work.count_waiting()
        return work._metrics.registry.get_sample_value("failover_archive_compression_waiting")

    work = compressor(US="none")
    assert waiting(work) == 2
    assert await work.turn()
    assert waiting(work) == 1
    assert waiting(compressor("none")) == 0
    assert waiting(compressor("none", US="htj2k")) == 1


async def test_each_modality_has_its_way(room: Room, compressor: MakeCompressor) -> None:
    for study, modality in enumerate(("CT", "MR", "US"), 1):
        await room.store(image(study, Modality=modality), Origin.REPLICATED)
    work = compressor(MR="htj2k", US="none")
    while await work.turn():
        pass
    found = [held.transfer_syntax_uid for n in (1, 2, 3) for held in room.index.instances(study=uid(n))]
    assert found == [J70, "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.1"]
    await room.store(image(4, Modality="MG"), Origin.REPLICATED)
    assert not await compressor("none").turn()


async def test_what_stays_is_counted_by_reason_and_not_looked_at_again(
    room: Room, compressor: MakeCompressor
) -> None:
    noise = np.random.default_rng(1).integers(0, 65536, (32, 32)).astype("<u2")
    await room.store(image(1, PixelData=noise.tobytes()), Origin.REPLICATED)
    work = compressor()
    assert await work.turn()
    assert not await work.turn()
    await room.clock.advance(3600)
    assert not await work.turn()
    assert count(work, "not_smaller") == 1
    assert not list((room.data_dir / "incoming").iterdir())
    for reason in REASONS:
        count(work, reason)  # each begins at 0


async def test_a_process_that_hangs_is_killed_and_the_original_stays(
    room: Room, compressor: MakeCompressor
) -> None:
    await room.store(image(1), Origin.REPLICATED)
    [before] = room.index.instances(study=uid(1))
    work = compressor()
    work._worker = Decoders(1, timeout_s=0.001, background=True)  # less than it takes to start
    assert await work.turn()
    await work.close()
    assert count(work, "failed") == 1
    assert room.index.instances(study=uid(1)) == [before]
    assert before.path.stat().st_size == before.size_bytes
    assert not list((room.data_dir / "incoming").iterdir())


async def test_what_is_written_down_outlives_a_restart(room: Room, compressor: MakeCompressor) -> None:
    await room.store(image(1), Origin.REPLICATED)
    assert await compressor().turn()
    again = compressor()
    again.count()
    value = again._metrics.registry.get_sample_value
    assert (value("failover_archive_compression_ratio", {"modality": "CT"}) or 0) > 1
    later = Janitor(
        room.data_dir,
        room.index,
        Policy(90, 10**12, 0, True),
        ArchiveMetrics(CollectorRegistry()),
        room.clock,
    )
    later.at_start()  # nobody reads yet: the old file need not wait
    assert len(room.files()) == 1
