"""Who is turned away for want of room is counted: a full relay is seen before its victims call."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from failover.config.schema import ListenDicom
from failover.errors import AssociationEnded
from tests.unit.relay.scene import scene
from tests.unit.relay.test_relay_opening import rejected

ASSOCIATIONS = "failover_dicom_associations_total"


async def test_associations_over_a_limit_are_counted_from_zero(tmp_path: Path) -> None:
    async with scene(tmp_path, listen=ListenDicom(max_per_ae_title=1)) as stage:
        labels = {"upstream": "none", "result": "over_limit"}
        assert stage.metrics.registry.get_sample_value(ASSOCIATIONS, labels) == 0
        caller = await stage.open()
        for _ in range(3):
            assert await rejected(stage) == (2, 3, 2)
        assert stage.counted(ASSOCIATIONS, **labels) == 3
        assert stage.counted(ASSOCIATIONS, upstream="none", result="rejected") == 0
        await caller.release()


async def test_a_caller_that_says_nothing_more_gives_its_place_back(tmp_path: Path) -> None:
    async with scene(tmp_path, listen=ListenDicom(idle_timeout=0.5)) as stage:
        caller = await stage.open()
        async with asyncio.timeout(20):
            with pytest.raises(AssociationEnded):
                await caller.receive()
        again = await stage.open()
        await again.release()
