"""Sub-operations: how the bytes of an object get on the association."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from failover.archive import sending
from failover.archive.decoders import Decoders
from failover.dicom.dimse import Command, Status, response
from failover.dicom.exchange import Association
from failover.dicom.messages import Message
from failover.dicom.negotiation import AcceptedContext
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import CT, an_object, uid

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


class Peer:
    """An association whose peer takes everything."""

    def __init__(self) -> None:
        self.contexts = {1: AcceptedContext(1, CT, EXPLICIT_LITTLE)}
        self.took = b""
        self._command: Command | None = None

    async def send_parts(self, context_id: int, command: Command, parts: AsyncIterator[bytes]) -> None:
        self._command = command
        async for part in parts:
            self.took += part

    async def receive(self) -> Message:
        assert self._command is not None
        return Message(1, response(self._command, 0), has_data_set=False)


async def send(room: Room, peer: Peer) -> int:
    (held,) = room.index.instances(study=uid(1))
    return await sending.send(cast(Association, peer), held, 1, cast(Decoders, None), we_are_acceptor=False)


def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Callable[..., Any], *_arguments: object) -> None:
        raise AssertionError(f"a thread for {function}")

    monkeypatch.setattr(asyncio, "to_thread", refuse)


async def test_what_the_system_has_in_memory_is_sent_without_a_thread(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = an_object(PixelData=bytes(600_000))
    await room.store(content)
    peer = Peer()
    (held,) = room.index.instances(study=uid(1))
    held.path.read_bytes()
    no_thread(monkeypatch)
    assert await send(room, peer) == Status.SUCCESS
    assert content.endswith(peer.took)
    assert len(peer.took) > 600_000


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")])
async def test_a_file_that_cannot_be_read_fails_alone(room: Room, damage: Callable[[Path], object]) -> None:
    await room.store(an_object())
    (held,) = room.index.instances(study=uid(1))
    damage(held.path)
    peer = Peer()
    assert await send(room, peer) == Status.PROCESSING_FAILURE
    assert peer.took == b""
