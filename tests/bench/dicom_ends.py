"""Both ends of a DICOM benchmark, each a process of its own: an SCP that throws away, an SCU that stores.

    python -m tests.bench.dicom_ends sink PORT
    python -m tests.bench.dicom_ends load PORT CALLED ASSOCIATIONS SECONDS BYTES
    python -m tests.bench.dicom_ends open PORT CALLED SECONDS

`load` stores the same instance again and again under new SOP instance UIDs and prints {"stores", "failed",
"seconds"}; `open` opens and releases associations with one C-ECHO each: {"associations", "seconds"}.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys

import uvloop

from failover.app.listeners import bind
from failover.clock import SystemClock
from failover.dicom.acceptor import Acceptor, Limits
from failover.dicom.dimse import Command, echo_rq, response, store_rq
from failover.dicom.exchange import Association
from failover.dicom.negotiation import VERIFICATION, choose_contexts, propose
from failover.dicom.requestor import open_association
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from failover.dicom.units import AssociateRq, ContextResult
from failover.model import Address, AeTitle, DicomPeer

CT = "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES = (EXPLICIT_LITTLE, "1.2.840.10008.1.2")


async def sink(port: int) -> None:
    def accept(rq: AssociateRq) -> list[ContextResult]:
        return choose_contexts(rq, lambda _: SYNTAXES)

    async def serve(association: Association) -> None:
        while (message := await association.receive()) is not None:
            async for _ in association.data_set():
                pass
            await association.send(message.context_id, answer_to(message.command))

    limits = Limits(max_associations=2000, max_per_address=2000, max_per_ae_title=2000)
    acceptor = Acceptor(limits, lambda _rq, _host: None, accept, serve, SystemClock())
    await acceptor.start(bind("sink", "127.0.0.1", port))
    await asyncio.Event().wait()


def answer_to(command: Command) -> Command:
    return response(command, 0)


async def load(port: int, called: str, associations: int, seconds: float, size: int) -> None:
    clock = SystemClock()
    peer = DicomPeer(Address("127.0.0.1", port), AeTitle(called))
    data_set = os.urandom(size)
    numbers = itertools.count(1)
    counted = {"stores": 0, "failed": 0}
    began_s = clock.monotonic()

    async def one(name: str) -> None:
        association = await open_association(peer, name, propose([CT]), timeout_s=30)
        while clock.monotonic() - began_s < seconds:
            number = next(numbers)
            await association.send(1, store_rq(number % 65535 or 1, CT, f"2.25.{number}"), data_set)
            answer = await association.receive()
            good = answer is not None and answer.command.status == 0
            counted["stores" if good else "failed"] += 1
        await association.release()

    async with asyncio.TaskGroup() as group:
        for number in range(associations):
            group.create_task(one(f"LOAD{number}"))  # the group keeps and awaits it
    sys.stdout.write(json.dumps({**counted, "seconds": clock.monotonic() - began_s}) + "\n")


async def open_and_echo(port: int, called: str, seconds: float) -> None:
    clock = SystemClock()
    peer = DicomPeer(Address("127.0.0.1", port), AeTitle(called))
    began_s, count = clock.monotonic(), 0
    while clock.monotonic() - began_s < seconds:
        association = await open_association(peer, "LOAD", propose([VERIFICATION]), timeout_s=30)
        await association.send(1, echo_rq(1))
        await association.receive()
        await association.release()
        count += 1
    sys.stdout.write(json.dumps({"associations": count, "seconds": clock.monotonic() - began_s}) + "\n")


def main() -> None:
    end, port, *rest = sys.argv[1:]
    if end == "sink":
        uvloop.run(sink(int(port)))
    elif end == "load":
        uvloop.run(load(int(port), rest[0], int(rest[1]), float(rest[2]), int(rest[3])))
    else:
        uvloop.run(open_and_echo(int(port), rest[0], float(rest[1])))


if __name__ == "__main__":
    main()
