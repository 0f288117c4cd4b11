"""`failover replicator`: keeps the archive filled from the primary, and pays back what it is owed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from failover.app import process
from failover.app.reload import Reloader
from failover.clock import SystemClock
from failover.config import Configuration
from failover.durable import make_folder
from failover.replication.service import ReplicationService

_log = structlog.get_logger(__name__)


def run(config_path: Path) -> int:
    """Replicate until SIGTERM; return the exit code. Raises ConfigurationError."""
    return process.run("replicator", config_path, _serve)


async def _serve(configuration: Configuration, stop: asyncio.Event, reloader: Reloader) -> int:
    if configuration.backup != "embedded":
        _log.warning("nothing to do: the backup is another PACS, which we do not fill")
        reloader.takes(lambda _: [])
        await stop.wait()
        return 0
    make_folder(configuration.state_dir)
    service = ReplicationService(configuration, SystemClock())
    await service.start()
    reloader.takes(service.change)
    await stop.wait()
    await service.stop()
    return 0
