"""A DICOMweb client (PS3.18): search, retrieve one instance into a file, store one file.

It answers what one server says to one request, with at most `concurrency` requests at a time. Whom to ask,
when and how often is decided by the caller. Instances pass in flat memory: from the socket to the file, from
the file to the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from email.message import Message
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from failover.clients.http_tls import connect_failure, tls_options
from failover.clients.stored import Stored
from failover.durable import storage_error
from failover.errors import (
    ProtocolError,
    TlsUnusable,
    UpstreamBroke,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from failover.http.multipart import (
    BodyEnded,
    MultipartParser,
    MultipartWriter,
    PartBegan,
    PartBytes,
    PartEnded,
)
from failover.model import ClientTls, InstanceKey

JsonObject = dict[str, Any]
# One page of a search. Larger pages make a PACS hold many rows at once; smaller ones cost round trips.
PAGE: Final = 200
# No server is known that returns fewer matches than this although there are more.
_LOWEST_CAP: Final = 20
# A search result page beyond this is refused rather than read into memory: 200 studies need about 200 KB.
_MAX_JSON_BYTES: Final = 64 * 2**20
_CHUNK_BYTES: Final = 256 * 1024
# Answers that may be another at the next time (RFC 9110 15.5, 15.6; RFC 6585).
_TRANSIENT: Final = frozenset({401, 403, 407, 408, 421, 423, 425, 429, 500, 502, 503, 504, 507})
_SUCCESS: Final = range(200, 300)
_REFERENCED_SOP_SEQUENCE: Final = "00081199"
_FAILED_SOP_SEQUENCE: Final = "00081198"
_REFERENCED_SOP_INSTANCE_UID: Final = "00081155"
_FAILURE_REASON: Final = "00081197"


class DicomwebClient:
    """One server's DICOMweb. `base_url` ends with its prefix: http://127.0.0.1:8042/dicom-web."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 30.0,
        connect_s: float = 5.0,
        concurrency: int = 4,
        tls: ClientTls | None = None,
    ) -> None:
        """`timeout_s`: how long the server may be silent within one request."""
        self._tls = tls
        self._base = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_s, sock_read=timeout_s
        )
        # What waits here waits for us, not for the server: it is polite, and no limit applies to it.
        self._turns = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -- search (PS3.18 10.6)

    async def search(self, path: str, query: Sequence[tuple[str, str]] = ()) -> list[JsonObject]:
        """Return one page: the matches for `path`, such as "studies" or "studies/1.2/instances".

        Raises UpstreamError.
        """
        headers = {"Accept": "application/dicom+json"}
        async with self._request("GET", self._url(path, query), headers=headers) as answer:
            if answer.status == 204:
                return []
            _check(answer, "search")
            body = await _read_bounded(answer)
        return _json_array(body)

    async def search_all(
        self, path: str, query: Sequence[tuple[str, str]], *, key: str, page: int = PAGE
    ) -> list[JsonObject]:
        """Return all matches, page by page; `key` is the tag that tells them apart ("0020000D").

        A server that ignores `offset` repeats itself: the search ends with the first page without news.
        """
        found: dict[str, JsonObject] = {}
        offset = 0
        while True:
            matches = await self.search(path, [*query, ("limit", str(page)), ("offset", str(offset))])
            before = len(found)
            for match in matches:
                found.setdefault(_only_value(match, key), match)
            offset += len(matches)
            # A server may cap its pages below what was asked for, so a short page may not be the last one.
            if len(matches) < min(page, _LOWEST_CAP) or len(found) == before:
                return list(found.values())

    # -- retrieve (PS3.18 10.4)

    async def retrieve_instance(self, key: InstanceKey, target: Path) -> int:
        """Write the instance as the server keeps it (its own transfer syntax) to `target`; return its bytes.

        A Part 10 file (PS3.10), not synced. Raises UpstreamError, StorageError; then `target` is not there.
        """
        path = (
            f"studies/{key.study_instance_uid}/series/{key.series_instance_uid}"
            f"/instances/{key.sop_instance_uid}"
        )
        headers = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        try:
            async with self._request("GET", self._url(path), headers=headers) as answer:
                _check(answer, "retrieve")
                return await self._first_part(answer, target)
        except BaseException:
            _remove(target)
            raise

    async def _first_part(self, answer: aiohttp.ClientResponse, target: Path) -> int:
        content_type = answer.headers.get("Content-Type", "")
        written = 0
        # What aiohttp raises may be an OSError too: the disk is blamed for its own alone.
        with _writing(target) as write:
            async for piece in _part10_bytes(answer, content_type):
                write(piece)
                written += len(piece)
        if not _is_part10(target):
            raise UpstreamBroke("retrieve: the answer is not a DICOM file")
        return written

    # -- store (PS3.18 10.5)

    async def store(self, path: Path, sop_instance_uid: str) -> Stored:
        """Send the Part 10 file at `path`. Raises UpstreamError when nothing is known of its fate.

        A 2xx that names the instance in neither sequence is a failure: Orthanc does that on a full disk.
        """
        size = _size(path)
        writer = MultipartWriter(f"failover-{secrets.token_hex(24)}")
        head = {"Content-Type": "application/dicom"}
        headers = {
            "Accept": "application/dicom+json",
            "Content-Type": writer.content_type("application/dicom"),
            "Content-Length": str(writer.length([(head, size)])),
        }
        body = _one_part(path, writer, head)
        async with self._request("POST", self._url("studies"), headers=headers, data=body) as answer:
            if answer.status not in _SUCCESS and answer.status != 409:
                _check(answer, "store")
            text = await _read_bounded(answer)
        return _stored(answer.status, text, sop_instance_uid)

    # -- one request

    def _url(self, path: str, query: Sequence[tuple[str, str]] = ()) -> str:
        tail = "&".join(f"{quote(name, safe='')}={quote(value, safe=',*-.')}" for name, value in query)
        return f"{self._base}/{path}?{tail}" if tail else f"{self._base}/{path}"

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, url: str, *, headers: Mapping[str, str], data: Any = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer's head; each way in which the exchange can fail as one of errors.py."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                connector=aiohttp.TCPConnector(limit=self._concurrency),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
            )
        async with self._turns:
            with _as_ours(method):
                async with self._session.request(
                    # `encoded`: our quoting is the one that PS3.18 needs
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    data=data,
                    allow_redirects=False,
                    **tls_options(self._tls),
                ) as answer:
                    yield answer


