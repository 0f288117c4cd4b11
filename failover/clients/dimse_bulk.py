"""DIMSE work in bulk, as an SCU (PS3.4): C-FIND, C-GET, C-MOVE, C-STORE by pynetdicom, in threads of its own.

Each call opens one association, does its batch and releases it, so that no slot of a PACS stays taken. It
answers what the peer said; what to ask, and what follows, is decided by the caller. pynetdicom costs 55 MB,
so it is imported at the first call: only the replicator and the archive ever make one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from failover.clients.checkpoint import keep_answers
from failover.clients.stored import NOT_SENT, Stored
from failover.errors import (
    TlsUnusable,
    UpstreamBroke,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from failover.model import AeTitle, DicomPeer
from failover.tls import client_context

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
# PS3.4 C.6.2.1, C.6.2.2, C.6.2.3: Study Root Query/Retrieve, which every archive has.
FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
UNCOMPRESSED: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
# What an archive may keep its objects in: proposed one by one, so that C-GET brings them as they are.
KEPT_IN: Final = (
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless SV1
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
    "1.2.840.10008.1.2.5",  # RLE lossless
)
# PS3.8 9.3.2.2: presentation context IDs are odd and below 256, so one association has 128 at most.
_MAX_CONTEXTS: Final = 128
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122  # PS3.7 annex C.5.6
# A larger compressed object is not decoded in memory: it is reported as one that the peer does not take.
_MAX_DECODED_BYTES: Final = 128 * 2**20
_SUCCESS: Final = 0x0000
_PENDING: Final = (0xFF00, 0xFF01)
_WARNINGS: Final = range(0xB000, 0xC000)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One Part 10 file to be stored."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The counters of a finished C-MOVE (PS3.4 C.4.2.1.5 to 1.8) and its status."""

    status: int
    completed: int
    failed: int
    warning: int


class NoContext(UpstreamRefused):
    """The peer has no such service: no presentation context for it was accepted. Use another way."""


# Neither as it is nor in another encoding: the same as a refused SOP class (PS3.7 C.5.6).
_NO_CONTEXT: Final = Stored(False, SOP_CLASS_NOT_SUPPORTED, "C-STORE: no presentation context")


