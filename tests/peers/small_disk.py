"""An Orthanc whose disk can be full: its storage is a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.peers.orthanc import Orthanc
from tests.peers.process import missing

_BALLAST = "ballast"


class OrthancOnSmallDisk(Orthanc):
    """`size_bytes`: of its storage. The index lies elsewhere, as where images have a volume of their own."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self._size_bytes = size_bytes

    def command(self) -> Sequence[str]:
        if not can_mount():
            missing("unshare -rm (mount namespaces)")
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        mount = f'mount -t tmpfs -o size={self._size_bytes} none "{storage}" && exec "$@"'
        return ["unshare", "-rm", "sh", "-c", mount, "sh", *super().command()]

    @property
    def _storage(self) -> Path:
        """Its storage as it sees it: our own view has an empty folder there."""
        return Path(f"/proc/{self.pid}/root{self.folder}/storage")

    def fill(self) -> None:
        """Leave not one byte of room."""
        with (self._storage / _BALLAST).open("wb", buffering=0) as ballast:
            for piece in (b"\0" * 65536, b"\0" * 512, b"\0"):
                try:
                    while ballast.write(piece):
                        pass
                except OSError:
                    continue
        assert os.statvfs(self._storage).f_bavail == 0

    def make_room(self) -> None:
        """Take away what `fill` wrote."""
        (self._storage / _BALLAST).unlink()


def can_mount() -> bool:
    """Whether we may make a mount namespace here."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False, timeout=30)
    return tried.returncode == 0
