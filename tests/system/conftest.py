"""A real Orthanc with the sample studies, and a site before it.

Most tests begin where all is replicated. That is made once; each test starts a primary and a site of its own
on copies of the two folders. What a site does from nothing is shown by those that use `site`.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from failover.app import samples
from failover.archive.paths import INDEX
from failover.clock import SystemClock
from tests.peers.orthanc import Orthanc
from tests.peers.process import wait_for
from tests.system.site import Site


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/system/" in item.nodeid.replace("\\", "/"):
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.timeout(300))


def primary_block(orthanc: Orthanc) -> dict[str, Any]:
    return {
        "web": {"url": orthanc.url},
        "dicomweb": {"path": orthanc.dicomweb_path},
        "dicom": {"host": orthanc.host, "port": orthanc.dicom_port, "ae_title": orthanc.ae_title},
    }


@pytest.fixture(scope="session")
def sample_files() -> list[bytes]:
    today = SystemClock().wall().astimezone().date()
    return [samples.part10(instance) for instance in samples.sample_studies(today)]


@pytest.fixture(scope="session")
def filled(sample_files: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a primary and of an archive that hold the samples; nothing runs on them."""
    kept = tmp_path_factory.mktemp("filled")
    with Orthanc() as primary:
        for file in sample_files:
            primary.upload(file)
        with Site(primary_block(primary)) as site:
            wait_until_replicated(site)
            index = site.folder / "archive" / INDEX
            wait_for(lambda: not_compressed(index) == 0, "the archive is at rest", timeout_s=120)
            assert site.stop() == 0
            shutil.copytree(site.folder / "archive", kept / "archive")
        primary.terminate()
        shutil.copytree(primary.folder, kept / "primary")
    return kept


def not_compressed(index: Path) -> int:
    """How many objects the archive has not looked at yet."""
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True, timeout=30)) as opened:
        (count,) = opened.execute("SELECT count(*) FROM instances WHERE compression IS NULL").fetchone()
    return int(count)


def wait_until_replicated(site: Site) -> None:
    site.wait_until(
        lambda status: (
            status["replication"]["coverage_ratio"] == 1.0 and status["replication"]["pending_to_backup"] == 0
        ),
        "everything is replicated",
        timeout_s=120,
    )


@pytest.fixture
def orthanc(filled: Path) -> Iterator[Orthanc]:
    primary = Orthanc()
    shutil.copytree(filled / "primary", primary.folder, dirs_exist_ok=True)
    with primary:
        yield primary


@pytest.fixture
def site(orthanc: Orthanc) -> Iterator[Site]:
    """A site that knows nothing yet."""
    with Site(primary_block(orthanc)) as running:
        yield running


@pytest.fixture
def replicated_site(orthanc: Orthanc, filled: Path) -> Iterator[Site]:
    """A site whose archive holds all that the primary holds."""
    site = Site(primary_block(orthanc))
    shutil.copytree(filled / "archive", site.folder / "archive")
    with site:
        wait_until_replicated(site)
        yield site
