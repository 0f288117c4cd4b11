"""The files of the status page, as they are sent. They hold no fact: what they show they ask of the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

_FOLDER: Final = Path(__file__).with_name("static")
# URL path: file, content type
FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/view.js": ("view.js", "text/javascript"),
    "/flow.js": ("flow.js", "text/javascript"),
    "/owed.js": ("owed.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def handler(path: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler for one of `FILES`. The file is read once, now."""
    name, content_type = FILES[path]
    content = (_FOLDER / name).read_bytes()

    async def send(_request: web.Request) -> web.Response:
        return web.Response(body=content, content_type=content_type, charset="utf-8")

    return send
