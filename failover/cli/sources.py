"""Where the objects of an import are: files, folders, DICOMDIRs, members of zip archives; `stow` sends them.

Nothing is unpacked to disk: a member streams out of its archive while it is sent. What a DICOMDIR or a zip
names outside of itself is not followed.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from failover.dicom.part10 import read_head
from failover.errors import UnreadableDataSet

_MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR
_HEAD_BYTES: Final = 4096


class SourceUnreadable(Exception):
    """It cannot be read, or is none of what its name says; nothing is wrong with the archive."""


class Content(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class Source(Protocol):
    """One object to be sent. `open` raises SourceUnreadable; reading raises what `READ_ERRORS` names."""

    @property
    def name(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def key(self) -> str: ...

    def open(self) -> Content: ...


# What reading a file, or inflating a member of a zip, raises.
READ_ERRORS: Final = (OSError, zlib.error, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of its own."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def size_bytes(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    @property
    def key(self) -> str:
        """The same as long as the file is."""
        try:
            stat = self.path.stat()
        except OSError:
            return ""
        return _key(str(self.path.resolve()), stat.st_size, stat.st_mtime_ns)

    def open(self) -> Content:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise SourceUnreadable(error.strerror or "cannot be read") from error


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a zip archive, which stays open while its members are sent."""

    path: Path
    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    @property
    def name(self) -> str:
        return f"{self.path}:{self.info.filename}"

    @property
    def size_bytes(self) -> int:
        return self.info.file_size

    @property
    def key(self) -> str:
        return _key(str(self.path.resolve()), self.info.header_offset, self.info.CRC, self.info.file_size)

    def open(self) -> Content:
        try:
            return self.archive.open(self.info)
        except READ_ERRORS as error:
            raise SourceUnreadable(_words(error)) from error


@dataclass(slots=True)
class Found:
    """What lies below the given paths. `problems`: zips and DICOMDIRs that cannot be read, and why."""

    sources: list[Source]
    others: int
    problems: list[str]


def find(paths: list[Path]) -> Found:
    """Return the DICOM objects below `paths`, each once; other files are counted."""
    found = Found([], 0, [])
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            files.update((file, None) for file in sorted(path.rglob("*")) if file.is_file())
        elif _is_dicomdir(path):
            files.update((file, None) for file in _named_by(path, found))
        else:
            files[path] = None
    for file in files:
        if is_part10(file):
            found.sources.append(FileSource(file))
        elif zipfile.is_zipfile(file):
            found.sources += _members(file, found)
        else:
            found.others += 1
    return found


def is_part10(path: Path) -> bool:
    """Return whether the file has the DICOM prefix (PS3.10 7.1) and is no DICOMDIR."""
    try:
        head = _head(path)
    except OSError:
        return True  # it is told as a failure when it is sent, not silently left out
    return _is_object(head)


def _is_object(head: bytes) -> bool:
    return head[128:132] == b"DICM" and _sop_class(head) != _MEDIA_STORAGE_DIRECTORY


def _sop_class(head: bytes) -> str:
    try:
        return read_head(head).sop_class_uid
    except UnreadableDataSet:
        return ""  # whether it is an object is the archive's to say


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _is_dicomdir(path: Path) -> bool:
    try:
        return _sop_class(_head(path)) == _MEDIA_STORAGE_DIRECTORY
    except OSError:
        return False


def _named_by(dicomdir: Path, found: Found) -> Iterator[Path]:
    """Yield the files that a DICOMDIR names (PS3.3 F.3.2.2), below its own folder alone."""
    import pydicom

    try:
        records = pydicom.dcmread(dicomdir).DirectoryRecordSequence
        named = [record.get("ReferencedFileID") for record in records]
    except Exception:  # pydicom raises whatever a broken file makes it raise
        found.problems.append(f"{dicomdir}: a DICOMDIR that cannot be read")
        return
    folder = dicomdir.parent.resolve()
    for parts in named:
        if not parts:
            continue
        parts = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        path = _without_case(folder, parts)
        if path is None or not path.resolve().is_relative_to(folder):
            found.problems.append(f"{dicomdir}: names {'/'.join(parts)}, which is not there")
        else:
            yield dicomdir.parent / path.relative_to(folder)


def _without_case(folder: Path, parts: list[str]) -> Path | None:
    """Return the file; media that were copied often have their names in lower case, or with a version."""
    at = folder
    for part in parts:
        if part in ("", ".", ".."):
            return None
        if not (at / part).exists():
            try:
                names = os.listdir(at)
            except OSError:
                return None
            like = [name for name in names if name.split(";")[0].rstrip(".").lower() == part.lower()]
            if not like:
                return None
            part = like[0]
        at = at / part
    return at if at.is_file() else None


def _members(path: Path, found: Found) -> Iterator[Source]:
    """Yield the DICOM objects in a zip; their heads are read, no more."""
    try:
        archive = zipfile.ZipFile(path)
        infos = archive.infolist()
    except READ_ERRORS as error:
        found.problems.append(f"{path}: {_words(error)}")
        return
    for info in infos:
        if info.is_dir():
            continue
        try:
            with archive.open(info) as member:
                is_object = _is_object(member.read(_HEAD_BYTES))
        except READ_ERRORS as error:
            found.problems.append(f"{path}:{info.filename}: {_words(error)}")
            continue
        if is_object:
            yield Member(path, archive, info)
        else:
            found.others += 1


def _words(error: BaseException) -> str:
    if isinstance(error, RuntimeError) and "password" in str(error):
        return "it is encrypted"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (
        "the zip archive is broken"
        if not isinstance(error, NotImplementedError)
        else "compressed in a way unknown here"
    )


def _key(*facts: object) -> str:
    return hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()