class DimseBulk:
    """One peer, asked under one calling AE title by at most `concurrency` associations at a time."""

    def __init__(
        self,
        peer: DicomPeer,
        calling_ae: AeTitle,
        *,
        timeout_s: float = 30.0,
        connect_s: float = 5.0,
        concurrency: int = 2,
    ) -> None:
        """`timeout_s`: how long the peer may be silent within an operation."""
        self._peer, self._calling_ae = peer, calling_ae
        self._timeout_s, self._connect_s = timeout_s, connect_s
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="dimse")
        self._open: set[Association] = set()
        self._retrieving: set[Association] = set()  # of these, with a C-GET or C-MOVE under way
        self._lock = threading.Lock()
        self._closed = False

    async def close(self) -> None:
        """Abort what is open; its callers get UpstreamBroke."""
        self._closed = True
        await self._abort(self._open)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def abort_retrieves(self) -> None:
        """Abort the C-GETs and C-MOVEs under way; callers get UpstreamBroke or what has come."""
        await self._abort(self._retrieving)

    async def _abort(self, associations: set[Association]) -> None:
        with self._lock:
            living = list(associations)
        for association in living:
            with contextlib.suppress(Exception):  # it may end by itself this very moment
                await asyncio.to_thread(association.abort)

    # -- what it can do; each raises UpstreamError

    async def find(self, identifiers: Sequence[Dataset]) -> list[list[Dataset]]:
        """Ask each of `identifiers` (Study Root) in one association; return the matches of each."""
        return await self._in_thread(lambda: self._find(identifiers))

    async def get(
        self, identifier: Dataset, sop_classes: Iterable[str], folder: Path
    ) -> tuple[int, list[Path]]:
        """C-GET what `identifier` names into `folder`, one Part 10 file each; return status and files.

        `sop_classes` are the storage SOP classes to expect, nine at most. Raises NoContext when the peer has
        no C-GET. Files of an association that died are returned with status 0xFFFF: they are whole.
        """
        wanted = tuple(dict.fromkeys(sop_classes))
        return await self._in_thread(lambda: self._get(identifier, wanted, folder))

    async def move(self, identifier: Dataset, destination: AeTitle, message_id: int) -> Moved:
        """C-MOVE what `identifier` names to `destination`; its stores carry our AE title and `message_id`."""
        return await self._in_thread(lambda: self._move(identifier, destination, message_id))

    async def store(self, objects: Sequence[Outgoing]) -> dict[str, Stored]:
        """C-STORE `objects` in one association; return what the peer said, by SOP instance UID.

        What is missing in the answer was not answered: its fate is unknown. What was never sent is answered
        by `NOT_SENT`. Raises UpstreamError only when nothing was.
        """
        return await self._in_thread(lambda: self._store(objects))

    # -- the same, blocking

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        if self._closed:
            raise UpstreamUnreachable("shutting down")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _find(self, identifiers: Sequence[Dataset]) -> list[list[Dataset]]:
        with self._association([_context(FIND, UNCOMPRESSED)]) as association:
            return [self._one_find(association, identifier) for identifier in identifiers]

    def _one_find(self, association: Association, identifier: Dataset) -> list[Dataset]:
        matches = []
        for answer, match in association.send_c_find(identifier, FIND):
            status = _status(association, answer, "C-FIND")
            if status in _PENDING:
                if match is None:
                    raise UpstreamBroke("C-FIND: a match that cannot be read")
                matches.append(match)
            elif status != _SUCCESS:
                raise _refused("C-FIND", status)
        return matches

    def _get(self, identifier: Dataset, sop_classes: Sequence[str], folder: Path) -> tuple[int, list[Path]]:
        from pynetdicom import build_role, evt

        contexts = [_context(GET, UNCOMPRESSED)]
        for sop_class in sop_classes:
            contexts.append(_context(sop_class, UNCOMPRESSED))
            contexts += [_context(sop_class, [UID(syntax)]) for syntax in KEPT_IN]
        if len(contexts) > _MAX_CONTEXTS:
            raise ValueError(f"{len(sop_classes)} SOP classes do not fit into one association")
        received: list[Path] = []

        def keep(event: Any) -> int:
            target = folder / f"get-{threading.get_ident()}-{len(received)}-{os.urandom(6).hex()}.dcm"
            try:
                _take_over(event.dataset_path, target)
            except OSError:
                target.unlink(missing_ok=True)
                return 0xA700  # out of resources: what could not be kept must not be counted as brought
            received.append(target)
            return _SUCCESS

        roles = [build_role(sop_class, scp_role=True) for sop_class in sop_classes]
        status = 0xFFFF
        with (
            self._association(contexts, roles, [(evt.EVT_C_STORE, keep)]) as association,
            self._retrieves(association),
        ):
            if not _accepted(association, GET):
                raise NoContext("C-GET is not offered", transient=False)
            try:
                for answer, _ in association.send_c_get(identifier, GET):
                    status = _status(association, answer, "C-GET")
            except UpstreamError:
                if not received:
                    raise
                status = 0xFFFF
        return status, received

    def _move(self, identifier: Dataset, destination: AeTitle, message_id: int) -> Moved:
        with (
            self._association([_context(MOVE, UNCOMPRESSED)]) as association,
            self._retrieves(association),
        ):
            last = Moved(0xFFFF, 0, 0, 0)
            for answer, _ in association.send_c_move(identifier, destination, MOVE, msg_id=message_id):
                last = Moved(
                    _status(association, answer, "C-MOVE"),
                    int(answer.get("NumberOfCompletedSuboperations", 0) or 0),
                    int(answer.get("NumberOfFailedSuboperations", 0) or 0),
                    int(answer.get("NumberOfWarningSuboperations", 0) or 0),
                )
        if last.status != _SUCCESS and last.status not in _WARNINGS:
            raise _refused("C-MOVE", last.status)
        return last

    def _store(self, objects: Sequence[Outgoing]) -> dict[str, Stored]:
        contexts = _store_contexts(objects)
        answered: dict[str, Stored] = {}
        try:
            with self._association(contexts) as association:
                for number, item in enumerate(objects):
                    try:
                        answered[item.sop_instance_uid] = self._one_store(association, item)
                    except UpstreamUnreachable:
                        if not number:
                            raise
                        return answered | dict.fromkeys(_uids(objects[number:]), NOT_SENT)
                    except UpstreamError:  # the association is gone, and this one may be there
                        return answered | dict.fromkeys(_uids(objects[number + 1 :]), NOT_SENT)
        except NoContext:
            # It takes none of these classes: each object is refused, as it is among others that it takes.
            return dict.fromkeys(_uids(objects), _NO_CONTEXT)
        return answered

    def _one_store(self, association: Association, item: Outgoing) -> Stored:
        source: Path | Dataset | None = item.path
        if not _accepted(association, item.sop_class_uid, item.transfer_syntax_uid):
            source = _uncompressed(item) if _accepted(association, item.sop_class_uid) else None
        if source is None:
            return _NO_CONTEXT
        try:
            answer = association.send_c_store(source)
        except (ValueError, AttributeError, FileNotFoundError) as error:  # it reads the file before it sends
            return Stored(False, None, f"C-STORE: {type(error).__name__}")
        except RuntimeError as error:  # it looks before it sends
            raise UpstreamUnreachable("C-STORE: the association has ended") from error
        status = _status(association, answer, "C-STORE")
        if status == _SUCCESS or status in _WARNINGS:
            return Stored(True)
        return Stored(False, status, f"C-STORE: status {status:#06x}")

    @contextlib.contextmanager
    def _retrieves(self, association: Association) -> Iterator[None]:
        with self._lock:
            self._retrieving.add(association)
        try:
            yield
        finally:
            with self._lock:
                self._retrieving.discard(association)

    def _tls_args(self) -> tuple[ssl.SSLContext, str] | None:
        tls, host = self._peer.tls, self._peer.address.host
        try:
            return None if tls is None else (client_context(tls), tls.name_for(host))
        except TlsUnusable as error:
            raise UpstreamUnreachable(str(error)) from error

    @contextlib.contextmanager
    def _association(
        self,
        contexts: Sequence[PresentationContext],
        roles: Sequence[Any] = (),
        handlers: Sequence[Any] = (),
    ) -> Iterator[Association]:
        entity = _quiet_entity(self._calling_ae)
        entity.acse_timeout = entity.dimse_timeout = self._timeout_s
        entity.network_timeout = self._timeout_s
        entity.connection_timeout = self._connect_s
        association = entity.associate(
            self._peer.address.host,
            self._peer.address.port,
            contexts=list(contexts),
            ae_title=self._peer.ae_title,
            ext_neg=list(roles),
            evt_handlers=list(handlers),
            tls_args=self._tls_args(),
        )
        if not association.is_established:
            raise _not_established(association)
        keep_answers(association)
        with self._lock:
            self._open.add(association)
        try:
            yield association
        finally:
            with self._lock:
                self._open.discard(association)
            if association.is_established:
                association.release()


