from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from failover.app import listeners
from failover.app.supervisor import LONGEST_WAIT_S, Child, Supervisor, restart_wait_s
from failover.clock import SystemClock
from failover.errors import ControlError, PortTaken


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await SystemClock().sleep(0.01)


def test_a_crash_loop_backs_off_to_half_a_minute_and_a_long_life_forgives() -> None:
    wait_s, waits = 0.0, []
    for _ in range(10):
        wait_s = restart_wait_s(0.1, wait_s)
        waits.append(wait_s)
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits[-1] == LONGEST_WAIT_S
    assert restart_wait_s(60.0, wait_s) == 0.2


async def test_a_killed_child_comes_back_and_a_usage_error_does_not() -> None:
    child = Child("archive", python("import time; time.sleep(600)"))
    broken = Child("router", python("raise SystemExit(2)"))
    supervisor = Supervisor([child, broken], SystemClock(), stop_order=("router", "archive"))
    stop = asyncio.Event()
    running = asyncio.ensure_future(supervisor.run(stop))  # noqa: TID251 (the test awaits it)
    await until(lambda: child.running is not None)
    first = supervisor.facts()["archive"]["pid"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.starts == 2 and supervisor.facts()["archive"]["pid"] not in (None, first))
    await until(lambda: not broken.wanted)
    assert broken.starts == 1
    stop.set()
    async with asyncio.timeout(20):
        await running
    assert supervisor.facts()["archive"]["pid"] is None


async def test_a_child_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "program"
    child = Child("archive", [str(program)])
    supervisor = Supervisor([child], SystemClock(), stop_order=("archive",))
    stop = asyncio.Event()
    running = asyncio.ensure_future(supervisor.run(stop))  # noqa: TID251 (the test awaits it)
    program.write_text(f"#!{sys.executable}\nimport time; time.sleep(600)\n")
    program.chmod(0o700)
    await until(lambda: supervisor.facts()["archive"]["pid"] is not None)
    stop.set()
    async with asyncio.timeout(20):
        await running


async def test_a_child_that_is_stopped_by_hand_is_left_alone_until_it_is_wanted() -> None:
    child = Child("primary", python("import time; time.sleep(600)"))
    supervisor = Supervisor([child], SystemClock(), stop_order=("primary",))
    stop = asyncio.Event()
    running = asyncio.ensure_future(supervisor.run(stop))  # noqa: TID251 (the test awaits it)
    await until(lambda: child.running is not None)
    supervisor.signal("primary", signal.SIGKILL, wanted=False)
    await until(lambda: supervisor.facts()["primary"]["pid"] is None)
    assert child.starts == 1
    supervisor.signal("primary", signal.SIGCONT, wanted=True)
    await until(lambda: child.starts == 2 and supervisor.facts()["primary"]["pid"] is not None)
    with pytest.raises(ControlError):
        supervisor.signal("nobody", signal.SIGKILL, wanted=False)
    stop.set()
    async with asyncio.timeout(20):
        await running


async def test_children_see_the_end_of_the_pipe_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = (
        "import os; os.read(int(os.environ['FAILOVER_PARENT_PIPE']), 1);"
        f"open({str(told)!r}, 'w').write('gone')"
    )
    outer = (
        "import asyncio, sys\n"
        "from failover.app.supervisor import Child, Supervisor\n"
        "from failover.clock import SystemClock\n"
        f"child = Child('router', [sys.executable, '-c', {script!r}])\n"
        "async def main():\n"
        "    supervisor = Supervisor([child], SystemClock(), stop_order=('router',))\n"
        "    await supervisor.run(asyncio.Event())\n"
        "asyncio.run(main())\n"
    )
    supervisor = await asyncio.create_subprocess_exec(*python(outer))
    await SystemClock().sleep(0)
    await until(lambda: _has_child(supervisor.pid))
    supervisor.kill()
    await supervisor.wait()
    await until(told.exists)


def _has_child(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_a_taken_port_is_named_by_its_key() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            PortTaken, match=rf"listen\.web: cannot listen on 127\.0\.0\.1:{port}: Address already"
        ):
            listeners.bind("listen.web", "127.0.0.1", port)
    with pytest.raises(PortTaken, match=r"listen\.admin: no-such-host\.invalid is no address"):
        listeners.bind("listen.admin", "no-such-host.invalid", 1)


def test_listeners_are_bequeathed_and_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = {
        "web": listeners.bind("listen.web", "127.0.0.1", _free()),
        "dicom": listeners.bind("d", "::1", _free()),
    }
    for name, value in listeners.bequeath(opened).items():
        monkeypatch.setenv(name, value)
    found = listeners.inherited()
    assert found is not None
    assert {name: sock.getsockname() for name, sock in found.items()} == {
        name: sock.getsockname() for name, sock in opened.items()
    }
    for sock in found.values():
        sock.detach()
    for sock in opened.values():
        sock.close()
    assert listeners.inherited() is None


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
