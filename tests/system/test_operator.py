"""What an operator asks for: force, drain, auto, dry runs. It holds, survives a restart, and is on record."""

from __future__ import annotations

import json

from tests.peers.orthanc import Orthanc
from tests.system.callers import new_study, store, studies
from tests.system.site import Site


def test_forced_backup_holds_over_a_restart_and_auto_brings_it_back(replicated_site: Site) -> None:
    site = replicated_site
    dry = site.cli("force", "backup", "--reason", "upgrade", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.strip()
    assert site.status()["mode"] == "auto"
    assert not [event for event in site.events() if event["kind"] == "intent"]

    done = site.cli("force", "backup", "--reason", "upgrade", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mode"] == "forced"
    assert site.web("GET", "/dicom-web/studies", accept="application/dicom+json").upstream == "backup"

    site.kill("router")
    status = site.wait_until(lambda s: s["mode"] == "forced", "it comes back forced", timeout_s=30)
    assert status["intent"]["upstream"] == "backup"
    assert status["intent"]["reason"] == "upgrade"
    assert site.web("GET", "/dicom-web/studies", accept="application/dicom+json").upstream == "backup"
    assert studies(site)

    assert site.cli("auto").returncode == 0
    site.wait_until(lambda s: s["phase"] == "on_primary", "the way back", timeout_s=60)
    told = site.cli("events", "--json")
    assert told.returncode == 0, told.stderr
    assert "upgrade" in told.stdout


def test_drain_empties_the_primary_and_writes_nothing_to_it(
    replicated_site: Site, orthanc: Orthanc, sample_files: list[bytes]
) -> None:
    site = replicated_site
    held = orthanc.instance_count()
    drained = site.cli("drain", "primary", "--reason", "service", "--grace", "5s")
    assert drained.returncode == 0, drained.stderr
    status = site.status()
    assert status["mode"] == "drain"
    assert status["in_flight"]["primary"] == {"web": 0, "dicom": 0}
    _, file = new_study(sample_files[0], 900)
    assert store(site, file)
    site.wait_until(lambda s: s["replication"]["lag_objects"] == 1, "it is owed")
    assert orthanc.instance_count() == held
    assert site.cli("auto").returncode == 0
    site.wait_until(lambda s: s["phase"] == "on_primary", "the way back", timeout_s=60)
    assert orthanc.instance_count() == held + 1


def test_forcing_towards_a_dead_primary_is_refused_unless_said(
    replicated_site: Site, orthanc: Orthanc
) -> None:
    site = replicated_site
    orthanc.kill()
    site.wait_until(lambda s: s["phase"] == "on_backup", "failover", timeout_s=30)
    refused = site.cli("force", "primary", "--reason", "I know better")
    assert refused.returncode == 1
    assert "--even-if-down" in refused.stderr + refused.stdout
    assert site.status()["mode"] == "auto"
    assert site.cli("force", "primary", "--reason", "I know better", "--even-if-down").returncode == 0
    assert site.status()["mode"] == "forced"


def test_the_command_line_says_when_there_is_no_router(replicated_site: Site) -> None:
    replicated_site.stop()
    asked = replicated_site.cli("status")
    assert asked.returncode == 3
    assert len((asked.stdout + asked.stderr).strip().splitlines()) == 1
    replicated_site.start()
