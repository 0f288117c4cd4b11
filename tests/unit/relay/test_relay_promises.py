"""What a caller was promised when it came in holds at the other upstream, or is refused there."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from failover.dicom.dimse import find_rq
from failover.dicom.encoding import encode
from failover.dicom.exchange import Association
from failover.dicom.negotiation import LOCAL_LIMIT_EXCEEDED, propose
from failover.dicom.pdu import PduReader
from failover.dicom.requestor import open_association
from failover.dicom.units import AssociateAc, AssociateRq, ExtendedNegotiation, UserInformation, padded_ae
from failover.model import Phase, Verdict
from failover.relay.offer import keeps_promise
from tests.fakes.upstream import FakeUpstream, encoded, study
from tests.unit.relay.scene import ALL, ECHO, ID, STUDY_FIND, STUDY_MOVE, Scene, scene
from tests.unit.relay.test_relay_operations import echo, find

STUDIES = [study(f"1.2.{number}") for number in range(3)]
FUZZY = (ExtendedNegotiation(STUDY_FIND, b"\1\0\1"),)
RELATIONAL = (ExtendedNegotiation(STUDY_FIND, b"\1"),)


async def opened(stage: Scene, extended: tuple[ExtendedNegotiation, ...]) -> Association:
    return await open_association(stage.peer, "CT1", ALL, timeout_s=20, extended=extended)


async def test_the_asynchronous_operations_window_is_left_out(tmp_path: Path) -> None:
    """PS3.7 D.3.3.3: an AC without it means that one operation is under way at a time."""
    user = replace(UserInformation(16384, "1.2.3"), async_window=(8, 8))
    rq = AssociateRq(padded_ae("PACS"), padded_ae("CT1"), propose([ECHO]), user)
    async with scene(tmp_path) as stage, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.peer.address.port)
        writer.write(encode(rq))
        head = await reader.readexactly(6)
        body = await reader.readexactly(int.from_bytes(head[2:], "big"))
        writer.close()
        [ac] = PduReader(65536).receive_data(head + body)
        assert isinstance(ac, AssociateAc)
        assert ac.user.async_window is None
        assert [asked.user.async_window for asked in stage.primary.requests] == [None]


async def test_a_search_that_the_backup_would_match_otherwise_is_refused(tmp_path: Path) -> None:
    backup = FakeUpstream("MINIPACS", matches=STUDIES)
    backup.grants_extended = False
    async with scene(tmp_path, backup=backup) as stage:
        caller = await opened(stage, FUZZY)
        await stage.primary.kill()
        stage.publish(primary=Verdict.DOWN, phase=Phase.ON_BACKUP)
        assert await find(caller, 1) == ([], 0x0122)
        assert await echo(caller, 2) == 0  # the association goes on
        await caller.release()
        again = await opened(stage, FUZZY)  # who opens anew is told that it has no fuzzy matching
        assert again.answer.user.extended == ()
        assert len((await find(again))[0]) == len(STUDIES)
        await again.release()


async def test_a_backup_that_keeps_the_promise_goes_on(tmp_path: Path) -> None:
    backup = FakeUpstream("MINIPACS", matches=STUDIES)
    async with scene(tmp_path, backup=backup) as stage:
        caller = await opened(stage, (*FUZZY, ExtendedNegotiation(STUDY_MOVE, b"\1")))
        await stage.primary.kill()
        assert len((await find(caller))[0]) == len(STUDIES)
        assert stage.backup.requests[0].user.extended == stage.primary.requests[0].user.extended
        await caller.release()


async def test_relational_queries_are_for_the_backup_to_refuse(tmp_path: Path) -> None:
    backup = FakeUpstream("MINIPACS", matches=STUDIES)
    backup.grants_extended = False
    async with scene(tmp_path, backup=backup) as stage:
        caller = await opened(stage, RELATIONAL)
        await stage.primary.kill()
        assert len((await find(caller))[0]) == len(STUDIES)
        await caller.release()


async def test_what_the_primary_did_not_grant_is_not_asked_of_the_backup(tmp_path: Path) -> None:
    primary, backup = FakeUpstream("ORTHANC"), FakeUpstream("MINIPACS", matches=STUDIES)
    primary.grants_extended = False
    async with scene(tmp_path, primary=primary, backup=backup) as stage:
        caller = await opened(stage, FUZZY)
        await stage.primary.kill()
        assert len((await find(caller))[0]) == len(STUDIES)
        assert stage.backup.requests[0].user.extended == ()
        await caller.release()


async def test_in_doubt_such_a_search_waits_for_the_primary(tmp_path: Path) -> None:
    """Given a primary that is suspect and takes nobody for a moment: the backup's refusal does not count."""
    primary, backup = FakeUpstream("ORTHANC", matches=STUDIES), FakeUpstream("MINIPACS")
    backup.grants_extended = False
    async with scene(tmp_path, primary=primary, backup=backup) as stage, asyncio.timeout(20):
        caller = await opened(stage, FUZZY)
        await stage.primary.kill()
        await stage.primary.start()
        stage.primary.rejection = LOCAL_LIMIT_EXCEEDED
        stage.publish(primary=Verdict.SUSPECT)
        await caller.send(ID[STUDY_FIND], find_rq(1, STUDY_FIND), encoded(study("")))
        assert await stage.primary.changed.wait_until(lambda: bool(stage.primary.turned_away), timeout_s=10)
        stage.primary.rejection = None
        uids = []
        while (message := await caller.receive()) is not None and message.has_data_set:
            uids.append(await caller.whole_data_set(1 << 20))
        assert len(uids) == len(STUDIES)
        await caller.release()


@pytest.mark.parametrize(
    ("promised", "granted", "kept"),
    [
        (b"", b"", True),
        (b"\1", b"", True),  # relational queries
        (b"\0\1", b"", False),  # date and time together
        (b"\0\1", b"\1\1", True),
        (b"\1\1\1", b"\1\1\0", False),  # person names that sound alike
        (b"\0\0\0\1", b"\0\0\0", False),  # the time zone
        (b"\0\0\0\0\1", b"", True),
    ],
)
def test_which_promises_count(promised: bytes, granted: bytes, kept: bool) -> None:
    def of(content: bytes, sop_class: str = STUDY_FIND) -> list[ExtendedNegotiation]:
        return [ExtendedNegotiation(sop_class, content)] if content else []

    assert keeps_promise(of(promised), of(granted), STUDY_FIND) is kept
    assert keeps_promise(of(promised), of(granted), "1.2.840.10008.5.1.4.1.1.2")  # of another class
