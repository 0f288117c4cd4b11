"""How an association is offered to upstreams, and how their answer becomes the caller's. Pure.

It leaves out what we cannot promise: the asynchronous operations window is not passed on (one operation at
a time, PS3.7 D.3.3.3). Everything else of the A-ASSOCIATE-RQ goes through unchanged but the called AE title.
What the caller was promised holds at the other upstream too, or the operation ends with a status there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from failover.dicom.derived import Derived
from failover.dicom.negotiation import VERIFICATION, Acceptance, Rejection
from failover.dicom.units import (
    AssociateAc,
    AssociateRq,
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    ProposedContext,
    RoleSelection,
    UserIdentity,
)
from failover.model import UpstreamName
from failover.routing.selection import Choice, Kind

PATIENCE_S: Final = 1.0  # how long an upstream may take for its AC while the other one could take it
PATIENCE_BUSY_S: Final = 3.0  # the same while it answers others: Orthanc with idle associations takes 1 s
NEITHER_S: Final = 5.0  # how long both are asked again before the caller hears no
AGAIN_EVERY_S: Final = 0.2

_STORAGE_PREFIX: Final = "1.2.840.10008.5.1.4.1.1."
_QUERY_PREFIXES: Final = ("1.2.840.10008.5.1.4.1.2.", "1.2.840.10008.5.1.4.31", "1.2.840.10008.5.1.4.37")


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is asked of an upstream."""

    calling_bytes: bytes
    contexts: tuple[ProposedContext, ...]
    roles: tuple[RoleSelection, ...]
    extended: tuple[ExtendedNegotiation, ...]
    common_extended: tuple[CommonExtendedNegotiation, ...]
    identity: UserIdentity | None
    derived: Derived | None = field(default=None, compare=False, repr=False)  # of one that comes again


def first_proposal(rq: AssociateRq) -> Proposal:
    """Return what is proposed while the caller waits for its AC: all that it proposed itself."""
    if rq.derived is None:
        return _proposal(rq, rq.contexts, rq.user.roles, rq.user.extended, None)
    known: Proposal | None = rq.derived.find("proposal")
    if known is None:
        known = _proposal(rq, rq.contexts, rq.user.roles, rq.user.extended, Derived())
        rq.derived.keep("proposal", known)
    return known


def _proposal(
    rq: AssociateRq,
    contexts: tuple[ProposedContext, ...],
    roles: tuple[RoleSelection, ...],
    extended: tuple[ExtendedNegotiation, ...],
    derived: Derived | None,
) -> Proposal:
    common, identity = rq.user.common_extended, rq.user.identity
    return Proposal(rq.calling_bytes, contexts, roles, extended, common, identity, derived)


def later_proposal(rq: AssociateRq, agreed: AssociateAc) -> Proposal:
    """Return what is proposed once the caller has its AC: only what it was promised, syntax by syntax."""
    if rq.derived is None or agreed.derived is None:
        return _later_proposal(rq, agreed, None)
    known: Proposal | None = rq.derived.find("later", agreed)
    if known is None:
        known = _later_proposal(rq, agreed, Derived())
        rq.derived.keep("later", known, agreed)
    return known


def _later_proposal(rq: AssociateRq, agreed: AssociateAc, derived: Derived | None) -> Proposal:
    syntaxes = {result.context_id: result.transfer_syntax for result in agreed.contexts if result.accepted}
    contexts = tuple(
        ProposedContext(context.context_id, context.abstract_syntax, (syntaxes[context.context_id],))
        for context in rq.contexts
        if context.context_id in syntaxes
    )
    promised = {role.sop_class for role in agreed.user.roles}
    roles = tuple(role for role in rq.user.roles if role.sop_class in promised)
    told = {item.sop_class: item for item in agreed.user.extended}
    # What the first upstream did not grant nobody expects: another one must not match by it.
    extended = tuple(
        told[item.sop_class] if item.sop_class.startswith(_QUERY_PREFIXES) else item
        for item in rq.user.extended
        if item.sop_class in told
    )
    return _proposal(rq, contexts, roles, extended, derived)


