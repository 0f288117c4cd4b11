"""A real Orthanc dies, hangs for a moment, comes back: nobody notices, and nothing is lost."""

from __future__ import annotations

import time

from tests.peers.orthanc import Orthanc
from tests.peers.process import slowness, wait_for
from tests.system.callers import Browser, find, get, new_study, pixels, retrieve, store, studies
from tests.system.site import Site


def names(found: list) -> dict[str, str]:  # type: ignore[type-arg]
    return {str(match.StudyInstanceUID): str(match.PatientName) for match in found}


def wado_uri(site: Site) -> str:
    """Return the WADO-URI of a CT image, at the path that the primary has for it."""
    question = "/dicom-web/instances?SOPClassUID=1.2.840.10008.5.1.4.1.1.2&limit=1"
    (found,) = site.web("GET", question, accept="application/dicom+json").json()
    study, series, instance = (found[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    named = f"studyUID={study}&seriesUID={series}&objectUID={instance}"
    return f"/wado?requestType=WADO&{named}"


def test_a_killed_primary_is_not_noticed_and_gets_back_what_it_missed(
    replicated_site: Site, orthanc: Orthanc, sample_files: list[bytes]
) -> None:
    site = replicated_site
    before_studies = studies(site)
    before_names = names(find(site))
    assert len(before_studies) >= 12
    before_pixels = {uid: pixels(retrieve(site, uid)) for uid in before_studies}
    one = next(uid for uid, found in before_pixels.items() if found)
    by_uri = wado_uri(site)
    assert site.status()["phase"] == "on_primary"
    picture = site.web("GET", by_uri, accept="*/*")
    assert (picture.status, picture.upstream) == (200, "primary")
    assert picture.headers["content-type"].startswith("image/")

    with Browser(site) as browser:
        wait_for(lambda: len(browser.asked) > 5, "some requests before the kill")
        slow = slowness()
        orthanc.kill()
        killed_at = time.monotonic()
        wait_for(
            lambda: any(e.at_s > killed_at and e.good for e in browser.asked), "a good answer", timeout_s=30
        )
        first = next(e for e in browser.asked if e.at_s > killed_at and e.good)
        site.wait_until(lambda status: status["phase"] == "on_backup", "failover", timeout_s=30)
        slow = max(slow, slowness())
        asked_by_then = len(browser.asked)
        wait_for(lambda: len(browser.asked) > asked_by_then + 5, "requests on the backup")
    assert first.at_s + first.took_s - killed_at < 1.0 * slow
    assert not browser.failed
    assert browser.asked[-1].upstream == "backup"

    assert studies(site) == before_studies
    assert names(find(site)) == before_names
    assert {uid: pixels(retrieve(site, uid)) for uid in before_studies} == before_pixels
    assert pixels(get(site, one)) == before_pixels[one]
    picture = site.web("GET", by_uri, accept="*/*")
    assert (picture.status, picture.upstream) == (200, "backup")
    assert picture.headers["content-type"].startswith("image/")
    viewer = site.web("GET", "/.failover/", accept="text/html")
    assert viewer.status == 200
    assert b"<html" in viewer.body.lower()
    page = site.web("GET", "/app/explorer.html", accept="text/html")
    assert (page.status, page.headers["location"]) == (302, "/.failover/")

    stored = [new_study(sample_files[0], number) for number in range(3)]
    for _, file in stored:
        assert store(site, file)
    site.wait_until(lambda s: s["replication"]["lag_objects"] == 3, "each is in the ledger", timeout_s=30)

    orthanc.start()
    site.wait_until(lambda status: status["phase"] == "on_primary", "failback", timeout_s=90)
    # The moment reads return, all that was stored meanwhile is on the primary.
    for sop_instance_uid, _ in stored:
        assert orthanc.lookup(sop_instance_uid)
    assert site.status()["replication"]["lag_objects"] == 0
    # A search that waits longer than usual on a busy machine is answered by the backup, and that is right.
    wait_for(
        lambda: site.web("GET", "/dicom-web/studies", accept="application/dicom+json").upstream == "primary",
        "searches are the primary's again",
    )
    path = [(event["from"], event["to"]) for event in site.transitions() if event["service"] == "web"]
    assert ("on_backup", "failing_back") in path
    assert path.index(("on_backup", "failing_back")) < path.index(("failing_back", "on_primary"))


def test_a_primary_that_hangs_for_a_moment_changes_no_phase_and_fails_no_request(
    replicated_site: Site, orthanc: Orthanc
) -> None:
    site = replicated_site
    with Browser(site) as browser, Browser(site, "/dicom-web/studies?limit=1") as other:
        wait_for(lambda: min(len(browser.asked), len(other.asked)) > 5, "some requests before")
        orthanc.stop()
        stopped_at = time.monotonic()
        wait_for(lambda: time.monotonic() - stopped_at > 1.5, "1.5 s")
        orthanc.cont()
        seen = len(browser.asked)
        wait_for(lambda: len(browser.asked) > seen + 20, "requests afterwards")
    assert not browser.failed
    assert not other.failed
    site.wait_until(lambda s: s["upstreams"]["primary"]["web"]["verdict"] == "up", "the primary is up again")
    assert site.status()["phase"] == "on_primary"
    assert not site.transitions()
