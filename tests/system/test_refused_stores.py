"""A primary that answers everything and takes no store: left on the word of stores, back after a proof."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence

import pytest

from tests.peers.process import Peer, free_port, listens, wait_for
from tests.system.callers import dcmtk, new_study
from tests.system.site import Site, request

NO_ROOM, ROOM = "1000000000MB", "1MB"


class StandIn(Peer):
    """A `failover archive` as primary. It refuses stores as long as its disk has not `room`."""

    def __init__(self) -> None:
        super().__init__("stand-in")
        self.web_port, self.dicom_port, self.ae_title = free_port(), free_port(), "STANDIN"
        self.room(ROOM)

    def room(self, min_free_bytes: str) -> None:
        """Want so much free space. A running one takes it over, and refuses or takes stores from then on."""
        configuration = {
            "state_dir": "./state",
            "listen": {"web": {"port": free_port()}, "dicom": {"port": free_port(), "ae_title": "UNUSED"}},
            "archive": {
                "data_dir": "./data",
                "web": {"port": self.web_port},
                "dicom": {"port": self.dicom_port, "ae_title": self.ae_title},
                "retention": {"days": 36500, "min_free_bytes": min_free_bytes},
            },
        }
        (self.folder / "failover.yaml").write_text(json.dumps(configuration))
        if self.running:
            os.kill(self.pid, signal.SIGHUP)

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "failover", "archive", "-c", str(self.folder / "failover.yaml")]

    def ready(self) -> bool:
        return listens(self.web_port) and listens(self.dicom_port)

    def holds(self, sop_instance_uid: str) -> bool:
        path = f"/dicom-web/instances?SOPInstanceUID={sop_instance_uid}"
        answer = request(self.web_port, "GET", path, headers={"accept": "application/dicom+json"})
        return answer.status == 200 and sop_instance_uid.encode() in answer.body


def store(port: int, called: str, calling: str, file: bytes) -> bool:
    """C-STORE as `calling`; return whether it was acknowledged with success."""
    with tempfile.NamedTemporaryFile(suffix=".dcm") as on_disk:
        on_disk.write(file)
        on_disk.flush()
        run = dcmtk(
            "storescu", "-R", "-v", "-aet", calling, "-aec", called, "127.0.0.1", str(port), on_disk.name
        )
    return run.returncode == 0 and "Received Store Response (Success)" in run.stderr + run.stdout


@pytest.fixture
def stand_in(sample_files: list[bytes]) -> Iterator[StandIn]:
    with StandIn() as primary:
        for file in sample_files[:10]:
            assert store(primary.dicom_port, primary.ae_title, "CT1", file)
        yield primary


def times_sent(site: Site) -> list[int]:
    listed = site.cli("owed", "--limit", "0", "--json")
    assert listed.returncode == 0, listed.stderr
    return [one["times_sent"] for one in json.loads(listed.stdout)["objects"]]


def test_a_primary_that_refuses_stores_is_left_until_one_is_accepted_and_proven(
    stand_in: StandIn, sample_files: list[bytes]
) -> None:
    primary = {
        "web": {"url": f"http://127.0.0.1:{stand_in.web_port}"},
        "dicom": {"host": "127.0.0.1", "port": stand_in.dicom_port, "ae_title": stand_in.ae_title},
    }
    with Site(primary) as site:
        site.wait_until(lambda s: s["replication"]["coverage_ratio"] == 1.0, "all is replicated")
        stand_in.room(NO_ROOM)
        unwanted = iter(range(900, 999))
        wait_for(
            lambda: (
                not store(
                    stand_in.dicom_port,
                    stand_in.ae_title,
                    "CT1",
                    new_study(sample_files[0], next(unwanted))[1],
                )
            ),
            "it refuses stores",
            timeout_s=60,
        )

        # One caller alone proves nothing; every store is acknowledged all the same.
        first, file = new_study(sample_files[0], 1)
        assert store(site.dicom_port, site.ae_title, "CT1", file)
        assert site.status()["phase"] == "on_primary"
        second, file = new_study(sample_files[0], 2)
        assert store(site.dicom_port, site.ae_title, "CT2", file)
        status = site.wait_until(lambda s: s["phase"] == "on_backup", "the backup serves")
        wait_for(lambda: [e["to"] for e in site.verdicts("dicom")][-1:] == ["down"], "the trail says so too")
        row = site.verdicts("dicom")[-2:]  # a slow machine may have been suspected before
        assert [entry["to"] for entry in row] == ["suspect", "down"]
        assert all("store: " in entry["reason"] for entry in row), row
        assert "stores of 2 callers failed within 10 s" in row[0]["reason"]
        parts = status["upstreams"]["primary"]["dicom"]["parts"]
        assert {part: parts[part] for part in ("reach", "query", "store")} == {
            "reach": "up", "query": "up", "store": "down",
        }  # fmt: skip

        # Every probe passes, the hold-down of 2 s is over long since, and it is not believed.
        wait_for(lambda: max(times_sent(site)) >= 1, "the replicator tried one", timeout_s=90)
        assert site.status()["phase"] == "on_backup"
        assert not stand_in.holds(first)
        assert not stand_in.holds(second)

        stand_in.room(ROOM)
        site.wait_until(lambda s: s["phase"] == "on_primary", "the primary serves again", timeout_s=120)
        assert stand_in.holds(first)
        assert stand_in.holds(second)
        wait_for(
            lambda: [e["to"] for e in site.verdicts("dicom")][-3:] == ["suspect", "down", "up"],
            "the trail says so",
        )
        third, file = new_study(sample_files[0], 3)
        assert store(site.dicom_port, site.ae_title, "CT1", file)
        wait_for(lambda: stand_in.holds(third), "stores go to the primary again")
