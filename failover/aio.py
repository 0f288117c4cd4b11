"""The one place that starts tasks, so that none is lost and no failure is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

_log = structlog.get_logger(__name__)
_running: set[asyncio.Task[Any]] = set()
_T = TypeVar("_T")


def spawn(coroutine: Coroutine[Any, Any, _T], *, name: str) -> asyncio.Task[_T]:
    """Start `coroutine` as a task that is kept alive until it ends; an exception in it is logged.

    Cancel the returned task to stop it; `name` stands in the log line.
    """
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        _log.error("task failed", task=task.get_name(), error=type(error).__name__, exc_info=error)


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel `tasks` and return when each has ended; their exceptions were logged by `spawn`."""
    living = [task for task in tasks if task is not None and not task.done()]
    for task in living:
        task.cancel()
    if living:
        await asyncio.wait(living)


class Recall:
    """Calls a task back from what it awaits inside `with`: it then goes on after the block.

    For what would else need a task of its own, only so that the wait for it can end. `call` from a callback
    or another task; the cancellation of the task itself passes through.
    """

    __slots__ = ("_cancelling", "_task", "called")

    def __init__(self) -> None:
        self.called = False
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0

    def __enter__(self) -> Recall:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        return self

    def call(self) -> None:
        """Once is enough; nothing happens before and after the block."""
        if self._task is not None and not self.called:
            self.called = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        task, self._task = self._task, None
        if not self.called or task is None:
            return False
        return task.uncancel() <= self._cancelling and kind is asyncio.CancelledError


class Signal:
    """Wakes everyone who waits for the next change. Unlike asyncio.Event it needs no clearing."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def fire(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return at the next `fire`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def wait_until(self, holds: Callable[[], bool], *, timeout_s: float) -> bool:
        """Return True once `holds()`, asked now and at each `fire`; False after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await self.wait()
        except TimeoutError:
            return holds()
        return True
