"""A router that is restarted on a disk it cannot write comes up, routes, says so, and writes later."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.peers.process import missing
from tests.peers.small_disk import can_mount


def test_a_restart_on_a_read_only_state_dir_routes() -> None:
    if not can_mount():
        missing("unshare -rm (mount namespaces)")
    # The path of a Unix socket has 108 bytes, wherever it has to go.
    disk = Path(tempfile.mkdtemp(prefix="state-"))
    mount = f'mount -t tmpfs -o size=64m none "{disk}" && exec "$@"'
    program = [sys.executable, "-m", "tests.system.read_only_walk", str(disk)]
    walked = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", *program],
        capture_output=True,
        text=True,
        timeout=240,
    )
    disk.rmdir()
    assert walked.returncode == 0, walked.stdout[-2000:] + walked.stderr[-6000:]
