"""A primary that comes back with less than it had, after a drain and a forced backup, while our own die.

Whoever is killed in between: what the primary lost is on it again before it answers reads, and what a person
must decide waits for that person and for nobody else.
"""

from __future__ import annotations

import http.client

import pytest

from tests.peers.orthanc import Orthanc
from tests.peers.process import wait_for
from tests.system.callers import studies
from tests.system.site import Site, request

KILLED = ["nobody", "router", "archive", "replicator"]


def kill(site: Site, component: str) -> None:
    if component != "nobody":
        site.kill(component)


def isolate(site: Site, command: tuple[str, ...]) -> None:
    done = site.cli(*command, "--reason", "a restore from last night's dump")
    assert done.returncode == 0, done.stderr


def vanished(site: Site) -> set[str]:
    """The studies that the administrator's list shows as vanished."""
    answer = site.admin("GET", "/api/owed?state=vanished&limit=1000")
    assert answer.status == 200, answer.body
    return {one["study_instance_uid"] for one in answer.json()["objects"]}


def held_by_the_archive(site: Site) -> set[str]:
    """Asked at its own port: the router may be asking the primary while a killed archive comes back."""
    found: set[str] = set()

    def answered() -> bool:
        accept = {"accept": "application/dicom+json"}
        try:
            answer = request(site.archive_web_port, "GET", "/dicom-web/studies", headers=accept)
        except (OSError, http.client.HTTPException):
            return False  # it is starting
        assert answer.status == 200, (answer.status, answer.body[:500])
        found.update(study["0020000D"]["Value"][0] for study in answer.json())
        return True

    wait_for(answered, "the archive answers")
    return found


def way_back(site: Site, orthanc: Orthanc, held: int) -> None:
    """Reads return by `debt_paid` when all is there; any other edge must not hide behind that one."""
    site.wait_until(lambda s: s["phase"] == "on_primary", "the way back", timeout_s=90)
    there, last = orthanc.instance_count(), site.transitions()[-1]
    assert there == held or last["code"] != "debt_paid", site.log()
    wait_for(lambda: orthanc.instance_count() == held, "the primary has all again", timeout_s=60)


@pytest.mark.parametrize(
    ("command", "killed"),
    [
        (("drain", "primary", "--grace", "30s"), "nobody"),
        (("drain", "primary", "--grace", "30s"), "replicator"),
        (("force", "backup"), "archive"),
        (("force", "backup"), "router"),
    ],
)
def test_what_a_serviced_primary_lost_is_on_it_again_before_reads_return(
    replicated_site: Site, orthanc: Orthanc, command: tuple[str, ...], killed: str
) -> None:
    site = replicated_site
    held, (lost, torn, *_) = orthanc.instance_count(), sorted(studies(site))
    isolate(site, command)
    orthanc.delete(lost)
    (found,) = orthanc.lookup(torn)
    orthanc.request("DELETE", f"/instances/{orthanc.json(found['Path'] + '/instances')[0]['ID']}")
    assert orthanc.instance_count() < held
    assert site.cli("auto").returncode == 0
    kill(site, killed)  # the recheck is due, or under way
    way_back(site, orthanc, held)
    assert orthanc.lookup(lost)
    status = site.wait_until(lambda s: s["replication"]["recheck_done"], "the recheck is done")
    assert (status["replication"]["lag_objects"], status["replication"]["vanished"]) == (0, 0)


@pytest.mark.parametrize("killed", KILLED)
def test_a_decision_is_waited_for_and_carried_out_whoever_dies(
    replicated_site: Site, orthanc: Orthanc, killed: str
) -> None:
    site = replicated_site
    held, lost = orthanc.instance_count(), set(sorted(studies(site))[:4])
    isolate(site, ("drain", "primary", "--grace", "30s"))
    for uid in lost:
        orthanc.delete(uid)
    left = orthanc.instance_count()
    assert site.cli("auto").returncode == 0
    site.wait_until(lambda s: s["replication"]["vanished"] == 4, "a person must decide", timeout_s=60)
    assert vanished(site) == lost

    kill(site, killed)
    status = site.wait_until(
        lambda s: s["replication"]["vanished"] == 4 and "vanished-owed" in s["decisions"],
        "it still waits",
        timeout_s=60,
    )
    assert status["phase"] != "on_primary"
    assert orthanc.instance_count() == left, "nothing is sent"
    assert lost <= held_by_the_archive(site), "nothing is hidden"

    def decided() -> bool:
        # Refused while the killed one is away: what vanished is not known then.
        return site.cli("decide", "vanished-owed", "--reason", "the dump was from last night").returncode == 0

    wait_for(decided, "the decision is taken")
    kill(site, killed)
    way_back(site, orthanc, held)
    assert all(orthanc.lookup(uid) for uid in lost)
    assert vanished(site) == set()
