"""A certificate authority for tests, by the `openssl` command: it issues, and issues again."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from failover.model import ClientTls, ServerTls

_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Issues certificates below `folder`. `ca_file` is what its believers get."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.ca_file = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._count = 0
        _openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.ca_file,
            "-subj", f"/CN={name}", "-days", "400", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def issue(self, name: str, *, days: int = 90, file: str | None = None) -> Issued:
        """A certificate for localhost, 127.0.0.1 and `name`; `file` issues it again under the same names."""
        self._count += 1
        stem = file or f"{name}-{self._count}"
        cert, key = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        request, more = self._folder / "request.csr", self._folder / "more.cnf"
        more.write_text(f"subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:{name}\n")
        new_cert, new_key = self._folder / "new.pem", self._folder / "new.key"
        _openssl("req", *_NEW_KEY, "-keyout", new_key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca_file, "-CAkey", self._key,
            "-set_serial", str(1000 + self._count), "-days", str(days), "-extfile", more, "-out", new_cert,
        )  # fmt: skip
        new_key.chmod(0o600)
        new_key.replace(key)
        new_cert.replace(cert)
        return Issued(cert, key)

    def server(self, name: str = "router", *, client_ca: Path | None = None) -> ServerTls:
        """The files of a listener."""
        issued = self.issue(name)
        return ServerTls(issued.cert, issued.key, client_ca)

    def client(self, name: str | None = None) -> ClientTls:
        """How one who believes this authority connects; with `name` it shows a certificate of it."""
        if name is None:
            return ClientTls(ca_file=self.ca_file)
        issued = self.issue(name)
        return ClientTls(ca_file=self.ca_file, cert_file=issued.cert, key_file=issued.key)
