"""The units: systemd accepts them, they are shut, and they agree with what our processes do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from failover.app.router import GRACE_S as ROUTER_GRACE_S
from failover.app.supervisor import GRACE_S, NOT_RESTARTED
from failover.cli.exits import Exit
from tests.peers.process import environment, find_program
from tests.unit.deploy.units import FOLDER, UNITS, assignments, unit

# systemd-analyze rates from 0 (shut) to 10 (open); a service without any setting has 9.6.
MOST_EXPOSED = "25"  # tenths


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as installed, but with an interpreter that this machine has."""
    folder = tmp_path / "units"
    shutil.copytree(FOLDER, folder)
    for path in folder.glob("*.service"):
        text = path.read_text().replace("/opt/failover/current/bin/python", sys.executable)
        path.write_text(text)
    return folder


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {**environment(), "SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_PAGER": ""}
    return subprocess.run(
        [str(find_program("systemd-analyze")), *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_unit(installed: Path, name: str) -> None:
    answer = analyze(installed, "verify", "--man=no", name)
    ours = [line for line in answer.stderr.splitlines() if "failover" in line]
    assert (answer.returncode, ours) == (0, []), answer.stderr


def test_systemd_would_refuse_a_mistake(installed: Path) -> None:
    path = installed / "failover.service"
    path.write_text(path.read_text().replace("ProtectSystem=strict", "ProtectSystem=stirct"))
    assert "stirct" in analyze(installed, "verify", "--man=no", "failover.service").stderr


@pytest.mark.parametrize("file", ["failover.service", "failover@.service"])
def test_the_unit_is_shut(installed: Path, file: str) -> None:
    answer = analyze(
        installed, "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", str(installed / file)
    )
    assert answer.returncode == 0, answer.stdout[-400:] + answer.stderr


@pytest.mark.parametrize("name", UNITS)
def test_it_runs_as_nobody_special_and_writes_to_its_state_alone(name: str) -> None:
    found = unit(name)
    assert found["User"] == ["failover"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["ReadWritePaths"] == ["/var/lib/failover"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["UMask"] == ["0077"]
    assert found["MemoryMax"]


@pytest.mark.parametrize("name", UNITS)
def test_a_configuration_that_cannot_work_is_not_tried_again(name: str) -> None:
    found = unit(name)
    assert found["Restart"] == ["always"]
    assert found["RestartPreventExitStatus"] == [str(NOT_RESTARTED)] == [str(int(Exit.USAGE))]


def test_systemd_waits_longer_than_a_graceful_stop_takes() -> None:
    def seconds(name: str) -> float:
        return float(unit(name)["TimeoutStopSec"][-1].removesuffix("s"))

    together = sum(GRACE_S[name] for name in ("router", "replicator", "archive"))
    assert seconds("failover.service") > together
    for name in UNITS[1:]:
        assert seconds(name) > max(ROUTER_GRACE_S, *GRACE_S.values())


def test_only_the_supervisor_is_told_to_stop() -> None:
    # It ends its children in order; SIGTERM to all at once would end the archive under the router's requests.
    assert unit("failover.service")["KillMode"] == ["mixed"]
    assert unit("failover.service")["OOMPolicy"] == ["continue"]


def test_each_process_has_its_unit_and_none_runs_twice() -> None:
    for name in UNITS[1:]:
        assert unit(name)["Conflicts"] == ["failover.service"]
    assert unit("failover.service")["Conflicts"] == [" ".join(UNITS[1:])]
    assert unit("failover.service")["ExecStart"][0].endswith("failover run -c /etc/failover/failover.yaml")
    assert "failover %i -c" in unit("failover@router.service")["ExecStart"][0]


def test_a_lower_port_takes_one_capability() -> None:
    found = assignments(FOLDER / "privileged-ports.conf")
    assert found == {
        "CapabilityBoundingSet": ["CAP_NET_BIND_SERVICE"],
        "AmbientCapabilities": ["CAP_NET_BIND_SERVICE"],
    }


def test_the_user_and_the_folders_are_as_the_unit_says() -> None:
    user = (FOLDER / "failover.sysusers.conf").read_text()
    assert re.search(r"^u failover - .* /var/lib/failover /usr/sbin/nologin$", user, re.M)
    folders = (FOLDER / "failover.tmpfiles.conf").read_text()
    assert re.search(r"^d /var/lib/failover 0700 failover failover -$", folders, re.M)
    assert re.search(r"^d /etc/failover +0750 root +failover -$", folders, re.M)
