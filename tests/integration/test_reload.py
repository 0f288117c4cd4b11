"""`failover run` told to read its configuration again, by signal and by command, under a caller's eyes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.authority import Authority
from tests.peers.process import wait_for
from tests.system.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority", "hospital-ca")


@pytest.fixture
def site(authority: Authority) -> Iterator[Site]:
    """The primary is nobody: routing is not what is tried here. TLS on the web listener."""
    issued = authority.issue("router", file="router")
    tls = {"cert_file": str(issued.cert), "key_file": str(issued.key)}
    site = Site({"dicom": {"host": "127.0.0.1", "port": 9, "ae_title": "NOBODY"}})
    site.configuration["listen"]["web"]["tls"] = tls
    site.configuration["policy"]["hold_down"] = "60s"
    with site:
        yield site


def write(site: Site) -> None:
    site.file.write_text(json.dumps(site.configuration, indent=1))


def reload(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "failover", "reload", "-c", str(site.file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_reload_takes_what_it_can_and_drops_nobody(site: Site, authority: Authority) -> None:
    def connect() -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        return http.client.HTTPSConnection("localhost", site.web_port, context=context, timeout=60)

    def serial(connection: http.client.HTTPSConnection) -> Any:
        sock: Any = connection.sock
        return sock.getpeercert()["serialNumber"]

    before = connect()
    before.request("GET", "/dicom-web/studies?limit=1")
    assert before.getresponse().read() is not None
    pids = {name: child["pid"] for name, child in site.children().items()}

    def all_are_up() -> bool:
        metrics = site.admin("GET", "/metrics").body.decode()
        return all(f'failover_component_up{{component="{one}"}} 1.0' in metrics for one in pids)

    wait_for(all_are_up, "each has read the file as it was")

    # by the command: named one by one
    site.configuration["policy"]["hold_down"] = "5s"
    site.configuration["archive"]["retention"]["days"] = 9
    site.configuration["listen"]["admin"]["hosts"] = ["failover.example.org"]
    write(site)
    dry = reload(site, "--dry-run")
    assert "would change: policy.hold_down (router)" in dry.stdout
    said = reload(site)
    assert said.returncode == 0, said.stderr
    assert "changed: policy.hold_down (router)" in said.stdout
    assert "changed: archive.retention.days (archive, replicator)" in said.stdout
    assert "needs a restart: listen.admin.hosts (router)" in said.stdout
    assert any(event["kind"] == "configuration" for event in site.events())

    # by the signal, with a new certificate
    old = serial(before)
    authority.issue("router", file="router")
    site.configuration["replication"]["poll_every"] = "3s"
    write(site)
    os.kill(site.supervisor_pid, signal.SIGHUP)
    wait_for(lambda: "changed=replication.poll_every" in site.log(), "the replicator took it")
    wait_for(lambda: 'event="certificate taken"' in site.log(), "the router took the certificate")
    after = connect()
    after.request("GET", "/dicom-web/studies?limit=1")
    assert after.getresponse().read() is not None
    assert serial(after) != old
    before.request("GET", "/dicom-web/studies?limit=1")
    assert before.getresponse().read() is not None
    assert serial(before) == old, "the open connection goes on under the old one"

    # a broken file changes nothing
    site.configuration["policy"]["hold_down"] = "soon"
    write(site)
    said = reload(site)
    assert said.returncode == 2
    assert "policy.hold_down" in said.stderr
    os.kill(site.supervisor_pid, signal.SIGHUP)
    wait_for(lambda: "configuration not taken" in site.log(), "the log says so")

    assert {name: child["pid"] for name, child in site.children().items()} == pids, "nobody was restarted"
    metrics = site.admin("GET", "/metrics").body.decode()
    assert 'failover_tls_certificate_expiry_timestamp_seconds{listener="web"}' in metrics


def test_without_a_running_failover_there_is_nobody_to_tell(tmp_path: Path) -> None:
    file = tmp_path / "failover.yaml"
    file.write_text("primary: {web: {url: http://127.0.0.1:9}}\n")
    command = [sys.executable, "-m", "failover", "reload", "-c", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 3
    assert "no failover runs" in said.stderr
