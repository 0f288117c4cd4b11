"""One of our processes dies by kill -9: back within 3 s, nobody refused, nothing acknowledged lost."""

from __future__ import annotations

import os
import time

import pytest

from tests.peers.orthanc import Orthanc
from tests.peers.process import slowness, wait_for
from tests.system.callers import Browser, new_study, store
from tests.system.site import Site, refuses


@pytest.mark.parametrize("component", ["router", "archive", "replicator"])
def test_a_killed_process_is_back_and_no_caller_is_refused(replicated_site: Site, component: str) -> None:
    site = replicated_site
    with Browser(site) as browser:
        wait_for(lambda: len(browser.asked) > 5, "some requests before")
        slow = slowness()
        killed = site.kill(component)
        killed_at = time.monotonic()

        def back() -> bool:
            found = site.children()[component]
            if not found["pid"] or found["pid"] == killed:
                return False
            return component != "router" or site.ready()

        wait_for(back, f"{component} is back", timeout_s=30)
        if component != "router":
            site.wait_until(
                lambda status: status["replication"]["lag_objects"] == 0, "it answers", timeout_s=30
            )
        took_s = time.monotonic() - killed_at
        slow = max(slow, slowness())
        seen = len(browser.asked)
        wait_for(lambda: len(browser.asked) > seen + 10, "requests afterwards")
    assert took_s < 3.0 * slow
    assert not [entry for entry in browser.asked if entry.error and "ConnectionRefused" in entry.error]
    if component != "router":
        assert not browser.failed


def test_what_was_acknowledged_survives_the_archives_death(
    replicated_site: Site, orthanc: Orthanc, sample_files: list[bytes]
) -> None:
    site = replicated_site
    orthanc.kill()
    site.wait_until(lambda status: status["phase"] == "on_backup", "failover", timeout_s=30)
    acknowledged = []
    for number in range(12):
        sop_instance_uid, file = new_study(sample_files[0], 100 + number)
        if number in (4, 8):
            site.kill("archive" if number == 4 else "router")
        if store(site, file):
            acknowledged.append(sop_instance_uid)
    site.wait_until(
        lambda status: status["replication"]["lag_objects"] == len(acknowledged),
        "each acknowledged object is in the ledger",
        timeout_s=30,
    )
    orthanc.start()
    site.wait_until(lambda status: status["phase"] == "on_primary", "failback", timeout_s=90)
    assert all(orthanc.lookup(uid) for uid in acknowledged)


def test_sigterm_ends_all_within_15_s(site: Site) -> None:
    pids = [child["pid"] for child in site.children().values()]
    started = time.monotonic()
    assert site.stop() == 0
    assert time.monotonic() - started < 15
    for port in (site.web_port, site.dicom_port, site.admin_port, site.archive_web_port):
        assert refuses(port)
    assert not [pid for pid in pids if alive(pid)]


def test_a_killed_supervisor_leaves_no_orphan(site: Site) -> None:
    pids = [child["pid"] for child in site.children().values()]
    site.kill_supervisor()
    wait_for(lambda: not any(alive(pid) for pid in pids), "its children end", timeout_s=30)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
