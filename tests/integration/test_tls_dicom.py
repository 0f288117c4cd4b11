"""DICOM TLS (PS3.15 B.12): DCMTK's tools as modality and as primary, the relay between them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from failover.clients import dimse
from failover.clients.dimse_bulk import DimseBulk, Outgoing
from failover.clock import SystemClock
from failover.errors import UpstreamError, UpstreamUnreachable
from failover.model import AeTitle, ClientTls, DicomPeer
from failover.tls import ServerIdentity
from tests.fakes.upstream import FakeUpstream
from tests.integration.relay_stage import BACKUP, PRIMARY, Stage, peer, samples, stage
from tests.peers.authority import Authority, Issued
from tests.peers.storescp import Storescp

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def relay_with_tls(
    authority: Authority, folder: Path, primary: DicomPeer | None = None
) -> AsyncIterator[tuple[Stage, FakeUpstream, FakeUpstream]]:
    """A mutual TLS port beside the plain one; the upstreams are fakes unless a primary is given."""
    one, two = await FakeUpstream("PRIME").start(), await FakeUpstream("BACK").start()
    identity = ServerIdentity("dicom", authority.server(client_ca=authority.ca_file), SystemClock())
    try:
        async with stage({PRIMARY: primary or one.peer, BACKUP: two.peer}, folder, identity) as on:
            yield on, one, two
    finally:
        await one.kill()
        await two.kill()


def tls_of(modality: Issued, ca_file: Path) -> list[str]:
    return ["--enable-tls", str(modality.key), str(modality.cert), "--add-cert-file", str(ca_file)]


async def test_a_modality_with_a_certificate_echoes_and_stores(authority: Authority, tmp_path: Path) -> None:
    files = samples(tmp_path / "in", 4)
    async with relay_with_tls(authority, tmp_path) as (on, primary, _):
        options = tls_of(authority.issue("ct1"), authority.ca_file)
        address = ("127.0.0.1", str(on.tls_port))
        code, said = await on.run("echoscu", *options, *address)
        assert code == 0, said
        code, said = await on.run("storescu", *options, *address, *map(str, files))
        assert code == 0, said
        assert len(primary.stored) == 4
        code, said = await on.run("echoscu", *on.address)
        assert code == 0, "the plain port goes on beside it: " + said


async def test_who_has_no_certificate_of_ours_gets_none(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    async with relay_with_tls(authority, tmp_path) as (on, primary, _):
        address = ("127.0.0.1", str(on.tls_port))
        for options in (
            tls_of(stranger.issue("ct1"), authority.ca_file),
            ["--anonymous-tls", "--add-cert-file", str(authority.ca_file)],
            [],
        ):
            code, said = await on.run("echoscu", *options, *address, "--timeout", "20", "-ta", "20")
            assert code != 0, said
        assert primary.requests == []
        assert on.relay.acceptor.associations == 0


async def test_a_modality_that_does_not_believe_us_goes(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    async with relay_with_tls(authority, tmp_path) as (on, primary, _):
        code, said = await on.run(
            "echoscu", *tls_of(authority.issue("ct1"), other.ca_file), "127.0.0.1", str(on.tls_port)
        )
        assert code != 0, said
        assert primary.requests == []


async def test_plain_dicom_on_the_tls_port_is_closed_at_once(authority: Authority, tmp_path: Path) -> None:
    async with relay_with_tls(authority, tmp_path) as (on, _, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", on.tls_port)
        writer.write(b"\x01\x00\x00\x00\x00\x44" + bytes(68))
        assert await asyncio.wait_for(reader.read(), 30) == b"", "closed, and not a byte of DICOM"
        writer.close()


async def test_the_association_goes_on_at_the_backup_under_tls(authority: Authority, tmp_path: Path) -> None:
    async with relay_with_tls(authority, tmp_path) as (on, primary, backup):
        primary.faults["C-ECHO"].extend(["die"])
        caller = replace(peer(on.tls_port, "PACS"), tls=authority.client("ct1"))
        await dimse.echo(caller, "CT1", timeout_s=30)
        assert primary.asked == ["C-ECHO"]
        assert backup.asked == ["C-ECHO"]


async def test_an_attack_with_half_handshakes_keeps_no_modality_out(
    authority: Authority, tmp_path: Path
) -> None:
    async with relay_with_tls(authority, tmp_path) as (on, _, _):
        idle = [socket.create_connection(("127.0.0.1", on.tls_port)) for _ in range(120)]
        for each in idle[::2]:
            each.sendall(b"\x16\x03\x01")
        await dimse.echo(replace(peer(on.tls_port, "PACS"), tls=authority.client("ct1")), "CT1", timeout_s=30)
        for each in idle:
            each.close()


@asynccontextmanager
async def storescp_with_tls(authority: Authority) -> AsyncIterator[Storescp]:
    issued = authority.issue("pacs")
    options = ["--enable-tls", str(issued.key), str(issued.cert), "--add-cert-file", str(authority.ca_file)]
    pacs = Storescp(ae_title="PRIME", options=options)
    await asyncio.to_thread(pacs.start)
    try:
        yield pacs
    finally:
        await asyncio.to_thread(pacs.close)


async def test_a_primary_with_mutual_tls_gets_stores_and_probes(authority: Authority, tmp_path: Path) -> None:
    files = samples(tmp_path / "in", 3)
    async with storescp_with_tls(authority) as pacs:
        primary = replace(peer(pacs.dicom_port, "PRIME"), tls=authority.client("router"))
        await dimse.echo(primary, "PACS", timeout_s=30)
        async with relay_with_tls(authority, tmp_path, primary) as (on, _, _):
            code, said = await on.run("storescu", *on.address, *map(str, files))
            assert code == 0, said
        assert len(pacs.files()) == 3


async def test_a_primary_that_is_not_believed_is_unreachable(authority: Authority, tmp_path: Path) -> None:
    async with storescp_with_tls(authority) as pacs:
        there = peer(pacs.dicom_port, "PRIME")
        other = Authority(tmp_path / "other")
        mine = authority.client("router")
        for tls in (
            replace(mine, ca_file=other.ca_file),
            replace(mine, server_name="other.example.org"),
        ):
            with pytest.raises(UpstreamUnreachable, match="certificate verify failed"):
                await dimse.echo(replace(there, tls=tls), "PACS", timeout_s=30)
        for refused in (None, ClientTls(ca_file=authority.ca_file)):  # plain; without a certificate of ours
            with pytest.raises(UpstreamError):
                await dimse.echo(replace(there, tls=refused), "PACS", timeout_s=30)
        await dimse.echo(replace(there, tls=replace(mine, verify=False)), "PACS", timeout_s=30)


async def test_the_replicators_stores_go_by_tls_too(authority: Authority, tmp_path: Path) -> None:
    path = samples(tmp_path / "in", 1)[0]
    async with storescp_with_tls(authority) as pacs:
        primary = replace(peer(pacs.dicom_port, "PRIME"), tls=authority.client("router"))
        bulk = DimseBulk(primary, AeTitle("PACS"))
        try:
            file = dcmread(path)
            syntax = file.file_meta.TransferSyntaxUID
            sent = Outgoing(path, str(file.SOPClassUID), str(file.SOPInstanceUID), syntax)
            said = await bulk.store([sent])
        finally:
            await bulk.close()
        assert [each.accepted for each in said.values()] == [True]
        assert len(pacs.files()) == 1