# PS3.4 C.5.1.1: bytes 2 to 4 for a search are combined date-time matching, fuzzy matching of person names and
# adjustment to the time zone. Without them it matches otherwise, and nobody sees it. Byte 1 is not among
# them: who does not know relational queries answers one with a failure.
_FIRST_BYTE, _AFTER_LAST = 1, 4


def keeps_promise(
    promised: Sequence[ExtendedNegotiation], granted: Sequence[ExtendedNegotiation], abstract_syntax: str
) -> bool:
    """Whether who `granted` this matches as the caller was `promised`, for an operation on this SOP class."""
    if not abstract_syntax.startswith(_QUERY_PREFIXES):
        return True
    given = next((item.content for item in granted if item.sop_class == abstract_syntax), b"")
    asked = next((item.content for item in promised if item.sop_class == abstract_syntax), b"")
    here = given[_FIRST_BYTE:_AFTER_LAST].ljust(len(asked), b"\0")
    return all(not wanted or got for wanted, got in zip(asked[_FIRST_BYTE:_AFTER_LAST], here, strict=False))


def caller_answer(answer: AssociateAc, companion: object) -> Acceptance:
    """Return the caller's AC: contexts, syntaxes, roles, extended negotiation as the upstream gave them."""
    return Acceptance(
        contexts=answer.contexts,
        roles=answer.user.roles,
        extended=answer.user.extended,
        identity_response=answer.user.identity_response,
        companion=companion,
    )


def kind_of(rq: AssociateRq) -> Kind:
    """Return for what an association is opened, by its abstract syntaxes: where it is offered first."""
    if rq.derived is None:
        return _kind_of(rq)
    known: Kind | None = rq.derived.find("kind")
    if known is None:
        known = _kind_of(rq)
        rq.derived.keep("kind", known)
    return known


def _kind_of(rq: AssociateRq) -> Kind:
    syntaxes = [c.abstract_syntax for c in rq.contexts if c.abstract_syntax != VERIFICATION]
    if not syntaxes or any(syntax.startswith(_QUERY_PREFIXES) for syntax in syntaxes):
        return Kind.READ
    if any(syntax.startswith(_STORAGE_PREFIX) for syntax in syntaxes):
        return Kind.STORE
    return Kind.OTHER


class Refusal(StrEnum):
    """How an upstream did not take an association."""

    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    BROKE = "broke"  # died before its AC, or answered rubbish
    TRANSIENT = "transient"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class OfferTo:
    upstream: UpstreamName


@dataclass(frozen=True, slots=True)
class PassOn:
    """The caller gets this upstream's permanent rejection."""

    upstream: UpstreamName


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Neither takes it now; after NEITHER_S the caller gets RJ transient 3/1."""


def next_offer(choice: Choice, tried: Mapping[UpstreamName, Refusal]) -> OfferTo | PassOn | AskAgain:
    """Return what follows in one round: the first, then the rescuer, then again.

    A permanent rejection is an answer, unless it is the backup's while the primary is not down (DESIGN 4.1).
    """
    for upstream in (choice.first, choice.rescue):
        if upstream is None:
            continue
        refusal = tried.get(upstream)
        if refusal is None:
            return OfferTo(upstream)
        hollow = choice.provisional and upstream is UpstreamName.BACKUP
        if refusal is Refusal.PERMANENT and not hollow:
            return PassOn(upstream)
    return AskAgain()


def patience_s(choice: Choice, upstream: UpstreamName, *, answers_others: bool) -> float:
    """Return how long to wait for this upstream's AC before the other one is asked."""
    if choice.rescue is None or upstream is choice.rescue:
        return NEITHER_S
    return PATIENCE_BUSY_S if answers_others else PATIENCE_S


def rejection_of(result: int, source: int, reason: int) -> Rejection:
    """Return an upstream's rejection as the caller gets it."""
    return Rejection(result, source, reason, "the upstream rejected it")
