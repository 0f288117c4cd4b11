"""The image and the composition, as far as they can be judged without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from failover.config.load import parse
from failover.credentials.tokens import own_token, parse_tokens
from tests.peers.process import environment, find_program
from tests.unit.deploy.units import ROOT

DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def copied() -> list[str]:
    return [
        source
        for word, rest in instructions(CONTAINERFILE)
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]


# -- the image


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert source in allowed
    assert (ROOT / ".dockerignore").read_bytes() == (ROOT / ".containerignore").read_bytes()


def test_the_image_runs_as_a_user_and_stops_gracefully() -> None:
    last = instructions(CONTAINERFILE[CONTAINERFILE.rindex("\nFROM") :])
    words = dict(last)
    assert words["USER"] == "failover"
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert "--require-hashes" in CONTAINERFILE
    assert not re.search(r"(?i)(password|token|secret)\s*=", CONTAINERFILE)
    assert json.loads(words["ENTRYPOINT"]) == ["/opt/failover/bin/failover"]
    check = words["HEALTHCHECK"]
    compile(json.loads(check[check.index("CMD ") + 4 :])[2], "HEALTHCHECK", "exec")


# -- the composition


def test_the_services_are_whole() -> None:
    assert set(SERVICES) == {"tokens", "failover", "orthanc", "prometheus", "grafana"}
    for name, service in SERVICES.items():
        assert service.get("image"), name
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for network in service.get("networks", []):
            assert network in COMPOSE["networks"]
        if "build" in service:
            context = (DEPLOY / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).is_file()
        elif name != "tokens":
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), f"{name} is not pinned"


def test_every_mounted_file_is_there_and_every_volume_is_named() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).resolve().exists(), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name}: {source}"


def test_nothing_is_published_beyond_this_machine() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_failover_in_it_is_as_shut_as_under_systemd() -> None:
    service = SERVICES["failover"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["stop_grace_period"] == "20s"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for _ in range(2):  # the second time changes nothing
        before = sorted(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        subprocess.run(["sh", str(DEPLOY / "make_tokens.sh"), str(tmp_path)], check=True, timeout=30)
        after = sorted(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert before in ([], after)
    return tmp_path


def test_the_secrets_are_made_strong_and_for_their_user_alone(secrets: Path) -> None:
    tokens, problems = parse_tokens((secrets / "failover" / "tokens").read_text())
    assert problems == []
    token = own_token(secrets / "prometheus" / "token")
    assert len(token) == 48
    assert tokens.name_of(token) == "prometheus"
    for file in ("failover/tokens", "prometheus/token", "grafana/password"):
        assert (secrets / file).stat().st_mode & 0o777 == 0o600
        assert (secrets / file).parent.stat().st_mode & 0o777 == 0o700


def test_its_configuration_is_one(secrets: Path, tmp_path: Path) -> None:
    text = (DEPLOY / "compose" / "failover.yaml").read_text(encoding="utf-8")
    here = text.replace("/run/secrets/failover/tokens", str(secrets / "failover" / "tokens"))
    configuration = parse(here, name="failover.yaml", folder=tmp_path)
    mounts = {volume.split(":")[1] for volume in SERVICES["failover"]["volumes"]}
    assert str(configuration.state_dir) in mounts
    assert "/run/secrets/failover" in mounts
    # Prometheus and failover agree on the name, the port and the token's file.
    job = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    host, _, port = job["static_configs"][0]["targets"][0].partition(":")
    assert (host, int(port)) == ("failover", configuration.listen.admin.port)
    assert host in configuration.listen.admin.hosts
    assert job["job_name"] == "failover"
    assert "/run/secrets/prometheus" in {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    subnet = COMPOSE["networks"]["pacs"]["ipam"]["config"][0]["subnet"]
    assert subnet in text
    for listener in (configuration.listen.web, configuration.listen.dicom, configuration.listen.admin):
        assert f"127.0.0.1:{listener.port}:{listener.port}" in SERVICES["failover"]["ports"]


def test_its_orthanc_is_set_as_a_primary_must_be(tmp_path: Path) -> None:
    text = (DEPLOY / "compose" / "failover.yaml").read_text(encoding="utf-8")
    primary = yaml.safe_load(text)["primary"]
    orthanc = json.loads((DEPLOY / "compose" / "orthanc.json").read_text(encoding="utf-8"))
    assert orthanc["DefaultEncoding"] == "Utf8"  # else Japanese, Arabic and Greek names are lost
    assert orthanc["DicomAet"] == primary["dicom"]["ae_title"]
    assert orthanc["DicomPort"] == primary["dicom"]["port"]
    assert primary["web"]["url"] == f"http://orthanc:{orthanc['HttpPort']}"
    assert orthanc["DicomWeb"]["Root"].rstrip("/") == primary["dicomweb"]["path"]


def test_prometheus_accepts_its_configuration() -> None:
    answer = subprocess.run(
        [str(find_program("promtool")), "check", "config", "--syntax-only", "prometheus.yml"],
        cwd=DEPLOY / "prometheus", env=environment(), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_no_secret_is_in_the_repository() -> None:
    for path in [*DEPLOY.rglob("*"), *(ROOT / "grafana").rglob("*")]:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"[0-9a-f]{40}", text), path
            assert not re.search(r"(?im)^\s*\w*(password|token)\w*:\s*[\"']?[A-Za-z0-9]{8,}", text), path
