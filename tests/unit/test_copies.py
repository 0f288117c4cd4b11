"""Copies on the way to the backup: none is left waiting because those who send them have just ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from failover.clock import SystemClock
from failover.dicom.dimse import store_rq
from failover.dicom.exchange import Association
from failover.metrics import RouterMetrics
from failover.model import Address, AeTitle, DicomPeer
from failover.proxy.copies import WebCopies, WebCopy
from failover.relay import copies as dicom_copies
from failover.relay.copies import Copies, DicomCopy
from failover.relay.offer import Proposal
from failover.spool import KeptBody, Spool


def kept(tmp_path: Path) -> KeptBody:
    body = Spool(tmp_path).open()
    body.append(b"x")
    return body


class WebCopiesAtOnce(WebCopies):
    async def _stored(self, copy: WebCopy) -> bool:
        return True


async def test_a_store_in_the_moment_in_which_a_lane_ends_is_copied(tmp_path: Path) -> None:
    metrics = RouterMetrics(CollectorRegistry())
    copies = WebCopiesAtOnce("http://127.0.0.1:1", None, metrics, tee=True, processes=2)
    for _ in range(3):
        copy = copies.offer(kept(tmp_path), "/studies", "multipart/related")
        assert copy is not None
        await copy.wait()  # whoever waited for it goes on in the very turn in which the lane has ended
        assert copy.over
    await copies.stop()


class Backup:
    """An association at a backup that does not answer A-RELEASE."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def release(self, timeout_s: float = 2.0) -> None:
        self.left.set()
        await asyncio.Event().wait()

    def release_unawaited(self, gone: Callable[[], None], timeout_s: float = 2.0) -> None:
        self.left.set()

    def abort(self, why: str) -> None:
        self.left.set()


class CopiesAtOnce(Copies):
    """Sends nothing: each lane has an association at `backup`."""

    backup: Backup

    async def _send(self, lane: Any, copy: DicomCopy) -> Any:
        self._waiting.end(copy, is_there=True)
        return dicom_copies._Lane(cast(Association, self.backup), copy.proposal, None, 0.0)


async def test_a_store_while_the_lanes_release_their_associations_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_copies, "_IDLE_S", 0.0)
    monkeypatch.setattr(dicom_copies, "_LANES", 1)
    metrics, peer = RouterMetrics(CollectorRegistry()), DicomPeer(Address("127.0.0.1", 1), AeTitle("BACKUP"))
    copies = CopiesAtOnce(peer, None, metrics, SystemClock(), tee=True, max_pdu_bytes=65536)
    proposal = Proposal(b"MODALITY".ljust(16), (), (), (), (), None)
    for _ in range(2):
        copies.backup = Backup()
        copy = copies.offer(kept(tmp_path), proposal, 1, store_rq(1, "1.2", "1.3"))
        assert copy is not None
        await copy.wait()
        assert copy.over
        async with asyncio.timeout(20):
            await copies.backup.left.wait()
    await copies.stop()
