"""The load of C-MOVE and C-GET: one series after the other is asked for, over one association.

    python -m tests.bench.retrieve_load move PORT CALLED SECONDS SINK
    python -m tests.bench.retrieve_load get PORT CALLED SECONDS

Prints {"done", "failed", "seconds"}, of objects. What a C-MOVE sends goes to the AE title SINK, which
`dicom_ends` makes; what a C-GET sends comes here, and is thrown away.
"""

from __future__ import annotations

import itertools
import json
import sys

import uvloop

from failover.archive.find import STUDY_ROOT
from failover.clock import SystemClock
from failover.dicom.dimse import Command, CommandField, Tag, response
from failover.dicom.exchange import Association
from failover.dicom.identifier import encode
from failover.dicom.negotiation import propose
from failover.dicom.requestor import open_association
from failover.dicom.syntaxes import IMPLICIT_LITTLE
from failover.dicom.units import RoleSelection
from failover.model import Address, AeTitle, DicomPeer
from tests.bench.archive_load import CT, SLICES, series_uid, study_uid


async def retrieve(port: int, called: str, seconds: float, sink: str | None) -> None:
    clock, peer = SystemClock(), DicomPeer(Address("127.0.0.1", port), AeTitle(called))
    model = STUDY_ROOT + ("3" if sink is None else "2")
    roles = [RoleSelection(CT, scu=False, scp=True)] if sink is None else []
    association = await open_association(peer, "LOAD", propose([model, CT]), timeout_s=30, roles=roles)
    keys = {
        0x00080052: {"vr": "CS", "Value": ["SERIES"]},
        0x0020000D: {"vr": "UI", "Value": [study_uid(0)]},
        0x0020000E: {"vr": "UI", "Value": [series_uid(0)]},
    }
    identifier = encode(keys, implicit=association.contexts[1].transfer_syntax == IMPLICIT_LITTLE)
    began_s, done, failed = clock.monotonic(), 0, 0
    for message_id in itertools.cycle(range(1, 65536)):
        await association.send(1, _request(message_id, model, sink), identifier)
        completed = await _completed(association)
        done, failed = done + completed, failed + max(0, SLICES - completed)
        if clock.monotonic() - began_s >= seconds:
            break
    spent_s = clock.monotonic() - began_s
    await association.release()
    sys.stdout.write(json.dumps({"done": done, "failed": failed, "seconds": spent_s}) + "\n")


def _request(message_id: int, model: str, sink: str | None) -> Command:
    field = CommandField.C_GET_RQ if sink is None else CommandField.C_MOVE_RQ
    return Command.make(
        field,
        {
            Tag.AFFECTED_SOP_CLASS_UID: model,
            Tag.MESSAGE_ID: message_id,
            Tag.PRIORITY: 0,
            Tag.DATA_SET_TYPE: 0x0001,
            Tag.MOVE_DESTINATION: sink,
        },
    )


async def _completed(association: Association) -> int:
    """Take what is sent until the retrieval is over; return how many objects arrived."""
    while (message := await association.receive()) is not None:
        if not message.command.is_response:
            await association.skip_data_set()
            await association.send(message.context_id, response(message.command, 0))
        elif message.command.status not in (0xFF00, 0xFF01):
            return message.command.number(Tag.COMPLETED) or 0
    raise AssertionError("the association is over")


def main() -> None:
    work, port, called, seconds, *sink = sys.argv[1:]
    uvloop.run(retrieve(int(port), called, float(seconds), sink[0] if work == "move" else None))


if __name__ == "__main__":
    main()
