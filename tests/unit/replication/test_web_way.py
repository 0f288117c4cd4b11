"""What is said of objects on a web connection that dies: which may be there, and which cannot be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from failover.clients.dicomweb import DicomwebClient
from failover.clients.stored import NOT_SENT
from failover.errors import UpstreamUnreachable
from failover.replication.archive_side import OwedObject
from failover.replication.web_way import WebWay
from tests.peers.process import free_port


def owed(folder: Path, uid: str) -> OwedObject:
    path = folder / f"{uid}.dcm"
    path.write_bytes(bytes(1000))
    return OwedObject(uid, "1.2.1", "1.2", "P1", "1.3", "1.4", path, 0)


async def test_the_first_of_which_bytes_were_sent_may_be_there(tmp_path: Path) -> None:
    """Given a primary that hangs up in the first request: it may have taken that, of the second no byte."""
    asked: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    client = DicomwebClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/dicom-web")
    try:
        answers = await WebWay(client).send([owed(tmp_path, "1.2.3"), owed(tmp_path, "1.2.4")])
    finally:
        await client.close()
        server.close()
    assert len(asked) == 1
    assert answers == {"1.2.4": NOT_SENT}


async def test_when_nobody_is_there_nothing_was_sent(tmp_path: Path) -> None:
    client = DicomwebClient(f"http://127.0.0.1:{free_port()}/dicom-web")
    try:
        with pytest.raises(UpstreamUnreachable):
            await WebWay(client).send([owed(tmp_path, "1.2.3")])
    finally:
        await client.close()
