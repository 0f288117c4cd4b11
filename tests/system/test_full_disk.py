"""A primary whose disk is full says success to a STOW and keeps nothing: a status proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers.process import wait_for
from tests.peers.small_disk import OrthancOnSmallDisk
from tests.system.callers import new_study, store
from tests.system.conftest import primary_block
from tests.system.site import Answer, Site, request

SIZE_BYTES = 32 * 2**20
NAMED = ("00081199", "00081198")  # ReferencedSOPSequence, FailedSOPSequence


@pytest.fixture
def small(sample_files: list[bytes]) -> Iterator[OrthancOnSmallDisk]:
    with OrthancOnSmallDisk(SIZE_BYTES) as primary:
        for file in sample_files[:10]:
            primary.upload(file)
        yield primary


def stow(port: int, path: str, file: bytes) -> Answer:
    boundary = "a-boundary-that-is-in-no-image-of-ours"
    body = b"".join(
        (
            f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(),
            file,
            f"\r\n--{boundary}--\r\n".encode(),
        )
    )
    return request(
        port,
        "POST",
        path,
        body,
        {
            "content-type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "accept": "application/dicom+json",
        },
    )


def owed(site: Site, question: str = "") -> dict[str, dict[str, Any]]:
    """What the administrator's list says, by SOP instance UID."""
    answer = site.admin("GET", f"/api/owed?limit=1000{question}")
    assert answer.status == 200, answer.body
    return {one["sop_instance_uid"]: one for one in answer.json()["objects"]}


def test_what_a_full_primary_said_success_to_stays_owed_until_there_is_room(
    small: OrthancOnSmallDisk, sample_files: list[bytes]
) -> None:
    with Site(primary_block(small)) as site:
        site.wait_until(lambda s: s["replication"]["coverage_ratio"] == 1.0, "all is replicated")
        small.fill()
        lie, lied_about = new_study(sample_files[0], 1)
        answer = stow(small.web_port, f"{small.dicomweb_path}/studies", lied_about)
        assert answer.status == 200, "this Orthanc does not lie any more: what it says now must be looked at"
        assert not any(answer.json().get(tag, {}).get("Value") for tag in NAMED)
        assert not small.lookup(lie)

        through, file = new_study(sample_files[0], 2)
        taken = stow(site.web_port, f"{small.dicomweb_path}/studies", file)
        assert (taken.status, taken.upstream) == (200, "backup")
        assert through in taken.body.decode()
        straight, file = new_study(sample_files[0], 3)
        assert store(site, file, port=site.archive_dicom_port, called=site.archive_ae_title)

        def was_sent_in_vain() -> bool:
            listed = owed(site)
            assert listed.keys() == {through, straight}, "nothing is taken for paid"
            return sum(one["times_sent"] for one in listed.values()) >= 2

        wait_for(was_sent_in_vain, "the primary was sent both, or one twice", timeout_s=60)
        site.wait_until(lambda s: s["replication"]["lag_objects"] == 2, "both are counted", timeout_s=60)
        assert not small.lookup(through)
        assert not small.lookup(straight)

        small.make_room()
        site.wait_until(lambda s: s["replication"]["lag_objects"] == 0, "the debt is paid", timeout_s=150)
        assert small.lookup(through)
        assert small.lookup(straight)
        assert owed(site) == {}
        assert {through, straight} <= owed(site, "&state=proven").keys()
        site.wait_until(lambda s: s["phase"] == "on_primary", "reads are at the primary", timeout_s=90)
