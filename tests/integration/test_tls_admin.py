"""Page, API and command line when listen.admin speaks TLS."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.authority import Authority
from tests.peers.process import free_port, wait_for
from tests.system.site import request

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority", "hospital-ca")


@pytest.fixture
def configuration(authority: Authority, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A running router whose admin listener wants certificates of its callers."""
    files = authority.server(client_ca=authority.ca_file)
    port = free_port()
    content: dict[str, Any] = {
        "state_dir": str(tmp_path / "state"),
        "listen": {
            "web": {"port": free_port()},
            "dicom": {"port": free_port()},
            "admin": {
                "port": port,
                "tls": {
                    "cert_file": str(files.cert_file),
                    "key_file": str(files.key_file),
                    "client_ca_file": str(files.client_ca_file),
                },
            },
        },
        "primary": {"dicom": {"host": "127.0.0.1", "port": 9, "ae_title": "NOBODY"}},
    }
    file = tmp_path / "failover.yaml"
    file.write_text(json.dumps(content))
    with (tmp_path / "log.txt").open("wb") as log:
        router = subprocess.Popen(
            [sys.executable, "-m", "failover", "router", "-c", str(file)], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: cli(file, "status").returncode == 0, "the router answers the command line")
        yield file, port
    finally:
        router.terminate()
        router.wait(30)


def cli(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAILOVER")}
    command = [sys.executable, "-m", "failover", *arguments, "-c", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_the_command_line_finds_it_and_strangers_do_not(
    authority: Authority, configuration: tuple[Path, int], tmp_path: Path
) -> None:
    file, port = configuration
    said = cli(file, "status", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["mode"] == "auto"

    plain = request(port, "GET", "/api/status")
    assert plain.status == 400
    assert b"TLS" in plain.body

    known = authority.issue("prometheus")
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.load_cert_chain(known.cert, known.key)
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
    connection.request("GET", "/metrics")
    assert b'certificate_expiry_timestamp_seconds{listener="admin"}' in connection.getresponse().read()
    connection.close()

    stranger = ssl.create_default_context(cafile=str(authority.ca_file))
    connection = http.client.HTTPSConnection("localhost", port, context=stranger, timeout=60)
    connection.request("GET", "/metrics")  # in TLS 1.3 the server minds after our handshake is done
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        connection.getresponse()

    other = Authority(tmp_path / "other").issue("router")
    impostor = json.loads(file.read_text())
    impostor["listen"]["admin"]["tls"].update(cert_file=str(other.cert), key_file=str(other.key))
    (tmp_path / "impostor.yaml").write_text(json.dumps(impostor))
    said = cli(tmp_path / "impostor.yaml", "status")
    assert said.returncode == 3, "a router with another certificate is not ours"
