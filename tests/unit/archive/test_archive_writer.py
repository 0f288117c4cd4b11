"""The one thread that writes the index goes on, whoever gives up waiting for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Event

from failover.aio import cancel_and_wait, spawn
from failover.archive.index import Index
from failover.archive.writer import Transaction


async def test_who_gives_up_waiting_does_not_end_the_writing(tmp_path: Path) -> None:
    """A store whose association was ended, in the middle of its transaction and while it waited for one."""
    index = Index(tmp_path, has_primary=True)
    began, may_end = Event(), Event()
    done: list[str] = []

    def slow(_: Transaction) -> None:
        began.set()
        may_end.wait(20)
        done.append("under way")

    async with asyncio.timeout(30):
        under_way = spawn(index.write(slow), name="under way")
        await asyncio.to_thread(began.wait, 20)
        waiting = asyncio.wrap_future(index._writer.submit(lambda _: done.append("waiting")))
        waiting.cancel()
        await cancel_and_wait(under_way)
        may_end.set()
        await index.write(lambda _: done.append("next"))
    assert done == ["under way", "next"]
    index.close()
