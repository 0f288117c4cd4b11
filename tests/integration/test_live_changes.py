"""Proxy, relay and checker take other limits and callers while they serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from failover.config.schema import ListenDicom
from failover.errors import AssociationRejected
from failover.model import AeTitle, Phase, Verdict
from tests.fakes.web_stage import web_stage
from tests.unit.relay.scene import scene

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


async def test_a_caller_who_is_no_longer_admitted_is_told_at_its_next_request(tmp_path: Path) -> None:
    async with web_stage(tmp_path) as on:
        on.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
        caller = await on.caller()
        assert (await caller.ask("/dicom-web/studies")).upstream == "backup"
        on.proxy.change(on.proxy.listen, lambda _: False)
        assert (await caller.ask("/dicom-web/studies")).upstream == "none", "the same connection"
        on.proxy.change(on.proxy.listen, lambda _: True)
        again = await on.caller()
        assert (await again.ask("/dicom-web/studies")).upstream == "backup"
        for each in (caller, again):
            each.writer.close()


async def test_the_next_association_meets_the_new_callers_and_limits(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        first = await on.open(calling="CT1")
        on.relay.change(ListenDicom(), {AeTitle("CT9"): []})
        with pytest.raises(AssociationRejected):
            await on.open(calling="CT1")
        on.relay.change(ListenDicom(max_per_ae_title=1), "any")
        with pytest.raises(AssociationRejected) as full:
            await on.open(calling="CT1")
        assert full.value.transient
        second = await on.open(calling="CT2")
        for each in (first, second):
            await each.release(timeout_s=5)
