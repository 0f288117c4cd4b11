"""A disk that hangs: a failover waits 200 ms for it, then acts, says so, and the state is written later."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from failover.model import Phase, UpstreamName, Verdict
from failover.routing.controller import STATE_FILE

from .test_controller import running


async def test_a_failover_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    # Opening a pipe that nobody reads blocks, as a disk does that hangs.
    disk = tmp_path / f".{STATE_FILE}.{os.getpid()}.tmp"
    os.mkfifo(disk)
    async with running(tmp_path) as router:
        began_s = router.clock.monotonic()
        try:
            router.hear(UpstreamName.PRIMARY, Verdict.DOWN)
            await router.published(Phase.ON_BACKUP)
            took_s = router.clock.monotonic() - began_s
            assert not (tmp_path / STATE_FILE).exists()
            assert disk.exists()
        finally:
            # It works again: whoever writes goes on, fails on what is no file, and tries again.
            await asyncio.to_thread(disk.read_bytes)
        # 200 ms; everything but a move away from a dead primary would have given it 5 s.
        assert 0.2 <= took_s < 4.0
        said = [e for e in router.trail.events(0) if e.code == "state_not_persisted"]
        assert said
        assert said[0].reason.startswith("state not persisted within 200 ms")
        assert await router.trail.appended.wait_until(
            lambda: "state_persisted" in router.codes(), timeout_s=20
        )
        assert (tmp_path / STATE_FILE).is_file()
