"""The probes of a web side: one HTTP request for `reach`, QIDO for `query`, a WADO-RS frame for `retrieve`.

All use one session with kept connections, at most `MOST_AT_ONCE` of them. They only read.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from failover.clients.http_tls import connect_failure, tls_options
from failover.config.schema import HttpProbe
from failover.errors import (
    LoginWanted,
    TlsUnusable,
    UpstreamBroke,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnreachable,
)
from failover.health.search import KnownStudies
from failover.model import ClientTls, Part

MOST_AT_ONCE: Final = 4  # one late answer awaited of each part, and the present probe
_BODY_BYTES: Final = 2**20  # of a health page or a search; more is not ours to read
_FRAME_BYTES: Final = 64 * 1024  # of a frame; when these arrived, it arrives
_TRIED_STUDIES: Final = 3
_QIDO_JSON: Final = {"Accept": "application/dicom+json"}
_ANY_FRAME: Final = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
_UID_TAG: Final = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}


class WebSide:
    """The connections to one web side. Make it inside the loop that probes."""

    def __init__(self, url: str, tls: ClientTls | None = None) -> None:
        self.url = url
        self._tls = tls
        connector = aiohttp.TCPConnector(limit=MOST_AT_ONCE, keepalive_timeout=75.0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            # The watch sets the limits, and an answer that is late is still wanted.
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None),
            headers={"User-Agent": "failover-probe"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    async def close(self) -> None:
        await self._session.close()

    async def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, *, most_bytes: int = _BODY_BYTES
    ) -> tuple[int, bytes]:
        """Return status and at most `most_bytes` of the body. Raises UpstreamUnreachable, UpstreamBroke."""
        try:
            async with self._session.request(
                method, self.url + path, headers=headers, allow_redirects=False, **tls_options(self._tls)
            ) as answer:
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) >= most_bytes:
                        answer.close()  # the rest is not wanted
                        break
                return answer.status, bytes(body)
        except aiohttp.ClientConnectorError as error:
            raise UpstreamUnreachable(connect_failure(error)) from error
        except TlsUnusable as error:
            raise UpstreamUnreachable(str(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamBroke(f"{method} breaks: {type(error).__name__}") from error

    async def json(self, path: str) -> list[dict[str, Any]]:
        """Return what a QIDO search gives; nothing for 204. Raises UpstreamError."""
        status, body = await self.ask("GET", path, _QIDO_JSON)
        if status == 204:
            return []
        if status in (401, 403):
            raise LoginWanted(f"QIDO gives {status}", transient=False)
        if not 200 <= status < 300:
            raise UpstreamRefused(f"QIDO gives {status}", transient=status >= 500)
        try:
            found = json.loads(body or b"[]")
        except ValueError:
            raise UpstreamBroke("QIDO gives no JSON") from None
        if not isinstance(found, list):
            raise UpstreamBroke("QIDO gives no JSON array")
        return [row for row in found if isinstance(row, dict)]


class ReachProbe:
    """One request; status, body and latency are judged as `health.web` says."""

    part = Part.REACH

    def __init__(self, side: WebSide, wanted: HttpProbe) -> None:
        self._side = side
        self._wanted = wanted
        self._reads_body = wanted.body_pattern is not None or wanted.json_pointer is not None
        # A condition on the body needs one.
        self._method = "GET" if self._reads_body else wanted.method
        self.name = f"{self._method} {wanted.path}"

    async def ask(self) -> str:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        status, body = await self._side.ask(self._method, self._wanted.path)
        problem = judge(self._wanted, status, body, loop.time() - began_s)
        if problem is not None:
            raise UpstreamRefused(f"{self.name} {problem}", transient=True)
        return f"{self.name} gives {status}"


def judge(wanted: HttpProbe, status: int, body: bytes, took_s: float) -> str | None:
    """Return what is wrong with an answer, None when it passes."""
    lowest, highest = wanted.status
    if not lowest <= status <= highest:
        return f"gives {status}"
    if wanted.slower_than is not None and took_s > wanted.slower_than:
        return f"takes longer than {wanted.slower_than * 1000:.0f} ms"
    text = body.decode("utf-8", "replace")
    if wanted.body_pattern is not None and not re.search(wanted.body_pattern, text):
        return "lacks the pattern of health.web.body_pattern"
    if wanted.json_pointer is not None:
        try:
            value = at_pointer(json.loads(text), wanted.json_pointer)
        except (ValueError, LookupError):
            return f"has nothing at {wanted.json_pointer}"
        shown = value if isinstance(value, str) else json.dumps(value)
        if wanted.json_value is not None and shown != wanted.json_value:
            return f"has another value at {wanted.json_pointer}"
    return None


def at_pointer(document: Any, pointer: str) -> Any:
    """Return what an RFC 6901 pointer names. Raises LookupError or ValueError when there is nothing."""
    if pointer == "":
        return document
    if not pointer.startswith("/"):
        raise ValueError("a JSON pointer begins with /")
    for step in pointer[1:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else _member(document, key)
    return document


def _member(document: Any, key: str) -> Any:
    if not isinstance(document, dict):
        raise LookupError(key)
    return document[key]


class QidoSearcher:
    """Searches by QIDO-RS (PS3.18 10.6)."""

    name = "QIDO"

    def __init__(self, side: WebSide, prefix: str) -> None:
        self._side = side
        self._studies = f"{prefix.rstrip('/')}/studies"

    async def holds(self, study_instance_uid: str) -> bool:
        rows = await self._side.json(f"{self._studies}?StudyInstanceUID={quote(study_instance_uid)}&limit=1")
        return any(_value(row, "study") == study_instance_uid for row in rows)

    async def recent(self, dates: str | None, limit: int) -> list[str]:
        range_ = f"StudyDate={dates}&" if dates else ""
        rows = await self._side.json(f"{self._studies}?{range_}limit={limit}")
        return [uid for row in rows if (uid := _value(row, "study"))][:limit]


class FrameProbe:
    """The first frame of a known instance arrives, or its first 64 KiB. Without a known image it passes."""

    part = Part.RETRIEVE
    name = "WADO-RS frame"

    def __init__(self, side: WebSide, prefix: str, known: KnownStudies) -> None:
        self._side = side
        self._studies = f"{prefix.rstrip('/')}/studies"
        self._known = known
        self._frames: list[str] = []  # paths that once gave a frame

    async def ask(self) -> str:
        failure: UpstreamError | None = None
        for path in list(self._frames):
            try:
                await self._fetch(path)
            except UpstreamRefused as error:
                if error.transient:
                    raise
                self._frames.remove(path)  # deleted or merged, or so it says: ask for others
                failure = error
            else:
                return f"{self.name} arrives"
        for _ in range(min(_TRIED_STUDIES, len(self._known))):
            found = await self._find_image()
            if found is None:
                continue
            try:
                await self._fetch(found)
            except UpstreamRefused as error:
                if error.transient:
                    raise
                continue  # an upstream that never gave a frame of it: no evidence
            self._frames = [found, *self._frames][:_TRIED_STUDIES]
            return f"{self.name} arrives"
        if failure is not None:
            raise failure
        return f"{self.name}: no image is known"

    async def _find_image(self) -> str | None:
        uid = self._known.next()
        if uid is None:
            return None
        study = f"{self._studies}/{quote(uid)}"
        rows = await self._side.json(f"{study}/instances?includefield=00280010&limit=1")
        for row in rows:
            series, instance = _value(row, "series"), _value(row, "instance")
            if series and instance and (row.get("00280010") or {}).get("Value"):
                return f"{study}/series/{quote(series)}/instances/{quote(instance)}/frames/1"
        return None

    async def _fetch(self, path: str) -> None:
        status, body = await self._side.ask("GET", path, _ANY_FRAME, most_bytes=_FRAME_BYTES)
        if not 200 <= status < 300:
            raise UpstreamRefused(f"{self.name} gives {status}", transient=status >= 500)
        if not body:
            raise UpstreamBroke(f"{self.name} is empty")


def _value(row: dict[str, Any], level: str) -> str | None:
    values = (row.get(_UID_TAG[level]) or {}).get("Value") or []
    return values[0] if values and isinstance(values[0], str) else None
