"""A real Orthanc with the sample studies, and a site before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from failover.app import samples
from failover.clock import SystemClock
from tests.peers.orthanc import Orthanc
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


@pytest.fixture
def orthanc(sample_files: list[bytes]) -> Iterator[Orthanc]:
    with Orthanc() as primary:
        for file in sample_files:
            primary.upload(file)
        yield primary


@pytest.fixture
def site(orthanc: Orthanc) -> Iterator[Site]:
    with Site(primary_block(orthanc)) as running:
        yield running


@pytest.fixture
def replicated_site(site: Site) -> Site:
    """A site whose archive holds all that the primary holds."""
    site.wait_until(
        lambda status: (
            status["replication"]["coverage_ratio"] == 1.0 and status["replication"]["pending_to_backup"] == 0
        ),
        "everything is replicated",
        timeout_s=120,
    )
    return site
