from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from failover.control import ControlServer, Json, ask, socket_path
from failover.errors import ControlError, ControlUnreachable, NotHeld


async def answers(question: Json) -> Json:
    return {"twice": question["number"] * 2}


async def says_no(_: Json) -> Json:
    raise NotHeld("no such object")


async def has_a_bug(_: Json) -> Json:
    raise RuntimeError("secret detail")


async def never(_: Json) -> Json:
    await asyncio.Event().wait()
    return {}


HANDLERS = {"double": answers, "no": says_no, "bug": has_a_bug, "never": never}


async def test_questions_get_answers_and_refusals(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "archive")
    server = ControlServer(path, HANDLERS)
    await server.start()
    assert await ask(path, "double", {"number": 21}) == {"twice": 42}
    with pytest.raises(ControlError, match="no such object"):
        await ask(path, "no")
    with pytest.raises(ControlError, match="no such method"):
        await ask(path, "unknown")
    with pytest.raises(ControlError, match="internal error: RuntimeError") as caught:
        await ask(path, "bug")
    assert "secret detail" not in str(caught.value)
    with pytest.raises(ControlUnreachable):
        await ask(path, "never", timeout_s=0.05)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    await server.stop()
    with pytest.raises(ControlUnreachable):
        await ask(path, "double", {"number": 1})


async def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "router")
    first = ControlServer(path, HANDLERS)
    await first.start()
    second = ControlServer(path, HANDLERS)
    await second.start()
    assert await ask(path, "double", {"number": 2}) == {"twice": 4}
    await first.stop()
    await second.stop()


async def test_hostile_bytes_end_the_connection_and_nothing_else(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "archive")
    server = ControlServer(path, HANDLERS)
    await server.start()
    for hostile in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x02{]", b"\x00"):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(hostile)
        writer.write_eof()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
    assert await ask(path, "double", {"number": 3}) == {"twice": 6}
    await server.stop()


def test_the_path_is_short_even_where_the_folder_is_long(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    assert len(os.fsencode(socket_path(deep, "archive"))) <= 100
    assert socket_path(deep, "archive") != socket_path(deep / "z", "archive")


async def test_a_socket_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "router")
    path.mkdir(parents=True)  # whatever is there, it is no socket of ours
    with pytest.raises(ControlError, match=r"router\.sock: cannot be listened on: Is a directory"):
        await ControlServer(path, HANDLERS).start()
