"""A whole archive in this process, on free ports, for callers that are real."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from failover.app.listeners import bind
from failover.archive.service import ArchiveService
from failover.clock import SystemClock
from failover.config import Configuration
from failover.config.load import parse
from failover.control import Json, ask, socket_path
from tests.peers.process import find_program, free_port

AE_TITLE = "MINIPACS"


@dataclass
class Stage:
    """A running archive. `ask` is what our other processes would ask on its control socket."""

    configuration: Configuration
    port: int

    @property
    def data_dir(self) -> Path:
        return self.configuration.archive.data_dir

    async def ask(self, method: str, params: Json | None = None) -> Json:
        return await ask(socket_path(self.configuration.state_dir, "archive"), method, params, timeout_s=30)

    def objects(self) -> list[Path]:
        """The files of what is kept."""
        return sorted((self.data_dir / "objects").rglob("*.dcm"))

    def half_received(self) -> list[Path]:
        return sorted((self.data_dir / "incoming").iterdir())

    async def until_nothing_is_half_received(self) -> None:
        """Return once `incoming` is empty; TimeoutError when it stays so for 30 s."""
        async with asyncio.timeout(30):
            while self.half_received():
                await SystemClock().sleep(0.02)


def configuration(
    folder: Path,
    port: int,
    *,
    has_primary: bool = True,
    destinations: Mapping[str, int] | None = None,
    min_free: str = "1MB",
    dicom_callers: str = "any",
    web_callers: str = "[127.0.0.0/8]",
    max_store: str = "16GiB",
    compression: str = "jpeg-lossless",
    commitment: str = "primary",
    commitment_wait: str = "12h",
) -> Configuration:
    """Return a configuration as its file would say it."""
    primary = "primary: {dicom: {host: 127.0.0.1, port: 4242, ae_title: ORTHANC}}" if has_primary else ""
    moves = ", ".join(f"{ae}: {{host: 127.0.0.1, port: {at}}}" for ae, at in (destinations or {}).items())
    text = f"""
{primary}
archive:
  dicom: {{port: {port}}}
  web: {{port: {free_port()}, max_store_bytes: {max_store}}}
  access: {{dicom: {dicom_callers}, web: {{addresses: {web_callers}}}}}
  retention: {{min_free_bytes: {min_free}}}
  compression: {compression}
  commitment: {commitment}
  commitment_wait: {commitment_wait}
  move_destinations: {{{moves}}}
"""
    return parse(text, name="failover.yaml", folder=folder, archive_alone=True)


@contextlib.asynccontextmanager
async def an_archive(folder: Path, **settings: object) -> AsyncIterator[Stage]:
    """Start an archive on `folder`; stop it at the end. `settings` as `configuration` has them."""
    port = free_port()
    made = configuration(folder, port, **settings)  # type: ignore[arg-type]
    service = ArchiveService(made, lambda *_: web.Application(), SystemClock())
    await service.start(
        bind("archive.dicom", "127.0.0.1", port), bind("archive.web", "127.0.0.1", made.archive.web.port)
    )
    try:
        yield Stage(made, port)
    finally:
        await service.stop()


async def dcmtk(program: str, *arguments: object) -> tuple[int, str]:
    """Run a program of DCMTK; return its exit code and all it said."""
    process = await asyncio.create_subprocess_exec(
        str(find_program(program)),
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        # Without it DCMTK writes each PDU in two packets and waits for an acknowledgement between them.
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode("utf-8", "replace")
