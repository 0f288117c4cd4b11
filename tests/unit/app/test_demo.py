from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from failover.app import demo
from failover.control import ControlServer, Json, socket_path
from failover.errors import ConfigurationError


async def test_the_folder_of_a_demo_that_runs_is_left_alone(tmp_path: Path) -> None:
    async def children(_: Json) -> Json:
        return {}

    demo.make_anew(tmp_path, 0)
    running = ControlServer(socket_path(tmp_path / "state", "supervisor"), {"children": children})
    await running.start()
    kept = tmp_path / "state" / "route.json"
    kept.parent.mkdir(exist_ok=True)  # the socket of a long path lies elsewhere
    kept.write_text("{}")
    with pytest.raises(ConfigurationError, match="a demo runs there"):
        await asyncio.to_thread(demo.run, tmp_path)
    await running.stop()
    assert kept.exists()
