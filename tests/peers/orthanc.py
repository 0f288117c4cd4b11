"""A real Orthanc (Debian's orthanc and orthanc-dicomweb) on loopback: the usual primary of the tests."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.peers.process import Peer, find_file, find_program, free_port, listens, missing


class Orthanc(Peer):
    """`modalities`: AE title → port on loopback, the C-MOVE destinations. `extra`: more configuration."""

    def __init__(
        self,
        *,
        ae_title: str = "ORTHANC",
        web_port: int | None = None,
        dicom_port: int | None = None,
        modalities: Mapping[str, int] | None = None,
        extra: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__("orthanc", folder)
        self.ae_title = ae_title
        self.web_port = web_port or free_port()
        self.dicom_port = dicom_port or free_port()
        self.url = f"http://{self.host}:{self.web_port}"
        self.dicomweb_path = "/dicom-web"
        self._modalities = dict(modalities or {})
        self._extra = dict(extra or {})

    def command(self) -> Sequence[str]:
        plugin = find_file(
            "/usr/share/orthanc/plugins/libOrthancDicomWeb.so", "/usr/lib/orthanc/libOrthancDicomWeb.so"
        )
        if plugin is None:
            missing("orthanc-dicomweb")
        configuration = {
            "Name": "stand-in primary",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "index"),
            "Plugins": [str(plugin)],
            "HttpPort": self.web_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": True,
            "DicomAet": self.ae_title,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowFindWorklist": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "UnknownSopClassAccepted": True,
            "DicomModalities": {
                name: {"AET": name, "Host": self.host, "Port": port}
                for name, port in self._modalities.items()
            },
            "DefaultEncoding": "Utf8",  # else Japanese, Arabic and Greek names are lost
            "StableAge": 1,
            "SaveJobs": False,
            "DicomWeb": {"Enable": True, "Root": f"{self.dicomweb_path}/", "EnableWado": True},
            **self._extra,
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(configuration, indent=1))
        return [str(find_program("Orthanc")), str(path)]

    def ready(self) -> bool:
        try:
            status, _ = self.request("GET", "/system", timeout_s=5)
        except OSError:
            return False
        return status == 200 and listens(self.dicom_port)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 60,
    ) -> tuple[int, bytes]:
        """Ask Orthanc's own REST interface (or DICOMweb) directly, past the router: (status, body)."""
        connection = http.client.HTTPConnection(self.host, self.web_port, timeout=timeout_s)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        """Return the JSON that GET `path` answers."""
        status, body = self.request("GET", path)
        assert status == 200, f"GET {path}: {status}"
        return json.loads(body)

    def upload(self, part10: bytes) -> str:
        """Store one Part 10 file; return Orthanc's own ID of the instance."""
        status, body = self.request("POST", "/instances", part10)
        assert status == 200, f"POST /instances: {status} {body[:300]!r}"
        return str(json.loads(body)["ID"])

    def instance_count(self) -> int:
        return int(self.json("/statistics")["CountInstances"])

    def lookup(self, uid: str) -> list[dict[str, str]]:
        """Return what Orthanc knows under `uid` (study, series or SOP instance): its IDs, types and paths."""
        status, body = self.request("POST", "/tools/lookup", uid.encode())
        assert status == 200, f"POST /tools/lookup: {status}"
        found: list[dict[str, str]] = json.loads(body)
        return found

    def delete(self, uid: str) -> None:
        """Delete what lies under `uid`, as an administrator would."""
        for entry in self.lookup(uid):
            status, _ = self.request("DELETE", entry["Path"])
            assert status == 200, f"DELETE: {status}"

    def set_modality(self, ae_title: str, port: int) -> None:
        """Make `ae_title` a C-MOVE destination, now and after a restart."""
        self._modalities[ae_title] = port
        if self.running:
            body = json.dumps({"AET": ae_title, "Host": self.host, "Port": port}).encode()
            status, _ = self.request("PUT", f"/modalities/{ae_title}", body)
            assert status == 200, f"PUT /modalities: {status}"
