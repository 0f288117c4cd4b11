"""The copy on the way by STOW: the exam on the table when the primary dies is in the archive, no debt."""

from __future__ import annotations

import sqlite3

from failover.archive.paths import INDEX
from tests.bench.outage.stage import stow
from tests.peers.process import wait_for
from tests.system.callers import new_study
from tests.system.site import Site, request


def origins(site: Site) -> dict[str, str]:
    """How each object came into the archive, by SOP instance UID."""
    with sqlite3.connect(f"file:{site.folder / 'archive' / INDEX}?mode=ro", uri=True) as index:
        return dict(index.execute("SELECT uid, origin FROM instances"))


def test_a_stow_to_the_primary_is_in_the_archive_at_once_and_is_no_debt(
    replicated_site: Site, sample_files: list[bytes]
) -> None:
    site = replicated_site
    uid, file = new_study(sample_files[0], 500)
    head, body = stow(file)
    answered = site.web("POST", "/dicom-web/studies", body, **head)
    assert (answered.status, answered.upstream) == (200, "primary")
    wait_for(lambda: uid in origins(site), "the copy is in the archive", timeout_s=60)
    assert origins(site)[uid] in ("copied", "replicated")
    assert site.status()["replication"]["lag_objects"] == 0
    counted = site.admin("GET", "/metrics").body.decode()
    assert 'failover_http_copies_total{result="copied"} 1.0' in counted


def test_who_only_says_that_it_is_a_copy_leaves_a_debt(
    replicated_site: Site, sample_files: list[bytes]
) -> None:
    site = replicated_site
    uid, file = new_study(sample_files[0], 501)
    head, body = stow(file)
    head["X-Failover-Copy"] = "0123456789abcdef"
    answered = request(site.archive_web_port, "POST", "/dicom-web/studies", body, head)
    assert answered.status == 200
    assert origins(site)[uid] == "caller"
