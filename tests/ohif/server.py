"""OHIF's built pages, and below /dicom-web what stands behind them: as a hospital's web server does it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from tests.peers.process import free_port

DICOMWEB: Final = "/dicom-web"
CONFIG: Final = """window.config = {
  routerBasename: null, extensions: [], modes: [], showStudyList: true, maxNumberOfWebWorkers: 2,
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  strictZSpacingForVolumeViewport: true,
  investigationalUseDialog: { option: "never" }, defaultDataSourceName: "failover",
  dataSources: [{
    namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
    sourceName: "failover",
    configuration: {
      friendlyName: "PACS", name: "PACS",
      qidoRoot: "/dicom-web", wadoRoot: "/dicom-web", wadoUriRoot: "/dicom-web",
      qidoSupportsIncludeField: true, supportsFuzzyMatching: true, supportsWildcard: true,
      supportsReject: false,
      imageRendering: "wadors", thumbnailRendering: "wadors", enableStudyLazyLoad: true,
      dicomUploadEnabled: true, singlepart: "bulkdata,video,pdf", omitQuotationForMultipartRequest: true,
      bulkDataURI: { enabled: true, relativeResolution: "studies" },
    },
  }],
};
"""
# Volumes want shared memory, and browsers give that to pages alone that say so.
_HEADERS: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    # From a cache OHIF's parts come in another order, and its start often waits for ever (9 times of 14).
    "Cache-Control": "no-store",
}
_NOT_PASSED_ON: Final = {"transfer-encoding", "connection", "content-length", "content-encoding", "host"}


@dataclass
class Viewer:
    """A running web server. `target`: the origin behind it; `refused`: what that answered with 4xx or 5xx."""

    origin: str
    target: str
    refused: list[str] = field(default_factory=list)
    upstreams: Counter[str] = field(default_factory=Counter)


@contextlib.asynccontextmanager
async def a_viewer(pages: Path, target: str) -> AsyncIterator[Viewer]:
    """Serve OHIF's pages from the folder `pages`, with DICOMweb of `target` below the same origin."""
    port, root = free_port(), pages
    viewer = Viewer(f"http://127.0.0.1:{port}", target)
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_PASSED_ON}
            headers["Host"] = request.host
            async with session.request(
                request.method, viewer.target + request.raw_path, headers=headers, data=request.content
            ) as answer:
                viewer.upstreams[answer.headers.get("X-Failover-Upstream", "")] += 1
                if answer.status >= 400:
                    viewer.refused.append(f"{answer.status} {request.method} {request.raw_path}"[:300])
                response = web.StreamResponse(status=answer.status)
                response.headers.extend(
                    (k, v) for k, v in answer.headers.items() if k.lower() not in _NOT_PASSED_ON
                )
                with contextlib.suppress(ConnectionError):  # the page has left
                    await response.prepare(request)
                    async for piece in answer.content.iter_any():
                        await response.write(piece)
                    await response.write_eof()
                return response

        async def page(request: web.Request) -> web.StreamResponse:
            if request.path == "/app-config.js":
                return web.Response(text=CONFIG, content_type="text/javascript", headers=_HEADERS)
            if (
                request.path == "/init-service-worker.js"
            ):  # its cache would outlive a navigation, and mix with it
                return web.Response(text="", content_type="text/javascript", headers=_HEADERS)
            # A path of the application's own is its one page's to understand.
            name = request.path.lstrip("/")
            return web.FileResponse(root / (name if name in files else "index.html"), headers=_HEADERS)

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", f"{DICOMWEB}/{{rest:.*}}", pass_on)
        app.router.add_get("/{rest:.*}", page)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield viewer
        finally:
            await runner.cleanup()
