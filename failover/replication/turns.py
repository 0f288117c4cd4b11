"""One turn of a loop: done until it succeeds, with growing distance, each failure counted and few logged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from failover.clock import Clock
from failover.errors import FailoverError
from failover.metrics import ReplicatorMetrics

_log = structlog.get_logger(__name__)
# Longer waits would hold up a failback: the debt is looked at again when the primary is back.
_LONGEST_WAIT_S: Final = 10.0


async def turn(
    step: str, work: Callable[[], Awaitable[None]], metrics: ReplicatorMetrics, clock: Clock
) -> None:
    """Do `work`; while it raises, wait and do it again. `step` names it in log and metric.

    Also after what nobody foresaw (a full disk below SQLite, a bug): a loop that ends is missed by nobody.
    """

    def failed(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        metrics.failures.labels(step).inc()
        # The first failure is news, the others are the same outage: they must not fill the log.
        say = _log.warning if state.attempt_number in (1, 10, 100, 1000) else _log.debug
        trace = None if isinstance(error, FailoverError) or state.attempt_number > 1 else error
        say("a step failed, it will be tried again", step=step, error=str(error), exc_info=trace)

    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Exception),
        wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S),
        sleep=clock.sleep,
        before_sleep=failed,
    ):
        with attempt:
            await work()
