"""dcmjs-dimse (npm) as caller and as archive: a fourth reading of the standard, in JavaScript."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.peers.process import Peer, environment, find_program, free_port, listens, missing

_HERE = Path(__file__).resolve().parent / "dcmjs"
_MODULES = _HERE.parents[2] / ".tools/dcmjs/node_modules"
Fact = dict[str, Any]


def command(mode: str, port: int) -> Sequence[str]:
    """Return the command line of `peer.js`."""
    if not (_MODULES / "dcmjs-dimse").is_dir():
        missing("dcmjs-dimse", "tests/get_dcmjs.sh gets it from npm")
    node = str(find_program("node"))
    return ["env", f"NODE_PATH={_MODULES}", node, str(_HERE / "peer.js"), mode, str(port)]


async def call(port: int, steps: Sequence[Sequence[str]]) -> list[Fact]:
    """Take `steps` in one association with whoever listens on `port`; return what it told."""
    child = await asyncio.create_subprocess_exec(
        *command("call", port), env=environment(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, errors = await child.communicate(json.dumps(steps).encode())
    assert child.returncode == 0, errors.decode()
    return facts(said.decode())


def facts(said: str) -> list[Fact]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


class DcmjsArchive(Peer):
    """It accepts every service, finds two studies, and tells what it was sent."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__("dcmjs", folder)
        self.dicom_port = free_port()

    def command(self) -> Sequence[str]:
        return command("serve", self.dicom_port)

    def ready(self) -> bool:
        return listens(self.dicom_port)

    def told(self) -> list[Fact]:
        return facts(self.log())


__all__ = ["DcmjsArchive", "call", "facts"]
