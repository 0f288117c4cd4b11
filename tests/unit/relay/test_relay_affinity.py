"""Where the rest of a study goes when its upstream fails in the middle of it: one association, one study."""

from __future__ import annotations

from pathlib import Path

from failover.model import Phase, UpstreamName, Verdict
from tests.fakes.upstream import FakeUpstream
from tests.unit.relay.scene import BACKUP, PRIMARY, Scene, scene
from tests.unit.relay.test_relay_operations import store


def where(stage: Scene) -> dict[str, list[UpstreamName]]:
    """Return for each instance who acknowledged it."""
    sides: dict[UpstreamName, FakeUpstream] = {PRIMARY: stage.primary, BACKUP: stage.backup}
    uids = sorted({uid for side in sides.values() for uid in side.stored})
    return {uid: [name for name, side in sides.items() if uid in side.stored] for uid in uids}


async def test_a_study_split_by_a_suspicion_goes_on_at_the_primary_as_soon_as_that_answers(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as stage:
        modality = await stage.open()
        assert await store(modality, "1.1", b"one", 1) == 0
        stage.publish(primary=Verdict.SUSPECT)
        assert await store(modality, "1.2", b"two", 2) == 0
        stage.publish(primary=Verdict.UP)
        assert await store(modality, "1.3", b"three", 3) == 0
        assert where(stage) == {"1.1": [PRIMARY], "1.2": [BACKUP], "1.3": [PRIMARY]}
        await modality.release()


async def test_a_study_that_lost_its_primary_for_one_instance_goes_on_there(tmp_path: Path) -> None:
    """It died under one instance and is back before anybody suspects it."""
    async with scene(tmp_path) as stage:
        modality = await stage.open()
        stage.primary.faults["C-STORE"].append("die_in_data")
        assert await store(modality, "1.1", b"x" * 5000, 1) == 0
        assert await store(modality, "1.2", b"y" * 5000, 2) == 0
        assert where(stage) == {"1.1": [BACKUP], "1.2": [PRIMARY]}
        await modality.release()


async def test_in_backup_mode_a_study_stays_at_the_backup_until_failing_back_begins(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        modality = await stage.open()
        assert await store(modality, "1.1", b"one", 1) == 0
        stage.publish(phase=Phase.ON_BACKUP, primary=Verdict.DOWN)
        assert await store(modality, "1.2", b"two", 2) == 0
        stage.publish(phase=Phase.ON_BACKUP, primary=Verdict.UP)  # the hold-down runs
        assert await store(modality, "1.3", b"three", 3) == 0
        stage.publish(phase=Phase.FAILING_BACK, stores=PRIMARY)
        assert await store(modality, "1.4", b"four", 4) == 0
        assert where(stage) == {"1.1": [PRIMARY], "1.2": [BACKUP], "1.3": [BACKUP], "1.4": [PRIMARY]}
        await modality.release()
