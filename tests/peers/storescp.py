"""DCMTK's storescp: a C-MOVE destination that keeps what it gets as files in `received`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.peers.process import Peer, find_program, free_port, listens


class Storescp(Peer):
    """`options` are further command line options of storescp, such as --sleep-during 1."""

    def __init__(
        self,
        *,
        ae_title: str = "STORESCP",
        dicom_port: int | None = None,
        options: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        super().__init__("storescp", folder)
        self.ae_title = ae_title
        self.dicom_port = dicom_port or free_port()
        self._options = tuple(options)
        self.received = self.folder / "received"

    def command(self) -> Sequence[str]:
        self.received.mkdir(exist_ok=True)
        return [
            str(find_program("storescp")),
            "--aetitle",
            self.ae_title,
            "--output-directory",
            str(self.received),
            "+xa",  # accept every transfer syntax
            *self._options,
            str(self.dicom_port),
        ]

    def ready(self) -> bool:
        return listens(self.dicom_port)

    def files(self) -> list[Path]:
        """What was received, by name: modality and SOP instance UID."""
        return sorted(path for path in self.received.iterdir() if path.is_file())
