"""Processes that decode, started when first needed, killed when they take too long, replaced when they die.

The archive itself never looks at pixels: what a codec does to hostile bytes it does to a process that holds
nothing and may be killed. What is asked and answered on the pipes is written in `decoder`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from failover.archive.codecs import Undecodable
from failover.archive.compressing import ALIVE, Original
from failover.archive.decoder import BACKGROUND, END, HEAD, LENGTH, PIECE, REFUSED, TOLD
from failover.archive.rendering import View
from failover.errors import DiskFull

_log = structlog.get_logger(__name__)
# A decoder that gives no further piece for so long is killed: the frame is refused.
PIECE_TIMEOUT_S: Final = 20.0
# Pictures made last, so that a viewer that comes back to a slice costs nothing; the oldest go first.
PICTURE_CACHE_BYTES: Final = 32 * 2**20
_ERRORS: Final[dict[str, type[Exception]]] = {
    kind.__name__: kind for kind in (DiskFull, FileNotFoundError, *TOLD)
}


@dataclass(eq=False, slots=True)
class _Worker:
    """A process. `is_free`: its last answer was read to the end, so that it may be asked again."""

    process: asyncio.subprocess.Process
    is_free: bool = True


class Decoders:
    """At most `workers` answers are made at once; more wait. One per process of ours; `close` it last."""

    def __init__(
        self, workers: int = 2, *, timeout_s: float = PIECE_TIMEOUT_S, background: bool = False
    ) -> None:
        """`background`: processes of the lowest priority."""
        self._background = background
        self._free = asyncio.Semaphore(workers)
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._timeout_s = timeout_s
        self._pictures: OrderedDict[tuple[Path, int, View], bytes] = OrderedDict()
        self._pictures_bytes = 0

    async def start_one(self) -> None:
        """Have a process ready before the first question, which would wait half a second for its imports."""
        self._idle.append(_Worker(await _start(background=self._background)))

    async def close(self) -> None:
        """Kill the processes and wait for their ends."""
        for worker in [*self._idle, *self._busy]:
            await _kill(worker.process)
        self._idle.clear()

    async def picture(self, path: Path, frame: int, view: View) -> bytes:
        """Return frame `frame` (from 1) as a picture.

        This and all others raise NoPixels, NoSuchFrame, UnreadableDataSet, Undecodable, FileNotFoundError.
        """
        key = (path, frame, view)
        if (known := self._pictures.get(key)) is not None:
            self._pictures.move_to_end(key)
            return known
        made = await self._whole(work="picture", path=str(path), frame=frame, view=asdict(view))
        if key not in self._pictures and len(made) <= PICTURE_CACHE_BYTES // 8:
            self._pictures[key] = made
            self._pictures_bytes += len(made)
            while self._pictures_bytes > PICTURE_CACHE_BYTES:
                self._pictures_bytes -= len(self._pictures.popitem(last=False)[1])
        return made

    async def animation(self, path: Path, frames: list[int], view: View) -> bytes:
        """Return frames (from 1) as one GIF that plays."""
        return await self._whole(work="animation", path=str(path), frames=frames, view=asdict(view))

    async def report(self, path: Path, media_type: str) -> bytes:
        """Return a structured report for people, in UTF-8."""
        return await self._whole(work="report", path=str(path), media_type=media_type)

    @contextlib.asynccontextmanager
    async def frame(self, path: Path, number: int, *, decoded: bool) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give a frame in pieces, as stored or `decoded` (little endian, interleaved)."""
        async with self._asked(work="frame", path=str(path), frame=number, decoded=decoded) as pieces:
            yield pieces

    @contextlib.asynccontextmanager
    async def data_set(self, path: Path, transfer_syntax: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give the data set of the object at `path` in another transfer syntax, in pieces."""
        async with self._asked(work="data set", path=str(path), syntax=transfer_syntax) as pieces:
            yield pieces

    async def number_of_frames(self, path: Path) -> int:
        return int(await self._whole(work="frames", path=str(path)))

    async def metadata(self, path: Path) -> bytes:
        """Return the finished DICOM JSON of the object, with the mark for its URL (see `metadata`)."""
        return await self._whole(work="metadata", path=str(path))

    async def value(self, path: Path, at: str) -> bytes:
        """Return one binary value. Raises NoSuchFrame where there is none."""
        return await self._whole(work="value", path=str(path), at=at)

    async def compressed(self, path: Path, target: Path, transfer_syntax: str) -> dict[str, Any]:
        """Write the object compressed to `target`; return what `compressing.compress` says."""
        return _outcome(
            await self._whole(work="compress", path=str(path), target=str(target), syntax=transfer_syntax)
        )

    async def restored(self, path: Path, target: Path, original: Original) -> dict[str, Any]:
        """Write the object as it came to `target`; return what `compressing.restore` says."""
        return _outcome(
            await self._whole(work="restore", path=str(path), target=str(target), original=asdict(original))
        )

    async def _whole(self, **question: Any) -> bytes:
        async with self._asked(**question) as pieces:
            return b"".join([piece async for piece in pieces])

    @contextlib.asynccontextmanager
    async def _asked(self, **question: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        """Ask a free process. Its first piece is there, or the error raised, when this begins."""
        async with self._free:
            worker = self._idle.pop() if self._idle else _Worker(await _start(background=self._background))
            self._busy.add(worker)
            pieces = self._pieces(worker, json.dumps(question).encode())
            try:
                try:
                    first = await anext(pieces)
                except StopAsyncIteration:
                    first = b""
                yield _joined(first, pieces)
            finally:
                await pieces.aclose()
                self._busy.discard(worker)
                if worker.is_free and worker.process.returncode is None:
                    self._idle.append(worker)
                else:
                    await _kill(worker.process)

    async def _pieces(self, worker: _Worker, question: bytes) -> AsyncGenerator[bytes]:
        questions, answers = worker.process.stdin, worker.process.stdout
        assert questions is not None
        assert answers is not None
        worker.is_free = False
        try:
            questions.write(LENGTH.pack(len(question)) + question)
            while True:
                async with asyncio.timeout(self._timeout_s):
                    kind, length = HEAD.unpack(await answers.readexactly(HEAD.size))
                    content = await answers.readexactly(length)
                if kind == PIECE:
                    yield content
                    continue
                assert kind in (END, REFUSED)
                worker.is_free = True
                if kind == END:
                    return
                name, sentence = json.loads(content)
                raise _ERRORS.get(name, Undecodable)(sentence)
        except TimeoutError:
            _log.warning("a decoder was killed: it took too long")
            raise Undecodable("decoding takes too long") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            _log.warning("a decoder died")
            raise Undecodable("its decoder died of it") from None


def _outcome(said: bytes) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads(said.lstrip(ALIVE))
    return outcome


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece


async def _start(*, background: bool) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "failover.archive.decoder", *([BACKGROUND] if background else []),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        # One thread each: how many work at once is ours to say, and each thread would reserve memory.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        start_new_session=True,  # an interrupt from the terminal is for the archive, which ends its decoders
    )  # fmt: skip


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
