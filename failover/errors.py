"""The exception tree on one page. Each class says what the one who catches it may do next. Pure.

Messages never hold a patient's name, an ID, a UID or an accession number: they reach logs and callers.
"""

from __future__ import annotations

from pathlib import Path


class FailoverError(Exception):
    """Root of all errors that this package raises on purpose."""


def whence(error: BaseException) -> str:
    """Return the innermost places of `error`, for a log: no message, no value, which may be a patient's."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " < ".join(reversed(places[-4:]))


# -- what the operator can mend ---------------------------------------------------------------------


class ConfigurationError(FailoverError):
    """The configuration cannot be used. `problems` are finished lines, one each: print them, exit 2."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class PortTaken(FailoverError):
    """A listener could not be opened. The message names the key and the address: print it, exit 1."""


class TlsUnusable(FailoverError):
    """A certificate, key or CA file cannot serve. `path` and `why`; the message has both: print it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


class StateUnreadable(FailoverError):
    """A file of ours exists but cannot be read as what it should be. Start without it, and say so."""


# -- what an operator asks for ----------------------------------------------------------------------


class IntentError(FailoverError):
    """What the operator asked for was not done; nothing was changed or recorded. The message says why."""


class Refused(IntentError):
    """Well formed, but it would do harm now (an upstream that is down, a gate): HTTP 409, exit 1."""


class Unprocessable(IntentError):
    """It makes no sense as asked (no reason, an upstream that this mode has not): HTTP 422, exit 2."""


# -- the identity provider --------------------------------------------------------------------------


class ProviderUnavailable(FailoverError):
    """It gave no usable answer, later it may. The message says why, for the log."""


class LoginRefused(FailoverError):
    """What came back from it proves nothing about the caller, who may begin anew. The message says why."""


# -- upstreams --------------------------------------------------------------------------------------


class UpstreamError(FailoverError):
    """An upstream did not do what was asked."""


class UpstreamUnreachable(UpstreamError):
    """Nothing was sent, so anything may go to the other upstream."""


class UpstreamBroke(UpstreamError):
    """Sent but not answered whole: move it only if it is safe to repeat."""


class UpstreamRefused(UpstreamError):
    """It answered, and the answer was no. `transient` tells whether it may be asked again."""

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


class LoginWanted(UpstreamRefused):
    """It answers nobody who shows no credentials (401, 403), and we have none: more cannot be told."""


class AssociationRejected(UpstreamRefused):
    """A-ASSOCIATE-RJ (PS3.8 9.3.4). `transient` is result 2; source and reason as they came."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(
            f"A-ASSOCIATE-RJ result {result}, source {source}, reason {reason}", transient=result == 2
        )
        self.result, self.source, self.reason = result, source, reason


class UpstreamTimeout(UpstreamError):
    """No answer within the limit. It may still come, and may still have been carried out."""


class NoUpstream(UpstreamError):
    """Neither upstream could take it within the limit: 503 with Retry-After, or A-ASSOCIATE-RJ 3/1."""


# -- protocol ---------------------------------------------------------------------------------------


class ProtocolError(FailoverError):
    """A peer broke the protocol. Answer as the protocol says and close; others are unharmed."""


class MalformedHead(ProtocolError):
    """An HTTP head that has no single strict reading (RFC 9112): `status` and close."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class MalformedBody(ProtocolError):
    """Body framing that has no single strict reading (RFC 9112, section 6 and 7): close."""


class MalformedPdu(ProtocolError):
    """A DICOM PDU that is not as PS3.8 section 9.3 has it: A-ABORT with `reason` (PS3.8 9.3.8)."""

    def __init__(self, message: str, *, reason: int) -> None:
        super().__init__(message)
        self.reason = reason


class MalformedMessage(ProtocolError):
    """A DIMSE message (PS3.7) that cannot be read: A-ABORT, invalid PDU parameter value."""


class AssociationEnded(ProtocolError):
    """The association is gone: aborted by the peer or by us, or its connection died. Nothing more goes."""


class MalformedMultipart(ProtocolError):
    """A multipart body (RFC 2046) that cannot be read: 400."""


class LimitExceeded(ProtocolError):
    """A peer wants more than it may have (size, count, time): refuse, nothing was buffered beyond it."""


# -- storage ----------------------------------------------------------------------------------------


class StorageError(FailoverError):
    """Nothing was kept, and nothing half written is left."""


class DiskFull(StorageError):
    """No room: C-STORE 0xA700, HTTP 507."""


class UnreadableDataSet(StorageError):
    """Not a data set that can be kept: C-STORE 0xC000, STOW failure reason 0xC000."""


class DataSetMismatch(UnreadableDataSet):
    """A data set that is not of the SOP class or instance that was announced: C-STORE 0xA900."""


class SpoolFull(StorageError):
    """The spool's bound is reached: the body goes on unprotected, and is counted."""


class Conflict(StorageError):
    """Known SOP instance UID under another patient or with other content: quarantined."""


class NotHeld(FailoverError):
    """Asked for something that this archive does not hold."""


# -- between our own processes ----------------------------------------------------------------------


class ControlError(FailoverError):
    """The other process of ours could not be asked, or said no."""


class ControlUnreachable(ControlError):
    """The other process is not there (yet). Ask again."""
