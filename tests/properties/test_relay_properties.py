"""The relay is transparent: what goes in comes out, on either side, whatever the sizes of PDUs."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from failover.config.schema import ListenDicom
from failover.dicom.dimse import response, store_rq
from failover.dicom.messages import Message
from tests.fakes.upstream import CT, FakeUpstream
from tests.unit.relay.scene import ID, scene
from tests.unit.relay.test_relay_operations import get

sizes = st.sampled_from([4096, 4097, 8192, 16384, 65536])
bodies = st.lists(st.integers(0, 300_000), min_size=1, max_size=4)


@given(sizes, sizes, bodies, st.sampled_from([None, "die", "die_in_data", "die_at_end", 0xA700]))
@settings(max_examples=40, deadline=None)
def test_instances_pass_both_ways(
    caller_pdu: int, relay_pdu: int, lengths: list[int], fault: str | int | None
) -> None:
    instances = {f"1.2.{place}": bytes([place]) * length for place, length in enumerate(lengths)}

    async def pass_through(folder: Path) -> None:
        primary, backup = FakeUpstream("ORTHANC"), FakeUpstream("MINIPACS")
        primary.instances = backup.instances = instances
        listen = ListenDicom(max_pdu_bytes=relay_pdu)
        async with scene(folder, primary=primary, backup=backup, listen=listen) as stage:
            caller = await stage.open(max_pdu_bytes=caller_pdu)
            if fault is not None:
                primary.faults["C-STORE"].append(fault)
            for uid, raw in instances.items():
                await caller.send(ID[CT], store_rq(1, CT, uid), raw)
                message = await caller.receive()
                assert isinstance(message, Message)
                assert message.command.status == 0
            assert {**primary.stored, **backup.stored} == instances
            uids, final = await get(caller)
            assert uids == list(instances)
            assert final.status == 0
            await caller.release()
            assert stage.spool.memory_used_bytes == stage.spool.disk_used_bytes == 0

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(pass_through(Path(folder)))


@given(st.dictionaries(st.integers(0x2000, 0xFFFF), st.binary(max_size=20), max_size=5))
@settings(max_examples=20, deadline=None)
def test_elements_that_we_do_not_know_pass(extra: dict[int, bytes]) -> None:
    async def pass_through(folder: Path) -> None:
        async with scene(folder) as stage:
            caller = await stage.open()
            command = store_rq(1, CT, "1.2.3")
            command = type(command)({**command.elements, **extra})
            await caller.send(ID[CT], command, b"abcd")
            message = await caller.receive()
            assert isinstance(message, Message)
            assert message.command == response(command, 0)
            assert stage.primary.commands[-1] == command
            await caller.release()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(pass_through(Path(folder)))