@contextlib.contextmanager
def _as_ours(method: str) -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise UpstreamUnreachable(f"no connection: {connect_failure(error)}") from error
    except TlsUnusable as error:
        raise UpstreamUnreachable(f"no connection: {error}") from error
    except aiohttp.ServerTimeoutError as error:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            raise UpstreamUnreachable("no connection within the limit") from error
        raise UpstreamTimeout(f"{method}: silent beyond the limit") from error
    except TimeoutError as error:
        raise UpstreamTimeout(f"{method}: silent beyond the limit") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise UpstreamBroke(f"{method}: {type(error).__name__}") from error
    except ProtocolError as error:
        raise UpstreamBroke(f"{method}: {error}") from error


def _check(answer: aiohttp.ClientResponse, what: str) -> None:
    """Raise UpstreamRefused unless the status is 2xx. 206 is no whole answer and not accepted either."""
    if answer.status in _SUCCESS and answer.status != 206:
        return
    transient = answer.status in _TRANSIENT or answer.status < 400
    raise UpstreamRefused(f"{what}: HTTP {answer.status}", transient=transient)


async def _read_bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > _MAX_JSON_BYTES:
            raise UpstreamBroke(f"an answer of more than {_MAX_JSON_BYTES} bytes")
    return bytes(body)


def _json_array(body: bytes) -> list[JsonObject]:
    if not body.strip():
        return []
    try:
        content = json.loads(body)
    except ValueError as error:
        raise UpstreamBroke("search: the answer is not JSON") from error
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise UpstreamBroke("search: the answer is not an array of objects")
    return content