def identifier(level: str, keys: Mapping[str, str | Sequence[str]]) -> Dataset:
    """Return an identifier: `keys` by keyword, an empty value asks for the attribute (PS3.4 C.2.2.2)."""
    question = Dataset()
    question.SpecificCharacterSet = "ISO_IR 192"
    question.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(question, keyword, value if isinstance(value, str) else list(value))
    return question


def _quiet_entity(calling_ae: AeTitle) -> Any:
    import logging

    from pynetdicom import AE, _config

    # Objects pass through files, never whole through memory; and its log lines could name patients.
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.STORE_SEND_CHUNKED_DATASET = True
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    return AE(calling_ae)


def _context(abstract_syntax: str, transfer_syntaxes: Iterable[UID]) -> PresentationContext:
    from pynetdicom.presentation import build_context

    return build_context(abstract_syntax, list(transfer_syntaxes))


def _store_contexts(objects: Sequence[Outgoing]) -> list[PresentationContext]:
    kinds = dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in objects)
    contexts = [_context(sop_class, [UID(syntax)]) for sop_class, syntax in kinds]
    # Beside each in its own syntax, one with what every acceptor must take (PS3.5 10.1).
    contexts += [_context(sop_class, UNCOMPRESSED) for sop_class in dict.fromkeys(c for c, _ in kinds)]
    if len(contexts) > _MAX_CONTEXTS:
        raise ValueError(f"{len(contexts)} presentation contexts do not fit into one association")
    return contexts


def _uids(objects: Sequence[Outgoing]) -> list[str]:
    return [item.sop_instance_uid for item in objects]


def _uncompressed(item: Outgoing) -> Dataset | None:
    """The object for a peer that takes it uncompressed alone; None when it cannot be had so.

    The same pixels under the same SOP instance UID; pynetdicom writes it in the syntax that was accepted.
    """
    import pydicom

    try:
        if item.path.stat().st_size > _MAX_DECODED_BYTES:
            return None
        instance = pydicom.dcmread(item.path)
        if item.transfer_syntax_uid not in UNCOMPRESSED:
            instance.decompress(generate_instance_uid=False)
    except Exception as error:  # whatever a decoder raises: the object stays as it is, and is reported so
        _log.warning("object cannot be uncompressed for the primary", error=type(error).__name__)
        return None
    return instance


def _accepted(association: Association, abstract_syntax: str, syntax: str | None = None) -> list[str]:
    """The transfer syntaxes accepted for `abstract_syntax`; of these `syntax` alone when it is given."""
    found = [
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == abstract_syntax
    ]
    return [entry for entry in found if syntax in (None, entry)]


def _take_over(source: Path, target: Path) -> None:
    """Make `source`, a temporary file of pynetdicom, our own: by a link where both lie on one disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    source.unlink(missing_ok=True)


def _status(association: Association, answer: Dataset, operation: str) -> int:
    """The status; without one the association is gone."""
    if "Status" in answer:
        return int(answer.Status)
    if association.is_aborted:
        raise UpstreamBroke(f"{operation}: the association was aborted")
    raise UpstreamTimeout(f"{operation}: silent beyond the limit")


def _refused(operation: str, status: int) -> UpstreamRefused:
    # PS3.4 C.4: 0xA7xx is about resources, 0x0110 and 0x0213 about the moment.
    transient = status in (0x0110, 0x0213) or 0xA700 <= status <= 0xA7FF or 0xC000 <= status <= 0xCFFF
    return UpstreamRefused(f"{operation}: status {status:#06x}", transient=transient)


def _not_established(association: Association) -> UpstreamError:
    if association.is_rejected:
        primitive = association.acceptor.primitive
        # PS3.8 9.3.4: result 2 is transient.
        result = getattr(primitive, "result", None)
        return UpstreamRefused("the association was rejected", transient=result == 2)
    accepted = getattr(association.acceptor, "primitive", None)
    if accepted is not None and not association.accepted_contexts:
        return NoContext("no presentation context was accepted", transient=False)
    return UpstreamUnreachable("no association")
