"""The world of a run: a network namespace with the primary in it, the archives behind it and beside it.

The namespace has two addresses of 198.18.0.0/15, the block for benchmarks (RFC 2544). Needs root.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.bench.outage.content import Content
from tests.peers.process import free_port, wait_for
from tests.system.site import request

NAMESPACE: Final = f"failover-{os.getpid()}"
_NET: Final = f"198.18.{os.getpid() % 250}"
OURS, THEIRS = f"{_NET}.1", f"{_NET}.2"
PORT: Final = 8042
AE_TITLE: Final = "PACS"  # of every DICOM side, so that a peer which knows no AE titles can lead to any


def run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Namespace:
    """A host of its own on a wire of its own."""

    def __enter__(self) -> Self:
        run("ip", "netns", "add", NAMESPACE)
        near, far = f"fo{os.getpid()}a"[-15:], f"fo{os.getpid()}b"[-15:]
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", NAMESPACE)
        run("ip", "addr", "add", f"{OURS}/30", "dev", near)
        run("ip", "link", "set", near, "up")
        run("ip", "-n", NAMESPACE, "addr", "add", f"{THEIRS}/30", "dev", far)
        run("ip", "-n", NAMESPACE, "link", "set", far, "up")
        run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
        return self

    def drop_packets(self) -> None:
        """From now on nothing comes back from there: no answer, no reset."""
        run("ip", "-n", NAMESPACE, "route", "add", "blackhole", f"{OURS}/32")

    def pass_packets(self) -> None:
        run("ip", "-n", NAMESPACE, "route", "del", "blackhole", f"{OURS}/32", check=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run("ip", "netns", "del", NAMESPACE, check=False)


class Archive:
    """`failover archive` alone: the data behind the stand-in primary, and the peers' backup."""

    def __init__(self, *, inside: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="outage-archive-"))
        self.port, self.dicom_port = free_port(), free_port()
        self._inside = inside
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        file = self.folder / "failover.yaml"
        file.write_text(
            json.dumps(
                {
                    "state_dir": "./state",
                    "archive": {
                        "data_dir": "./archive",
                        "web": {"port": self.port},
                        "dicom": {"port": self.dicom_port, "ae_title": AE_TITLE},
                        "retention": {"min_free_bytes": "1MB"},
                    },
                }
            )
        )
        prefix = ["ip", "netns", "exec", NAMESPACE] if self._inside else []
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "failover", "archive", "-c", str(file)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)


class Primary:
    """The stand-in in the namespace: told to misbehave, killed, stopped, started."""

    def __init__(self, namespace: Namespace, behind: Archive) -> None:
        self.namespace = namespace
        self.folder = Path(tempfile.mkdtemp(prefix="outage-primary-"))
        self._behind = f"http://127.0.0.1:{behind.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.behave("well")

    def behave(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", NAMESPACE, sys.executable, "-m", *self.program()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(self.answers, "the primary answers")

    def program(self) -> list[str]:
        """Module and arguments of the stand-in."""
        return ["tests.bench.outage.primary", THEIRS, str(PORT), self._behind, str(self.folder)]

    def answers(self) -> bool:
        try:
            return request(PORT, "GET", "/", host=THEIRS, timeout_s=2).status == 200
        except OSError:
            return False

    def send(self, number: signal.Signals) -> None:
        """`ip netns exec` becomes the program, so the process id is the primary's own."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def orders(self) -> dict[str, int]:
        """How often each order was carried out."""
        found: dict[str, int] = {}
        file = self.folder / "orders"
        for line in file.read_text().split() if file.exists() else ():
            found[line] = found.get(line, 0) + 1
        return found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.namespace.pass_packets()
        self.kill()


def fill(port: int, content: Content, host: str = "127.0.0.1") -> None:
    """Store all of `content` by STOW-RS at `host`:`port`."""
    for file in content.files:
        head, body = stow(file)
        answer = request(port, "POST", "/dicom-web/studies", body, head, host=host, timeout_s=120)
        assert answer.status == 200, (answer.status, answer.body[:300])


def stow(file: bytes) -> tuple[dict[str, str], bytes]:
    """Return the header fields and the body of a store of one Part 10 file (PS3.18 10.5)."""
    boundary = "outage-of-the-primary-0123456789"
    head = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Accept": "application/dicom+json",
    }
    mark = f"--{boundary}"
    body = f"{mark}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file + f"\r\n{mark}--\r\n".encode()
    return head, body