def _only_value(match: JsonObject, tag: str) -> str:
    try:
        return str(match[tag]["Value"][0])
    except (KeyError, IndexError, TypeError) as error:
        raise UpstreamBroke("search: a match without its unique key") from error


async def _part10_bytes(answer: aiohttp.ClientResponse, content_type: str) -> AsyncIterator[bytes]:
    """The content of the first part; of the whole body where the server sends a single part bare."""
    kind, _, parameters = content_type.partition(";")
    chunks = answer.content.iter_chunked(_CHUNK_BYTES)
    if kind.strip().lower() == "application/dicom":
        async for chunk in chunks:
            yield chunk
        return
    if kind.strip().lower() != "multipart/related":
        raise UpstreamBroke("retrieve: the answer is neither multipart/related nor application/dicom")
    parser = MultipartParser(_boundary(parameters))
    parts = 0
    async for chunk in chunks:
        for event in parser.receive_data(chunk):
            match event:
                case PartBegan():
                    parts += 1
                case PartBytes(content) if parts == 1:
                    yield content
                case PartBytes() | PartEnded() | BodyEnded():
                    pass
    parser.receive_end()
    if parts != 1:
        raise UpstreamBroke(f"retrieve: {parts} parts for one instance")


def _boundary(parameters: str) -> str:
    message = Message()
    message["Content-Type"] = f"multipart/related;{parameters}"
    boundary = message.get_boundary()
    if not boundary:
        raise UpstreamBroke("retrieve: multipart without a boundary")
    return boundary


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Open `path` for writing. Opening, writing and closing raise StorageError, what happens between not."""
    try:
        file = path.open("wb")
    except OSError as error:
        raise storage_error(error, path) from error

    def write(piece: bytes) -> None:
        try:
            file.write(piece)
        except OSError as error:
            raise storage_error(error, path) from error

    try:
        yield write
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        raise
    try:
        file.close()
    except OSError as error:
        raise storage_error(error, path) from error


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise storage_error(error, path) from error


def _is_part10(path: Path) -> bool:
    """PS3.10 7.1: 128 bytes of preamble, then DICM."""
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


async def _one_part(path: Path, writer: MultipartWriter, head: Mapping[str, str]) -> AsyncIterator[bytes]:
    yield writer.part_head(head)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while chunk := await asyncio.to_thread(os.read, descriptor, _CHUNK_BYTES):
            yield chunk
    finally:
        os.close(descriptor)
    yield writer.end()


def _stored(status: int, body: bytes, sop_instance_uid: str) -> Stored:
    """Read the store response (PS3.18 10.5.3 and I.2.2)."""
    try:
        content = json.loads(body) if body.strip() else {}
    except ValueError as error:
        raise UpstreamBroke("store: the answer is not JSON") from error
    if isinstance(content, list):  # some servers wrap the object in an array
        content = content[0] if content else {}
    if not isinstance(content, dict):
        raise UpstreamBroke("store: the answer is not an object")
    for item in _items(content, _FAILED_SOP_SEQUENCE):
        if _value(item, _REFERENCED_SOP_INSTANCE_UID) in (sop_instance_uid, None):
            reason = _value(item, _FAILURE_REASON)
            code = int(reason) if isinstance(reason, int | float) else None
            return Stored(
                False, code, f"store: failure reason {code:#06x}" if code is not None else "store: failed"
            )
    for item in _items(content, _REFERENCED_SOP_SEQUENCE):
        if _value(item, _REFERENCED_SOP_INSTANCE_UID) == sop_instance_uid:
            return Stored(True)
    return Stored(False, None, f"store: HTTP {status} that does not name the instance")


def _items(content: JsonObject, tag: str) -> list[JsonObject]:
    attribute = content.get(tag)
    found = attribute.get("Value") if isinstance(attribute, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _value(item: JsonObject, tag: str) -> Any:
    attribute = item.get(tag)
    found = attribute.get("Value") if isinstance(attribute, dict) else None
    return found[0] if isinstance(found, list) and found else None
