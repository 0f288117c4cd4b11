"""The copy on the way: what the primary acknowledged reaches the backup, and holds up no caller for long."""

from __future__ import annotations

import asyncio
from pathlib import Path

from failover.aio import spawn
from failover.dicom.dimse import Tag
from failover.errors import ControlUnreachable
from failover.model import Phase, Verdict
from tests.unit.relay.scene import PRIMARY, scene
from tests.unit.relay.test_relay_operations import store

RAW = bytes(range(256)) * 2000


class Told:
    """What the archive would hear over the control channel."""

    def __init__(self) -> None:
        self.originators: list[tuple[str, int]] = []
        self.reachable = True

    async def expect(self, originator_ae: str, message_id: int, for_s: float) -> None:
        if not self.reachable:
            raise ControlUnreachable("archive does not answer")
        self.originators.append((originator_ae, message_id))


async def test_a_copy_of_each_store_goes_to_the_backup_under_the_originator_it_was_told(
    tmp_path: Path,
) -> None:
    told = Told()
    async with scene(tmp_path, tee=True, expect=told.expect) as stage:
        caller = await stage.open()
        assert await store(caller, "1.2.3", RAW, 1) == 0
        assert await store(caller, "1.2.4", b"", 2) == 0
        await stage.counts("failover_dicom_copies_total", 2, result="copied")
        assert stage.backup.stored == stage.primary.stored == {"1.2.3": RAW, "1.2.4": b""}
        named = {
            (c.text(Tag.MOVE_ORIGINATOR_AE), c.number(Tag.MOVE_ORIGINATOR_MESSAGE_ID))
            for c in stage.backup.commands
        }
        assert named == set(told.originators)
        assert all(Tag.MOVE_ORIGINATOR_AE not in c.elements for c in stage.primary.commands)
        assert stage.spool.memory_used_bytes == 0
        await caller.release()


async def test_without_the_archives_word_nothing_is_copied(tmp_path: Path) -> None:
    told = Told()
    told.reachable = False
    async with scene(tmp_path, tee=True, expect=told.expect) as stage:
        caller = await stage.open()
        assert await store(caller, "1.2.3", RAW) == 0
        await stage.counts("failover_dicom_copies_total", 1, result="failed")
        assert stage.backup.requests == []
        assert stage.spool.memory_used_bytes == 0
        await caller.release()


async def test_what_the_backup_got_itself_or_the_primary_changed_is_not_copied(tmp_path: Path) -> None:
    async with scene(tmp_path, tee=True, expect=Told().expect) as stage:
        caller = await stage.open()
        stage.primary.faults["C-STORE"].append(0xB000)
        assert await store(caller, "1.2.3", RAW, 1) == 0xB000
        stage.publish(phase=Phase.ON_BACKUP)
        assert await store(caller, "1.2.4", RAW, 2) == 0
        assert stage.backup.asked == ["C-STORE"]
        assert Tag.MOVE_ORIGINATOR_AE not in stage.backup.commands[0].elements
        await caller.release()


async def test_in_failing_back_the_acknowledgement_follows_the_copy_also_to_a_foreign_backup(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, tee=False) as stage:
        caller = await stage.open()
        assert await store(caller, "1.2.3", RAW, 1) == 0
        assert stage.backup.stored == {}
        stage.publish(phase=Phase.FAILING_BACK, stores=PRIMARY)
        assert await store(caller, "1.2.4", RAW, 2) == 0
        assert stage.primary.stored.keys() == {"1.2.3", "1.2.4"}
        assert stage.backup.stored == {"1.2.4": RAW}  # at once: the acknowledgement waited
        await caller.release()


async def test_in_failing_back_what_the_backup_took_itself_is_not_sent_to_it_once_more(
    tmp_path: Path,
) -> None:
    """The acknowledgement waits for a copy, so that one would have come before it."""
    async with scene(tmp_path, tee=True, expect=Told().expect) as stage:
        stage.publish(phase=Phase.FAILING_BACK, stores=PRIMARY)
        caller = await stage.open()
        stage.primary.faults["C-STORE"].append(0xA700)
        assert await store(caller, "1.2.3", RAW, 1) == 0
        assert (stage.primary.asked, stage.backup.asked) == (["C-STORE"], ["C-STORE"])
        assert stage.backup.stored == {"1.2.3": RAW}
        await caller.release()


async def test_in_failing_back_a_backup_that_hangs_holds_the_acknowledgement_for_a_second(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, tee=False) as stage:
        stage.publish(phase=Phase.FAILING_BACK, stores=PRIMARY)
        stage.backup.faults["C-STORE"].append("hang")
        caller = await stage.open()
        async with asyncio.timeout(20):  # a copy is given up after 30 s
            assert await store(caller, "1.2.3", RAW) == 0
        assert stage.backup.asked == ["C-STORE"]
        await caller.release()


async def test_copies_that_a_slow_backup_does_not_take_are_dropped_and_counted(tmp_path: Path) -> None:
    async with scene(tmp_path, tee=True, expect=Told().expect) as stage:
        stage.backup.faults["C-STORE"].extend(["hang"] * 100)
        callers = [await stage.open() for _ in range(4)]

        async def send(place: int) -> list[int]:
            uids = (f"1.2.{place}.{number}" for number in range(30))
            return [await store(callers[place], uid, b"x" * 100) for uid in uids]

        sending = [spawn(send(place), name="modality") for place in range(4)]
        assert [await each for each in sending] == [[0] * 30] * 4
        assert len(stage.primary.stored) == 120
        # 8 lanes hang and 64 wait: of 120 the rest has gone
        assert stage.counted("failover_dicom_copies_total", result="dropped") == 120 - 64 - 8
        for caller in callers:
            await caller.release()


async def test_a_backup_that_is_down_gets_no_copies(tmp_path: Path) -> None:
    async with scene(tmp_path, tee=True, expect=Told().expect) as stage:
        stage.publish(backup=Verdict.DOWN)
        caller = await stage.open()
        assert await store(caller, "1.2.3", RAW) == 0
        assert stage.backup.requests == []
        assert stage.counted("failover_dicom_copies_total", result="dropped") == 1
        await caller.release()
