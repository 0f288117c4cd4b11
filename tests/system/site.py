"""A whole site on loopback: `failover run` before a real primary, watched and broken from outside.

Everything is as an operator has it: the configuration file, the command line, the admin API, the process
table. All calls block; every wait is for a condition.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from failover.control import ask, socket_path
from tests.peers.process import free_port, wait_for

_HOST = "127.0.0.1"


class Answer:
    """One HTTP answer: status, headers in lower case, body."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def upstream(self) -> str | None:
        return self.headers.get("x-failover-upstream")


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    host: str = _HOST,
    timeout_s: float = 30,
) -> Answer:
    """Ask a server. Raises OSError or HTTPException where a caller would see a fault."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        content = answer.read()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, content)
    finally:
        connection.close()


class Site:
    """Router, archive and replicator in front of `primary` (a block of the configuration)."""

    def __init__(self, primary: Mapping[str, Any], **blocks: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="site-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.web_port, self.dicom_port, self.admin_port = free_port(), free_port(), free_port()
        self.archive_web_port, self.archive_dicom_port = free_port(), free_port()
        self.ae_title, self.archive_ae_title = "PACS", "MINIPACS"
        self.configuration: dict[str, Any] = {
            "site": "test",
            "state_dir": "./state",
            "listen": {
                "web": {"port": self.web_port},
                "dicom": {"port": self.dicom_port, "ae_title": self.ae_title},
                "admin": {"port": self.admin_port},
            },
            "primary": dict(primary),
            "archive": {
                "data_dir": "./archive",
                "web": {"port": self.archive_web_port},
                "dicom": {"port": self.archive_dicom_port, "ae_title": self.archive_ae_title},
                "retention": {"min_free_bytes": "1MB"},
            },
            "policy": {"hold_down": "2s"},
            "replication": {"poll_every": "1s"},
        }
        for key, value in blocks.items():
            self.configuration[key] = {**self.configuration.get(key, {}), **value}
        self.file = self.folder / "failover.yaml"
        self._process: subprocess.Popen[bytes] | None = None

    # -- life

    def start(self) -> Self:
        # JSON is YAML.
        self.file.write_text(json.dumps(self.configuration, indent=1))
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "failover", "run", "-c", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(self._ready_or_dead, "the site is ready", timeout_s=60)
        return self

    def _ready_or_dead(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended at its start:\n{self.log()[-4000:]}"
        return self.ready()

    def ready(self) -> bool:
        try:
            return request(self.admin_port, "GET", "/-/ready", timeout_s=5).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(60)
        finally:
            self._process = None

    @property
    def supervisor_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill_supervisor(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    @property
    def log_file(self) -> Path:
        return self.folder / "log.txt"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.is_file() else ""

    def children(self) -> dict[str, Any]:
        """What the supervisor says of its children: process id and number of starts."""
        return asyncio.run(ask(socket_path(self.folder / "state", "supervisor"), "children"))

    def kill(self, component: str) -> int:
        """SIGKILL to one of the three; return the process id that it had."""
        pid = int(self.children()[component]["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    @contextmanager
    def alone(self, component: str, among: Iterable[str]) -> Iterator[None]:
        """Of the processes that answer callers `component` alone does, while the others stand still."""
        children = self.children()
        stopped = [int(children[other]["pid"]) for other in among if other != component]
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            for pid in stopped:
                wait_for(partial(_stands_still, pid), "it stands still")
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            sys.stderr.write(self.log()[-20000:])
        if self._process is not None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill_supervisor()

    # -- asking

    def web(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Ask as a browser or viewer does: through the router. `accept="…"` sets a header."""
        return request(
            self.web_port, method, path, body, {k.replace("_", "-"): v for k, v in headers.items()}
        )

    def admin(self, method: str, path: str, content: Any = None) -> Answer:
        body = None if content is None else json.dumps(content).encode()
        return request(self.admin_port, method, path, body, {"content-type": "application/json"})

    def status(self) -> dict[str, Any]:
        answer = self.admin("GET", "/api/status")
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.admin("GET", "/api/events").json()
        return found

    def transitions(self) -> list[dict[str, Any]]:
        return [event for event in self.events() if event["kind"] == "transition"]

    def verdicts(self, service: str) -> list[dict[str, Any]]:
        """Return what the trail says of the primary; the backup, too, is `down` while it starts."""
        told = [e for e in self.events() if e["kind"] == "verdict" and e["service"] == service]
        return [entry for entry in told if entry["code"].startswith("primary_")]

    def wait_until(
        self, holds: Callable[[dict[str, Any]], bool], what: str, *, timeout_s: float = 60
    ) -> dict[str, Any]:
        """Return the status once `holds(status)`."""
        last: dict[str, Any] = {}

        def check() -> bool:
            nonlocal last
            try:
                last = self.status()
            except (OSError, http.client.HTTPException):
                return False
            return holds(last)

        try:
            wait_for(check, what, timeout_s=timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\nlast status: {json.dumps(last, indent=1)}") from None
        return last

    def cli(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the command line against this site."""
        return subprocess.run(
            [sys.executable, "-m", "failover", *arguments, "--admin", f"http://{_HOST}:{self.admin_port}"],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def refuses(port: int) -> bool:
    """Return whether nobody listens on `port`."""
    try:
        with socket.create_connection((_HOST, port), timeout=5):
            return False
    except ConnectionRefusedError:
        return True


def _stands_still(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
