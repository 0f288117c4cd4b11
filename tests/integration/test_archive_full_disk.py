"""An archive that is restarted on a full disk opens its index, serves reads and refuses stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.process import missing
from tests.peers.small_disk import can_mount

pytestmark = pytest.mark.integration


def test_a_restart_on_a_full_disk_serves_reads_and_stores_come_back_with_the_room(tmp_path: Path) -> None:
    if not can_mount():
        missing("unshare -rm (mount namespaces)")
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    # Each step in a process of its own: a connection that one had forgotten would help the next.
    walk = f'"{sys.executable}" -m tests.integration.full_disk_walk'
    steps = " && ".join(f'{walk} {step} "{disk}" "{elsewhere}"' for step in ("begin", "full", "full", "room"))
    mount = f'mount -t tmpfs -o size=64m none "{disk}" && {steps}'
    walked = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, timeout=240
    )
    assert walked.returncode == 0, walked.stdout[-2000:] + walked.stderr[-6000:]
