"""DCMTK's dcmqrscp: a second kind of primary, without DICOMweb; offered here without C-GET (`with_get`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.peers.process import Peer, find_program, free_port, listens


class Dcmqrscp(Peer):
    """`destinations`: AE title → port on loopback, known for C-MOVE and to be set before the start."""

    def __init__(
        self,
        *,
        ae_title: str = "DCMQRSCP",
        dicom_port: int | None = None,
        destinations: Mapping[str, int] | None = None,
        with_get: bool = False,
        folder: Path | None = None,
    ) -> None:
        super().__init__("dcmqrscp", folder)
        self.ae_title = ae_title
        self.dicom_port = dicom_port or free_port()
        self.destinations = dict(destinations or {})
        self.with_get = with_get

    def command(self) -> Sequence[str]:
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        hosts = "".join(
            f"peer{index} = ({name}, localhost, {port})\n"
            for index, (name, port) in enumerate(self.destinations.items())
        )
        path = self.folder / "dcmqrscp.cfg"
        path.write_text(
            f"NetworkTCPPort = {self.dicom_port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{hosts}HostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{self.ae_title} {storage} RW (500, 1024mb) ANY\nAETable END\n"
        )
        options = ["--log-level", "info", "-c", str(path)]
        if not self.with_get:
            options.append("--disable-get")
        return [str(find_program("dcmqrscp")), *options]

    def ready(self) -> bool:
        return listens(self.dicom_port)
