"""One operation under way in a caller's association, the answers to it, and how it ends when nobody takes it.

How it is carried from upstream to upstream is `carrying`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from failover.dicom.dimse import Command, Status, Tag, response
from failover.dicom.messages import Message
from failover.errors import LimitExceeded
from failover.health.passive import Outcome
from failover.model import UpstreamName
from failover.relay.operations import Operation
from failover.routing.selection import Kind

_log = structlog.get_logger(__name__)


class LegLost(Exception):
    """The leg died, hangs, broke the protocol, or its upstream is no longer to be waited for."""

    def __init__(self, sentence: str, outcome: Outcome) -> None:
        super().__init__(sentence)
        self.outcome = outcome


class CallerLeft(Exception):
    """The caller aborted or its connection died: whatever is under way has no taker."""


def answers(request: Command, command: Command) -> bool:
    """Whether `command` answers `request`: its command field, its Message ID (PS3.7 9.1, E.1)."""
    return command.field == request.field | 0x8000 and command.message_id == request.message_id


@dataclass(frozen=True, slots=True)
class Answer:
    """The final response to an operation, not yet passed on. `delivered`: what came before it."""

    command: Command
    data_set: bytes | None = None
    delivered: int = 0
    upstream_at_fault: bool = False  # although its status speaks of the object


@dataclass(slots=True)
class Flight:
    """One operation under way."""

    policy: Operation
    request: Message
    token: int = 0
    cancel_sent: bool = False
    unkept: bool = False  # what it carries is not kept (any more), so that no other upstream can get it
    sent: bool = False  # a byte of it was given to an upstream
    moved: bool = False
    hollow: bool = False  # the backup's answer did not count, because the primary was not down
    refused: dict[UpstreamName, Answer] = field(default_factory=dict)
    lost: Counter[UpstreamName] = field(default_factory=Counter)  # cleared when both are asked anew
    losses: int = 0
    acknowledged: Callable[[UpstreamName, int], Awaitable[None]] | None = None  # told before the caller is

    @property
    def context_id(self) -> int:
        return self.request.context_id

    @property
    def message_id(self) -> int:
        return self.request.command.message_id

    def is_answered_by(self, command: Command) -> bool:
        """Whether `command` is a response to this very request."""
        return answers(self.request.command, command)


def own_response(flight: Flight, status: int, comment: str | None = None) -> Command:
    """A response that we make ourselves."""
    return response(flight.request.command, status, {Tag.ERROR_COMMENT: comment})


def not_taken(flight: Flight) -> Command:
    """The answer when the upstream of a re-opened leg does not take the operation's presentation context.

    Of a C-STORE 0x0122 would say that the object is at fault, so that a modality would not try again.
    """
    status = flight.policy.lost if flight.policy.kind is Kind.STORE else Status.SOP_CLASS_NOT_SUPPORTED
    return own_response(flight, status, "not taken by the archive that answers now")


def too_long(flight: Flight, error: LimitExceeded) -> Command:
    """The answer to an operation whose identifier is beyond our limit."""
    _log.warning("identifier too long", operation=flight.policy.name, why=str(error))
    return own_response(flight, Status.IDENTIFIER_DOES_NOT_MATCH, "identifier too long")
