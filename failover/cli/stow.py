"""Sends Part 10 files by STOW-RS (PS3.18 10.5), batch by batch, and reads what became of each.

Leaves choosing files and telling people to `importing`. One connection, kept; a batch streams from disk.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final

# The archive syncs once for a whole batch: larger ones are faster, smaller ones move the progress bar.
BATCH_FILES: Final = 25
BATCH_BYTES: Final = 64 * 2**20
# Tells the archive that the debt of this object comes from an import.
ORIGIN_HEADER: Final = "X-Failover-Origin"
_REFERENCED: Final = "00081199"  # Referenced SOP Sequence
_FAILED: Final = "00081198"  # Failed SOP Sequence
# Longer than the archive needs to sync a batch on a slow disk.
_TIMEOUT_S: Final = 120.0
_CHUNK_BYTES: Final = 256 * 1024
_MEDIA_STORAGE_DIRECTORY: Final = b"1.2.840.10008.1.3.10\0"  # the SOP class of a DICOMDIR


class ArchiveUnreachable(Exception):
    """No archive answers there; the message says where and why."""


class Outcome(StrEnum):
    KEPT = "kept"
    REFUSED = "refused"


Result = tuple[Outcome, str]


def is_part10(path: Path) -> bool:
    """Return whether the file has the DICOM prefix (PS3.10 7.1) and is no DICOMDIR."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return True  # it is told as a failure when it is sent, not silently left out
    return head[128:132] == b"DICM" and _MEDIA_STORAGE_DIRECTORY not in head


def batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield `files` in order, at most BATCH_FILES and about BATCH_BYTES at a time."""
    batch: list[Path] = []
    size = 0
    for file in files:
        bytes_ = _size(file)
        if batch and (len(batch) == BATCH_FILES or size + bytes_ > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += bytes_
    if batch:
        yield batch


class StowSender:
    """One archive's STOW listener."""

    def __init__(self, host: str, port: int, dicomweb_path: str) -> None:
        self._where = f"{host}:{port}"
        self._path = f"{dicomweb_path.rstrip('/')}/studies"
        self._connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)

    def close(self) -> None:
        self._connection.close()

    def send(self, batch: Sequence[Path]) -> list[Result]:
        """Return what became of each file. Raises ArchiveUnreachable when no archive answers."""
        if len(batch) > 1:
            with suppress(_Unreadable):
                status, answer = self._post(batch)
                if status == 200 and len(_items(answer, _REFERENCED)) == len(batch):
                    return [(Outcome.KEPT, "")] * len(batch)
        # The answer names SOP instance UIDs, not files: one by one tells which file it was. What is already
        # kept is known to the archive, and known again costs little.
        return [self._send_one(file) for file in batch]

    def _send_one(self, file: Path) -> Result:
        try:
            status, answer = self._post([file])
        except _Unreadable as error:
            return Outcome.REFUSED, str(error)
        if status in (200, 202) and _items(answer, _REFERENCED):
            return Outcome.KEPT, ""
        reasons = [_failure_words(item) for item in _items(answer, _FAILED)]
        return Outcome.REFUSED, reasons[0] if reasons else f"the archive answered {status}"

    def _post(self, files: Sequence[Path]) -> tuple[int, dict[str, Any]]:
        """Send one request; a kept connection that the archive has closed meanwhile is opened once more."""
        for attempt in (1, 2):
            try:
                return self._request(files)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if attempt == 2 or isinstance(error, ConnectionRefusedError):
                    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise ArchiveUnreachable(f"no archive answers at {self._where}: {why}") from error
        raise AssertionError("unreachable")

    def _request(self, files: Sequence[Path]) -> tuple[int, dict[str, Any]]:
        boundary = f"failover-{secrets.token_hex(24)}"
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"--{boundary}--\r\n".encode()
        with ExitStack() as stack:
            opened = [(stack.enter_context(_open(file)), file) for file in files]
            sizes = [os.fstat(handle.fileno()).st_size for handle, _ in opened]
            length = sum(len(head) + size + 2 for size in sizes) + len(tail)
            self._connection.request(
                "POST",
                self._path,
                body=_body(opened, sizes, head, tail),
                headers={
                    "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                    "Content-Length": str(length),
                    "Accept": "application/dicom+json",
                    ORIGIN_HEADER: "imported",
                },
            )
            response = self._connection.getresponse()
            content = response.read()
        try:
            answer = json.loads(content)
        except ValueError:
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}


class _Unreadable(Exception):
    """A file on our side cannot be read; nothing is wrong with the archive."""


def _open(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise _Unreadable(error.strerror or "cannot be read") from error


def _body(
    opened: Sequence[tuple[BinaryIO, Path]], sizes: Sequence[int], head: bytes, tail: bytes
) -> Iterator[bytes]:
    for (handle, file), size in zip(opened, sizes, strict=True):
        yield head
        left = size
        while left:
            try:
                chunk = handle.read(min(left, _CHUNK_BYTES))
            except OSError as error:
                raise _Unreadable(error.strerror or "cannot be read") from error
            if not chunk:
                raise _Unreadable(f"{file.name} became shorter while it was read")
            left -= len(chunk)
            yield chunk
        yield b"\r\n"
    yield tail


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _items(answer: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    element = answer.get(tag)
    items = element.get("Value") if isinstance(element, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _failure_words(item: dict[str, Any]) -> str:
    """PS3.18 table 10.5.3-2 and PS3.4 annex B.2.3 in words."""
    values = item.get("00081197", {}).get("Value") or [0]
    code = int(values[0]) if isinstance(values[0], int) else 0
    if code & 0xFF00 == 0xA700:
        words = "the archive has no room"
    elif code & 0xFF00 == 0xA900:
        words = "the data set does not match its SOP class"
    elif code & 0xF000 == 0xC000:
        words = "the archive cannot read it"
    else:
        words = {
            0x0110: "the archive failed",
            0x0111: "other content under a UID that the archive holds",
            0x0122: "SOP class not supported",
        }.get(code, "refused")
    return f"{words} (0x{code:04X})"
