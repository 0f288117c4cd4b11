from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from failover.app import demo
from failover.config.load import load
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


@pytest.mark.parametrize(("started", "on_path", "said"), [
    (".venv/bin/failover", False, ".venv/bin/failover demo stop-primary   "),
    (".venv/bin/failover", True, "failover demo stop-primary   "),
    ("/opt/failover/bin/failover", False, "/opt/failover/bin/failover demo stop-primary   "),
    ("failover/__main__.py", False, f"{Path(sys.executable).name} -m failover demo stop-primary   "),
])  # fmt: skip
def test_what_to_try_can_be_typed_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: str, on_path: bool, said: str
) -> None:
    """`make run` makes an environment that is in nobody's PATH."""
    command = tmp_path / ".venv/bin/failover"
    command.parent.mkdir(parents=True)
    command.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(command.parent) if on_path else "/usr/bin")
    monkeypatch.setattr(sys, "argv", [started, "demo"])
    folder = tmp_path / "demo-data"
    demo.make_anew(folder, 0)
    lines = demo.what_to_try(load(folder / "failover.yaml"), folder)
    assert any(line.startswith(f"  {said}") for line in lines), lines
