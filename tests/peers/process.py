"""A real server as a child of the test: started, killed, stopped, continued, restarted on the same ports.

Every wait is for a condition, with a generous limit: the machine may be busy. All calls block; from an async
test use `await asyncio.to_thread(peer.restart)`. Not pure.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest

READY_WITHIN_S = 60.0
MOST_SLOWNESS = 4.0
_LOOPBACK = "127.0.0.1"
# Below the ephemeral range: no outgoing connection can take the port between a kill and a restart.
_PORTS = range(20000, 32000)
_BLOCK = 50
_blocks: list[socket.socket] = []
_unused: list[int] = []
_ROOT = Path(__file__).resolve().parents[2]
_TOOLS = _ROOT / ".tools"


def free_port() -> int:
    """Return a loopback port that nobody listens on and that no process of any test run gives out again."""
    while True:
        if not _unused:
            _unused.extend(_claim())
        port = _unused.pop()
        with socket.socket() as probe:
            try:
                probe.bind((_LOOPBACK, port))
            except OSError:
                continue
        return port


def _claim() -> range:
    """Take a block of ports for this process, until it ends: others cannot have its name."""
    starts = list(range(_PORTS.start, _PORTS.stop, _BLOCK))
    random.Random(os.urandom(8)).shuffle(starts)
    for start in starts:
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0failover-tests-port-{start}")
        except OSError:
            name.close()
            continue
        _blocks.append(name)
        return range(start, start + _BLOCK)
    raise AssertionError("every port of the tests is taken: do other runs never end?")


def find_file(*names: str) -> Path | None:
    """Return the first of `names` (absolute paths) that is installed, or unpacked below .tools/."""
    for name in names:
        for candidate in (Path(name), _TOOLS / name.lstrip("/")):
            if candidate.is_file():
                return candidate
    return None


def find_program(name: str) -> Path:
    """Return the program called `name`; skip the test where it is missing, fail it under CI."""
    found = find_file(f"/usr/bin/{name}", f"/usr/sbin/{name}")
    on_path = shutil.which(name)
    if found is None and on_path is not None:
        found = Path(on_path)
    if found is None:
        missing(name)
    return found


def missing(what: str, how: str = "tests/get_tools.sh gets it from Debian") -> NoReturn:
    """Skip: `what` is not installed. With CI=true nothing may be skipped, so fail."""
    sentence = f"{what} is not installed: {how}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(sentence)
    pytest.skip(sentence)


def environment() -> dict[str, str]:
    """Return the environment for programs, which may have been unpacked below .tools/.

    What is ours comes from the tree of these tests, also where another one is installed.
    """
    found = dict(os.environ)
    found["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [found.get("PYTHONPATH")])])
    libraries = [str(folder) for folder in (_TOOLS / "usr/lib").glob("*-linux-gnu") if folder.is_dir()]
    if libraries:
        found["LD_LIBRARY_PATH"] = ":".join([*libraries, found.get("LD_LIBRARY_PATH", "")])
    dictionary = _TOOLS / "usr/share/libdcmtk17/dicom.dic"
    if dictionary.is_file():
        found["DCMDICTPATH"] = str(dictionary)
    return found


def wait_for(holds: Callable[[], bool], what: str, *, timeout_s: float = READY_WITHIN_S) -> None:
    """Return once `holds()`; AssertionError naming `what` after `timeout_s` seconds."""
    pause = threading.Event()
    until_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > until_s:
            break
        pause.wait(0.05)
    else:
        return
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


def slowness() -> float:
    """How many times as long as on an idle machine a process takes now: from 1.0 to `MOST_SLOWNESS`.

    For promises that are given in seconds, and so for a machine that has time. However busy it is, a limit
    that is multiplied by this stays one.
    """
    began_s = time.monotonic()
    child = subprocess.Popen([sys.executable, "-c", "import asyncio, http.client, sqlite3, unittest.case"])
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    took = (time.monotonic() - began_s) / (used.ru_utime + used.ru_stime)
    return min(max(1.0, took), MOST_SLOWNESS)


def listens(port: int) -> bool:
    """Return whether a connection to `port` on loopback is accepted."""
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=2):
            return True
    except OSError:
        return False


class Peer:
    """One server process with a temporary folder of its own. Use it as a context manager."""

    host = _LOOPBACK

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.name = name
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    # -- what each kind of server furnishes

    def command(self) -> Sequence[str]:
        """The command line; configuration files are written here."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it answers on every port."""
        raise NotImplementedError

    # -- life

    def start(self) -> Self:
        """Start it and return when it is ready."""
        assert self._process is None, f"{self.name} runs already"
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                list(self.command()),
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(self._ready_or_dead, f"{self.name} is ready:\n{self.log()[-3000:]}")
        return self

    def _ready_or_dead(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self.name} ended at its start:\n{self.log()[-3000:]}")
        return self.ready()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and return when it is gone. Its folder and ports stay for `restart`."""
        if self._process is not None:
            self._signal(signal.SIGKILL)  # ends a stopped process too
            self._process.wait(READY_WITHIN_S)
            self._process = None

    def terminate(self) -> None:
        """SIGTERM, and return when it has ended."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(READY_WITHIN_S)
            self._process = None

    def stop(self) -> None:
        """SIGSTOP: it hangs. The kernel still accepts connections for it."""
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT: it goes on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # The whole group, which is its own session: dcmqrscp forks a child for each association.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def restart(self) -> Self:
        """Start it again on the same ports and folder, killing it first if it runs."""
        self.kill()
        return self.start()

    def log(self) -> str:
        path = self.folder / "log.txt"
        return path.read_text(errors="replace") if path.is_file() else ""

    def close(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
