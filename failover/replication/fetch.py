"""Brings what the archive lacks of one study: lists both sides, fetches the difference, hands it over.

One study at a time, instance by instance; which study, by which way and when is decided by `worker`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from failover.clock import Clock
from failover.durable import make_folder
from failover.errors import UpstreamBroke, UpstreamRefused, UpstreamTimeout
from failover.metrics import ReplicatorMetrics
from failover.replication.archive_side import ArchiveSide
from failover.replication.reconcile import Need, missing_instances
from failover.replication.ways import InstanceOnPrimary, Way

_log = structlog.get_logger(__name__)
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a study stands after a fetch."""

    listed: int  # on the primary
    held: int  # in the archive
    missing: int  # of those listed
    brought: int  # now
    whole: bool  # everything was fetched, not only what was missing
    gone: tuple[str, ...]  # held, not owed, and not listed any more


class Fetcher:
    """`handover` is the folder from which the archive takes files; it lies on the archive's disk."""

    def __init__(
        self, archive: ArchiveSide, handover: Path, metrics: ReplicatorMetrics, clock: Clock
    ) -> None:
        self._archive, self._handover, self._metrics, self._clock = archive, handover, metrics, clock

    def clear(self) -> None:
        """Remove what an earlier process left half fetched; nobody else writes into the folder."""
        make_folder(self._handover)
        for path in self._handover.iterdir():
            if path.is_file():
                path.unlink(missing_ok=True)

    async def study(self, way: Way, study_instance_uid: str, need: Need) -> Fetched:
        """Bring what `need` says of the study. Raises FailoverError."""
        everything = need is Need.EVERYTHING
        # Before the primary is asked: what becomes proven meanwhile is not missed.
        paid = await self._archive.paid(study_instance_uid)
        listed: dict[str, InstanceOnPrimary] = {
            instance.key.sop_instance_uid: instance for instance in await way.instances(study_instance_uid)
        }
        held = await self._archive.instances(study_instance_uid)
        from_nothing = not held & listed.keys()
        if need is Need.HELD:
            wanted = [uid for uid in listed if uid in held]
        else:
            wanted = list(listed) if everything else missing_instances(listed, held)
        brought = 0
        if wanted:
            brought = await self._bring(way, [listed[uid] for uid in wanted])
            held = await self._archive.instances(study_instance_uid)
        missing = missing_instances(listed, held)
        if missing and need is not Need.HELD:
            _log.warning("a study is still short", missing=len(missing), of=len(listed), way=way.name)
        return Fetched(
            listed=len(listed),
            held=len(held),
            missing=len(missing),
            brought=brought,
            whole=(everything or from_nothing) and not missing,
            gone=tuple(uid for uid in paid if uid not in listed),
        )

    async def _bring(self, way: Way, wanted: list[InstanceOnPrimary]) -> int:
        """Fetch and hand over; what has been handed over is not fetched again when a try breaks off."""
        left: dict[str, InstanceOnPrimary] = {instance.key.sop_instance_uid: instance for instance in wanted}
        brought = 0
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(multiplier=0.3, max=5),
            retry=retry_if_exception(_may_pass),
            sleep=self._clock.sleep,
            reraise=True,
        ):
            with attempt:
                async for one in way.bring(list(left.values()), self._handover):
                    try:
                        await self._archive.take(one.path)
                    except BaseException:
                        # Broken off by a drain or a death: nobody else would remove it before our next start.
                        one.path.unlink(missing_ok=True)
                        raise
                    self._metrics.fetched.labels(one.via).inc()
                    left.pop(one.sop_instance_uid, None)
                    brought += 1
        return brought


def _may_pass(error: BaseException) -> bool:
    """A dead primary is the worker's business; a broken or refused transfer may be better the next time."""
    return isinstance(error, UpstreamBroke | UpstreamTimeout) or (
        isinstance(error, UpstreamRefused) and error.transient
    )
