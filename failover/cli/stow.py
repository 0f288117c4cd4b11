"""Sends Part 10 files by STOW-RS (PS3.18 10.5), batch by batch, and reads what became of each.

Leaves choosing files and telling people to `importing`. One connection, kept; a batch streams from disk.
"""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from failover.cli.sources import READ_ERRORS, Content, Source, SourceUnreadable

# The archive syncs once for a whole batch: larger ones are faster, smaller ones move the progress bar.
BATCH_FILES: Final = 25
BATCH_BYTES: Final = 64 * 2**20
# Tells the archive that the debt of this object comes from an import.
ORIGIN_HEADER: Final = "X-Failover-Origin"
_REFERENCED: Final = "00081199"  # Referenced SOP Sequence
_REFERENCED_UID: Final = "00081155"  # Referenced SOP Instance UID
_FAILED: Final = "00081198"  # Failed SOP Sequence
# Longer than the archive needs to sync a batch on a slow disk.
_TIMEOUT_S: Final = 120.0
_CHUNK_BYTES: Final = 256 * 1024


class ArchiveUnreachable(Exception):
    """No archive answers there; the message says where and why."""


class Outcome(StrEnum):
    KEPT = "kept"
    REFUSED = "refused"


Result = tuple[Outcome, str]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of each file of a batch, and the SOP instance UIDs of what was kept, in no order."""

    results: list[Result]
    kept: list[str]


def batches(files: Sequence[Source]) -> Iterator[list[Source]]:
    """Yield `files` in order, at most BATCH_FILES and about BATCH_BYTES at a time."""
    batch: list[Source] = []
    size = 0
    for file in files:
        bytes_ = file.size_bytes
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
        self._dicomweb = dicomweb_path.rstrip("/")
        self._connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)

    def close(self) -> None:
        self._connection.close()

    def holds(self, sop_instance_uids: Sequence[str]) -> bool:
        """Return whether the archive shows all of these; False also when it does not answer."""
        wanted = set(sop_instance_uids)
        uids = ",".join(sorted(wanted))
        try:
            self._connection.request(
                "GET",
                f"{self._dicomweb}/instances?SOPInstanceUID={uids}&limit={len(wanted)}",
                headers={"Accept": "application/dicom+json"},
            )
            return len(json.loads(self._connection.getresponse().read())) == len(wanted)
        except (OSError, http.client.HTTPException, ValueError, TypeError):
            self._connection.close()
            return False

    def send(self, batch: Sequence[Source]) -> Sent:
        """Return what became of each file. Raises ArchiveUnreachable when no archive answers."""
        if len(batch) > 1:
            with suppress(SourceUnreadable):
                status, answer = self._post(batch)
                if status == 200 and len(_items(answer, _REFERENCED)) == len(batch):
                    return Sent([(Outcome.KEPT, "")] * len(batch), _kept(answer))
        # The answer names SOP instance UIDs, not files: one by one tells which file it was. What is already
        # kept is known to the archive, and known again costs little.
        kept: list[str] = []
        return Sent([self._send_one(file, kept) for file in batch], kept)

    def _send_one(self, file: Source, kept: list[str]) -> Result:
        try:
            status, answer = self._post([file])
        except SourceUnreadable as error:
            return Outcome.REFUSED, str(error)
        if status in (200, 202) and _items(answer, _REFERENCED):
            kept += _kept(answer)
            return Outcome.KEPT, ""
        reasons = [_failure_words(item) for item in _items(answer, _FAILED)]
        return Outcome.REFUSED, reasons[0] if reasons else f"the archive answered {status}"

    def _post(self, files: Sequence[Source]) -> tuple[int, dict[str, Any]]:
        """Send one request; a kept connection that the archive has closed meanwhile is opened once more."""
        for attempt in (1, 2):
            try:
                return self._request(files)
            except SourceUnreadable:
                self._connection.close()  # half a request is out
                raise
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if attempt == 2 or isinstance(error, ConnectionRefusedError):
                    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise ArchiveUnreachable(f"no archive answers at {self._where}: {why}") from error
        raise AssertionError("unreachable")

    def _request(self, files: Sequence[Source]) -> tuple[int, dict[str, Any]]:
        boundary = f"failover-{secrets.token_hex(24)}"
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"--{boundary}--\r\n".encode()
        with ExitStack() as stack:
            opened = [(stack.enter_context(closing(file.open())), file) for file in files]
            sizes = [file.size_bytes for file in files]
            length = sum(len(head) + size + 2 for size in sizes) + len(tail)
            self._connection.request(
                "POST",
                f"{self._dicomweb}/studies",
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


def _body(
    opened: Sequence[tuple[Content, Source]], sizes: Sequence[int], head: bytes, tail: bytes
) -> Iterator[bytes]:
    for (content, source), size in zip(opened, sizes, strict=True):
        yield head
        left = size
        while left:
            try:
                chunk = content.read(min(left, _CHUNK_BYTES))
            except READ_ERRORS as error:
                raise SourceUnreadable(getattr(error, "strerror", None) or "cannot be read") from error
            if not chunk:
                raise SourceUnreadable(f"{source.name} became shorter while it was read")
            left -= len(chunk)
            yield chunk
        yield b"\r\n"
    yield tail


def _items(answer: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    element = answer.get(tag)
    items = element.get("Value") if isinstance(element, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _kept(answer: dict[str, Any]) -> list[str]:
    found = [item.get(_REFERENCED_UID, {}).get("Value") or [] for item in _items(answer, _REFERENCED)]
    return [str(uid) for values in found for uid in values]


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
