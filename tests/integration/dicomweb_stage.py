"""An archive with its real web side in this process, filled with the sample studies."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import aiohttp

from failover.app.listeners import bind
from failover.app.samples import part10, sample_studies
from failover.archive.dicomweb.app import web_app
from failover.archive.service import ArchiveService
from failover.clock import SystemClock
from failover.config import Configuration
from failover.control import Json, ask, socket_path
from failover.http.multipart import MultipartParser, MultipartWriter, PartBegan, PartBytes
from tests.integration.archive_stage import configuration
from tests.peers.process import free_port

TODAY = date(2026, 11, 24)
WRITER = MultipartWriter("stage-0123456789abcdef0123456789abcdef0123456789abcdef")
VIA_ROUTER = {"X-Failover-Via": "router", "X-Failover-Prefix": "/pacs/rs", "X-Forwarded-Proto": "https"}


@dataclass
class WebStage:
    """A running archive; `session` is a caller."""

    configuration: Configuration
    session: aiohttp.ClientSession

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.configuration.archive.web.port}"

    @property
    def root(self) -> str:
        return f"{self.origin}/dicom-web"

    async def ask(self, method: str, params: Json | None = None) -> Json:
        return await ask(socket_path(self.configuration.state_dir, "archive"), method, params, timeout_s=30)

    async def get(self, path: str, **headers: str) -> tuple[int, aiohttp.ClientResponse, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(self.root + path, headers=names) as answer:
            return answer.status, answer, await answer.read()

    async def search(self, path: str) -> list[Json]:
        async with self.session.get(self.root + path) as answer:
            assert answer.status in (200, 204), await answer.text()
            return [] if answer.status == 204 else await answer.json(content_type="application/dicom+json")

    async def store(self, *objects: bytes, path: str = "/studies", **headers: str) -> tuple[int, Json]:
        body = b"".join(WRITER.part_head({"Content-Type": "application/dicom"}) + one for one in objects)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        names["Content-Type"] = WRITER.content_type("application/dicom")
        async with self.session.post(self.root + path, data=body + WRITER.end(), headers=names) as answer:
            if answer.content_type != "application/dicom+json":
                return answer.status, {"text": await answer.text()}
            return answer.status, await answer.json(content_type=None)

    def half_received(self) -> list[Path]:
        return sorted((self.configuration.archive.data_dir / "incoming").iterdir())


def parts_of(content_type: str, body: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Return heads and contents of a multipart answer."""
    boundary = content_type.partition("boundary=")[2].strip('"')
    parser = MultipartParser(boundary)
    found: list[tuple[dict[str, str], bytes]] = []
    for event in parser.receive_data(body):
        if isinstance(event, PartBegan):
            found.append((dict(event.headers), b""))
        elif isinstance(event, PartBytes):
            found[-1] = (found[-1][0], found[-1][1] + event.content)
    parser.receive_end()
    return found


@contextlib.asynccontextmanager
async def a_web_archive(folder: Path, *, filled: bool = True, **settings: object) -> AsyncIterator[WebStage]:
    """Start an archive on `folder`, store the samples by STOW, stop it at the end."""
    made = configuration(folder, free_port(), **settings)  # type: ignore[arg-type]
    service = ArchiveService(made, web_app, SystemClock())
    dicom, web = made.archive.dicom, made.archive.web
    await service.start(
        bind("archive.dicom", "127.0.0.1", dicom.port), bind("archive.web", "127.0.0.1", web.port)
    )
    try:
        async with aiohttp.ClientSession() as session:
            stage = WebStage(made, session)
            if filled:
                status, answer = await stage.store(*(part10(one) for one in sample_studies(TODAY)))
                assert status == 200, answer
            yield stage
    finally:
        await service.stop()
