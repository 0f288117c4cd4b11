"""What an operator asks for: force, drain, auto, dry runs. It holds, survives a restart, and is on record."""

from __future__ import annotations

import json
import os
import signal
import time

from tests.peers.orthanc import Orthanc
from tests.peers.process import wait_for
from tests.system.callers import Browser, new_study, store, studies
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
    drained = site.cli("drain", "primary", "--reason", "service", "--grace", "30s")
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


def test_a_drain_says_when_the_replicator_did_not_hear_and_it_writes_nothing_afterwards(
    replicated_site: Site, orthanc: Orthanc, sample_files: list[bytes]
) -> None:
    site = replicated_site
    held = orthanc.instance_count()
    replicator = int(site.children()["replicator"]["pid"])
    os.kill(replicator, signal.SIGSTOP)
    try:
        # Owed while it is stopped: the first thing it would send when it goes on.
        _, file = new_study(sample_files[0], 901)
        assert store(site, file, port=site.archive_dicom_port, called=site.archive_ae_title)
        drained = site.cli("drain", "primary", "--reason", "service", "--grace", "5s")
    finally:
        os.kill(replicator, signal.SIGCONT)
    assert drained.returncode == 1
    assert "the replicator did not answer within 5 s" in drained.stderr
    site.wait_until(lambda s: s["replication"]["pending_to_backup"] is not None, "it goes on")
    heard = site.cli("drain", "primary", "--reason", "service", "--grace", "30s")
    assert heard.returncode == 0, heard.stderr
    assert orthanc.instance_count() == held
    assert site.status()["replication"]["lag_objects"] == 1


def test_the_grace_of_a_drain_ends_what_hangs_at_the_primary(replicated_site: Site, orthanc: Orthanc) -> None:
    site = replicated_site
    orthanc.stop()
    with Browser(site) as browser:
        # These wait at a primary that does not answer and is not suspect yet, or are answered by the backup.
        wait_for(lambda: site.status()["in_flight"]["primary"]["web"] > 0, "something hangs there")
        drained = site.cli("drain", "primary", "--reason", "service", "--grace", "1s", "--even-if-down")
        orthanc.cont()
        assert drained.returncode == 0, drained.stderr
        assert site.status()["in_flight"]["primary"] == {"web": 0, "dicom": 0}
        seen = len(browser.asked)
        wait_for(lambda: len(browser.asked) > seen + 5, "requests afterwards")
    assert not browser.failed


def test_a_router_that_stood_still_blames_nobody(replicated_site: Site) -> None:
    site = replicated_site
    router = int(site.children()["router"]["pid"])
    os.kill(router, signal.SIGSTOP)
    stopped_at = time.monotonic()
    wait_for(lambda: time.monotonic() - stopped_at > 5.0, "5 s")
    os.kill(router, signal.SIGCONT)
    with Browser(site) as browser:
        wait_for(lambda: len(browser.asked) > 50, "requests afterwards")
    assert not browser.failed
    assert {asked.upstream for asked in browser.asked} == {"primary"}
    assert not site.transitions()
    told = [*site.verdicts("web"), *site.verdicts("dicom")]
    assert not [entry for entry in told if entry["to"] == "down"]


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
