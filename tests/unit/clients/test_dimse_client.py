"""Our own C-ECHO and C-FIND against an upstream that answers, fails, refuses, is silent or is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvloop

from failover.clients.dimse import STUDY_ROOT_FIND, echo, find
from failover.dicom.negotiation import CALLED_AE_NOT_RECOGNIZED, LOCAL_LIMIT_EXCEEDED
from failover.errors import (
    UpstreamBroke,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from failover.model import Address, AeTitle, DicomPeer
from tests.fakes.upstream import FakeUpstream, study
from tests.peers.process import free_port


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    found = await FakeUpstream("PRIME", matches=[study(f"1.2.{n}") for n in range(50)]).start()
    yield found
    await found.kill()


async def test_echo(upstream: FakeUpstream) -> None:
    await echo(upstream.peer, "ME", timeout_s=10)
    assert upstream.requests[0].calling_ae == "ME"
    assert upstream.requests[0].user.implementation_version == "FAILOVER"


async def test_find(upstream: FakeUpstream) -> None:
    matches = await find(upstream.peer, "ME", STUDY_ROOT_FIND, study(""), timeout_s=10, limit=100)
    assert [match.StudyInstanceUID for match in matches] == [f"1.2.{n}" for n in range(50)]


async def test_find_cancels_beyond_its_limit(upstream: FakeUpstream) -> None:
    upstream.matches *= 100
    matches = await find(upstream.peer, "ME", STUDY_ROOT_FIND, study(""), timeout_s=10, limit=3)
    assert len(matches) == 3
    assert upstream.cancelled == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [(0xA700, UpstreamRefused), ("die", UpstreamBroke), ("abort", UpstreamBroke), ("hang", UpstreamTimeout)],
)
async def test_an_upstream_that_fails(
    upstream: FakeUpstream, fault: str | int, error: type[UpstreamError]
) -> None:
    for name in ("C-ECHO", "C-FIND"):
        upstream.faults[name].append(fault)
    with pytest.raises(error):
        await echo(upstream.peer, "ME", timeout_s=0.5)
    with pytest.raises(error):
        await find(upstream.peer, "ME", STUDY_ROOT_FIND, study(""), timeout_s=0.5, limit=10)


async def test_an_upstream_that_rejects(upstream: FakeUpstream) -> None:
    for rejection, transient in ((LOCAL_LIMIT_EXCEEDED, True), (CALLED_AE_NOT_RECOGNIZED, False)):
        upstream.rejection = rejection
        with pytest.raises(UpstreamRefused) as caught:
            await echo(upstream.peer, "ME", timeout_s=10)
        assert caught.value.transient is transient


async def test_an_upstream_that_takes_no_context(upstream: FakeUpstream) -> None:
    upstream.syntaxes[STUDY_ROOT_FIND] = ()
    with pytest.raises(UpstreamRefused):
        await find(upstream.peer, "ME", STUDY_ROOT_FIND, study(""), timeout_s=10, limit=10)


async def test_an_upstream_that_is_silent_or_gone(upstream: FakeUpstream) -> None:
    upstream.silent_opening = True
    with pytest.raises(UpstreamTimeout, match=r"^no answer within 0\.3 s$|^no A-ASSOCIATE-AC within 0\.3 s$"):
        await echo(upstream.peer, "ME", timeout_s=0.3)
    await upstream.kill()
    with pytest.raises(UpstreamUnreachable, match=f"^connection refused by {upstream.peer.address}$"):
        await echo(upstream.peer, "ME", timeout_s=10)


async def test_the_sentence_is_ours_on_the_fast_loop_too(upstream: FakeUpstream) -> None:
    """asyncio and uvloop word the same refusal differently; an operator reads neither."""
    await upstream.kill()

    async def ask() -> str:
        with pytest.raises(UpstreamUnreachable) as caught:
            await echo(upstream.peer, "ME", timeout_s=10)
        return str(caught.value)

    there = await asyncio.to_thread(uvloop.run, ask())
    assert await ask() == there == f"connection refused by {upstream.peer.address}"


async def test_several_addresses_that_all_fail_are_one_sentence() -> None:
    port = free_port()
    with pytest.raises(
        UpstreamUnreachable, match=f"^(connection refused by|no connection to) localhost:{port}"
    ):
        await echo(DicomPeer(Address("localhost", port), AeTitle("PRIME")), "ME", timeout_s=10)
