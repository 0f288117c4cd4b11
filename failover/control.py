"""The private channel between our own processes: questions and answers in JSON over a Unix socket.

A frame is four bytes of length (big-endian) and that many bytes of JSON. One connection carries one question
after the other, or becomes a `Line`, on which both sides speak unasked. The folder of the sockets belongs to
us alone (0700), so whoever can connect is one of us.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from failover.durable import NO_ROOM, make_folder
from failover.errors import ControlError, ControlUnreachable, FailoverError, StorageError

_log = structlog.get_logger(__name__)
_LENGTH: Final = struct.Struct(">I")
# A frame beyond this is a bug of ours: objects travel as files, only facts travel here.
_MAX_FRAME_BYTES: Final = 64 * 2**20
# sun_path holds 108 bytes, less on other systems.
_MAX_SOCKET_PATH: Final = 100

# What a peer on a line may leave unread: one that reads nothing is stopped or hung, and is cut off.
_MAX_UNREAD_BYTES: Final = 4 * 2**20
# The disk takes nothing: it is full, or read-only, as a file system becomes that found errors. Not EACCES:
# whoever starts us as the wrong user is told so, rather than listened to where nobody asks.
_NOT_WRITABLE: Final = (*NO_ROOM, errno.EROFS, errno.EIO)

Json = dict[str, Any]
Handler = Callable[[Json], Awaitable[Json]]


class Line:
    """A connection that stays: each side sends frames when it has something to say."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, content: Json) -> None:
        """Send at once, in order. On a line that has ended nothing happens: `receive` says so."""
        if self._writer.is_closing():
            return
        self._writer.write(_frame(content))
        if self._writer.transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self._writer.transport.abort()

    async def receive(self) -> Json:
        """Return the next frame. Raises ControlUnreachable when the line has ended."""
        try:
            return await _read_frame(self._reader)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ControlUnreachable(f"the line ended: {type(error).__name__}") from error

    def close(self) -> None:
        self._writer.close()


LineHandler = Callable[[Line, Json], Awaitable[None]]


def socket_path(state_dir: Path, component: str) -> Path:
    """Return where `component` listens: router, archive, replicator. Short even where `state_dir` is long."""
    direct = state_dir / "control" / f"{component}.sock"
    if len(os.fsencode(direct)) <= _MAX_SOCKET_PATH:
        return direct
    return _elsewhere(direct)


def _elsewhere(path: Path) -> Path:
    """Return where a socket is that cannot be at `path`: too long, or on a disk that cannot be written."""
    state_dir = path.parent.parent
    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"failover-{os.getuid()}-{digest}" / path.name


class ControlServer:
    """Answers the questions in `handlers`. A handler may raise FailoverError: the asker gets its message.

    A question named in `lines` makes its connection a line, which lasts as long as its handler runs.
    """

    def __init__(
        self, path: Path, handlers: Mapping[str, Handler], lines: Mapping[str, LineHandler] | None = None
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._lines = lines or {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen; a socket left by a killed process is replaced. Raises ControlError, StorageError.

        Where the disk of `path` cannot be written, in a folder of ours for temporary files: `ask` looks there
        too. A full disk must keep none of us from hearing the others.
        """
        try:
            await self._listen(self._path)
        except (ControlError, StorageError) as error:
            elsewhere = _elsewhere(self._path)
            if elsewhere == self._path or getattr(error.__cause__, "errno", None) not in _NOT_WRITABLE:
                raise
            _log.error("control socket elsewhere: its folder cannot be written", error=str(error))
            await self._listen(elsewhere)

    async def _listen(self, path: Path) -> None:
        folder = path.parent
        make_folder(folder)
        try:
            if folder.stat().st_uid != os.getuid():
                raise ControlError(f"{folder} belongs to another user")
            if folder.stat().st_mode & 0o777 != 0o700:
                folder.chmod(0o700)
            await asyncio.to_thread(path.unlink, missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, path=str(path))
        except OSError as error:
            raise ControlError(f"{path}: cannot be listened on: {error.strerror}") from error

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._connections):
                writer.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                try:
                    question = await _read_frame(reader)
                except asyncio.IncompleteReadError:
                    return
                on_line = self._lines.get(str(question.get("method")))
                if on_line is not None:
                    await on_line(Line(reader, writer), question.get("params") or {})
                    return
                writer.write(_frame(await self._answer(question)))
                await writer.drain()
        except (ConnectionError, ControlError) as error:
            _log.warning("control connection ended", error=str(error))
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, question: Json) -> Json:
        handler = self._handlers.get(str(question.get("method")))
        if handler is None:
            return {"error": f"no such method: {question.get('method')}"}
        try:
            return {"result": await handler(question.get("params") or {})}
        except FailoverError as error:
            return {"error": str(error), "kind": type(error).__name__}
        except Exception as error:
            # The asker must get an answer, and the asked must live on; the log has the trace.
            _log.exception("control handler failed", method=question.get("method"))
            return {"error": f"internal error: {type(error).__name__}"}


async def ask(path: Path, method: str, params: Json | None = None, *, timeout_s: float = 5.0) -> Json:
    """Ask the process that listens at `path`; return its result.

    Raises ControlUnreachable when it is not there or gives no answer within `timeout_s` seconds, ControlError
    when it says no.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connect(path)
            try:
                writer.write(_frame({"method": method, "params": params or {}}))
                await writer.drain()
                answer = await _read_frame(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise ControlUnreachable(f"{path.stem} does not answer: {type(error).__name__}") from error
    if "error" in answer:
        raise ControlError(str(answer["error"]))
    result: Json = answer["result"]
    return result


async def join(path: Path, method: str, params: Json, *, timeout_s: float = 5.0) -> Line:
    """Open a line to the process that listens at `path`. Raises ControlUnreachable when it is not there."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connect(path)
    except (OSError, TimeoutError) as error:
        raise ControlUnreachable(f"{path.stem} does not answer: {type(error).__name__}") from error
    line = Line(reader, writer)
    line.send({"method": method, "params": params})
    return line


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_unix_connection(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        elsewhere = _elsewhere(path)
        # Folders for temporary files are everyone's: another user's socket is not asked.
        if elsewhere == path or not elsewhere.exists() or elsewhere.parent.stat().st_uid != os.getuid():
            raise
        return await asyncio.open_unix_connection(str(elsewhere))


def _frame(content: Json) -> bytes:
    encoded = json.dumps(content, separators=(",", ":")).encode()
    return _LENGTH.pack(len(encoded)) + encoded


async def _read_frame(reader: asyncio.StreamReader) -> Json:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > _MAX_FRAME_BYTES:
        raise ControlError(f"a frame of {length} bytes")
    frame = await reader.readexactly(length)
    try:
        content = json.loads(frame)
    except ValueError as error:
        raise ControlError("a frame that is no JSON") from error
    if not isinstance(content, dict):
        raise ControlError("a frame that is no object")
    return content
