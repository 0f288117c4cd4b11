"""The malformed corpus by C-STORE: a status for each in bounded time; what was acknowledged is there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from failover.dicom.dimse import Command, Status, store_rq
from failover.dicom.part10 import FileMeta, read_head
from failover.dicom.requestor import open_association
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.dicom.units import ProposedContext
from failover.errors import UnreadableDataSet
from failover.model import Address, AeTitle, DicomPeer
from tests.integration.archive_stage import AE_TITLE, Stage, an_archive
from tests.integration.malformed import corpus, seeds

pytestmark = pytest.mark.integration

COUNT = int(os.environ.get("FAILOVER_CORPUS", "160"))
SEED = int(os.environ.get("FAILOVER_CORPUS_SEED", "1"))
# The machine may be busy; what takes longer hangs.
ANSWERED_WITHIN_S = 30.0
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DUPLICATE = 0x0111
FINE = {Status.SUCCESS, Status.IDENTIFIER_DOES_NOT_MATCH, Status.CANNOT_UNDERSTAND, DUPLICATE}


def head_of(raw: bytes) -> FileMeta | None:
    try:
        return read_head(raw)
    except UnreadableDataSet:
        return None


def syntaxes() -> list[str]:
    """Return the transfer syntaxes of the real files; what is malformed is sent under one of them."""
    heads = [head_of(raw) for raw in seeds()]
    return sorted({EXPLICIT_LITTLE, IMPLICIT_LITTLE, *(head.transfer_syntax_uid for head in heads if head)})


async def send(stage: Stage, contents: list[bytes]) -> list[tuple[int, FileMeta]]:
    """Store these on one association; return status and head of each that has a head at all."""
    context_of = {syntax: 2 * place + 1 for place, syntax in enumerate(syntaxes())}
    contexts = [ProposedContext(at, SECONDARY_CAPTURE, (syntax,)) for syntax, at in context_of.items()]
    peer = DicomPeer(Address("127.0.0.1", stage.port), AeTitle(AE_TITLE))
    association = await open_association(peer, "MODALITY", contexts, timeout_s=30)
    statuses: list[tuple[int, FileMeta]] = []
    for number, raw in enumerate(contents, 1):
        head = head_of(raw)
        if head is None:
            continue  # a modality sends no file: what breaks the file's head alone cannot come this way
        context = context_of.get(head.transfer_syntax_uid, context_of[EXPLICIT_LITTLE])
        command: Command = store_rq(number, head.sop_class_uid, head.sop_instance_uid)
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            await association.send(context, command, raw[head.data_set_offset :])
            answer = await association.receive()
        assert answer is not None
        assert answer.command.status is not None
        statuses.append((answer.command.status, head))
    await association.release()
    return statuses


async def test_a_corpus_gets_a_status_each_and_the_association_lives(tmp_path: Path) -> None:
    async with an_archive(tmp_path) as stage:
        await send(stage, seeds()[:20])  # so that memory is compared with that of an archive that has worked
        before_bytes = psutil.Process().memory_info().rss
        statuses = await send(stage, list(corpus(COUNT, SEED)))
        assert {status for status, _ in statuses} <= FINE
        good = {head.sop_instance_uid for status, head in statuses if status == Status.SUCCESS}
        assert len(good) > COUNT // 10
        assert len(statuses) - len(good) > COUNT // 10
        listed = await stage.ask("ledger.list", {"states": ["owed", "sent"], "limit": 10_000})
        assert good <= {entry["sop_instance_uid"] for entry in listed["objects"]}
        assert stage.half_received() == []
        assert psutil.Process().memory_info().rss - before_bytes < 64 * 2**20
