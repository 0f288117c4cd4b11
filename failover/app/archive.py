"""`failover archive`: the mini-PACS as a process of its own, beside the router or alone."""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from pathlib import Path

from failover.app import listeners, process
from failover.app.reload import Reloader
from failover.archive.dicomweb.app import web_app
from failover.archive.service import ArchiveService
from failover.clock import SystemClock
from failover.config import Configuration
from failover.durable import make_folder


def run(config_path: Path) -> int:
    """Serve until SIGTERM; return the exit code. Raises ConfigurationError, PortTaken."""
    return process.run("archive", config_path, _serve, archive_alone=True)


async def _serve(configuration: Configuration, stop: asyncio.Event, reloader: Reloader) -> int:
    archive = configuration.archive
    dicom = listeners.bind("archive.dicom", archive.dicom.host, archive.dicom.port)
    web = listeners.bind("archive.web", archive.web.host, archive.web.port)
    make_folder(configuration.state_dir)
    service = ArchiveService(configuration, partial(web_app, decoder_ready=True), SystemClock())
    await service.start(dicom, web)
    reloader.takes(service.change)
    # What is there from the start stays: the collector of cycles need not look through it again and again.
    gc.collect()
    gc.freeze()
    await stop.wait()
    await service.stop()
    return 0
