"""A primary whose DICOM side hangs while workstations search it: each search ends at the backup, soon."""

from __future__ import annotations

import sys
import threading
import time

from tests.peers.orthanc import Orthanc
from tests.peers.process import slowness, wait_for
from tests.system.callers import find
from tests.system.site import Site

WORKSTATIONS = 4


def test_searches_under_way_when_the_primary_hangs_are_finished_by_the_backup(
    replicated_site: Site, orthanc: Orthanc
) -> None:
    """DESIGN 4.1: suspect after a silence and two immediate probes, with the PACS' few slots taken."""
    site, ended = replicated_site, threading.Event()
    took_s: list[tuple[float, float, int]] = []  # began, took, matches
    faults: list[str] = []

    def search() -> None:
        while not ended.is_set():
            began_s = time.monotonic()
            try:
                matches = len(find(site))
            except AssertionError as error:
                faults.append(str(error))
            else:
                took_s.append((began_s, time.monotonic() - began_s, matches))

    threads = [threading.Thread(target=search) for _ in range(WORKSTATIONS)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(took_s) >= 4 * WORKSTATIONS, "they search the primary")
        slow = slowness()
        usual = len(took_s)
        orthanc.stop()
        stopped_s = time.monotonic()
        # One per workstation began before it hung, the next ones when it was known to hang.
        wait_for(lambda: len(took_s) >= usual + 4 * WORKSTATIONS, "they search on", timeout_s=60)
        slow = max(slow, slowness())
    finally:
        orthanc.cont()
        ended.set()
        for thread in threads:
            thread.join(60)
    assert not faults, faults[0]
    assert len({matches for _, _, matches in took_s}) == 1, "the backup found what the primary finds"
    around = [took for began, took, _ in took_s if began <= stopped_s + 3 and began + took >= stopped_s]
    slowest_s, usual_s = max(around), max(took for began, took, _ in took_s if began + took < stopped_s)
    sys.stderr.write(f"slowest search {slowest_s:.2f} s, before that {usual_s:.2f} s\n")
    # 1.45 s until it is suspect, and a search; twice as much for the four that search without a pause.
    assert slowest_s < 3.0 * slow + usual_s
    assert "suspect" in [entry["to"] for entry in site.verdicts("dicom")]
