"""What is agreed in an association (PS3.7 annex D, PS3.8 7.1 and 9.3.3). Pure.

It answers requests of callers (`choose_contexts`, `provider_rejection`), reads answers of upstreams
(`agreed_contexts`), and knows the reasons of rejections. Who may connect is for `acceptor`'s owner to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.dicom.units import (
    APPLICATION_CONTEXT,
    AssociateAc,
    AssociateRj,
    AssociateRq,
    ContextOutcome,
    ContextResult,
    ExtendedNegotiation,
    ProposedContext,
    RoleSelection,
    UserInformation,
    comes_again,
)
from failover.errors import MalformedPdu
from failover.model import parse_ae_title

IMPLEMENTATION_CLASS_UID: Final = "2.25.175932886031713049158903114866011418245"
IMPLEMENTATION_VERSION: Final = "FAILOVER"
RELAY_VERSION: Final = "FAILOVER_RELAY"  # by it our archive knows an association that came through the router

VERIFICATION: Final = "1.2.840.10008.1.1"


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4) and why, as a sentence for the log."""

    result: int  # 1 permanent, 2 transient
    source: int  # 1 service-user, 2 service-provider (ACSE), 3 service-provider (presentation)
    reason: int
    sentence: str = ""

    @property
    def permanent(self) -> bool:
        return self.result == 1

    @property
    def pdu(self) -> AssociateRj:
        return AssociateRj(self.result, self.source, self.reason)


NO_REASON: Final = Rejection(1, 1, 1, "no reason given")
APPLICATION_CONTEXT_NOT_SUPPORTED: Final = Rejection(1, 1, 2, "application context name not supported")
CALLING_AE_NOT_RECOGNIZED: Final = Rejection(1, 1, 3, "calling AE title not recognized")
CALLED_AE_NOT_RECOGNIZED: Final = Rejection(1, 1, 7, "called AE title not recognized")
PROTOCOL_VERSION_NOT_SUPPORTED: Final = Rejection(1, 2, 2, "protocol version not supported")
TEMPORARY_CONGESTION: Final = Rejection(2, 3, 1, "temporary congestion")
LOCAL_LIMIT_EXCEEDED: Final = Rejection(2, 3, 2, "local limit exceeded")
# PS3.8 D.1 names no least value, but to obey one of 7 makes a PDU of each byte. DCMTK takes none below 4096.
LEAST_MAX_PDU_BYTES: Final = 1024
MAX_LENGTH_TOO_SMALL: Final = Rejection(1, 2, 1, f"its maximum length is below {LEAST_MAX_PDU_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context in force. Roles are those of the association's requestor."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    scu_role: bool = True
    scp_role: bool = False


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What an acceptor agrees to. `companion` is kept on the association for whoever serves it."""

    contexts: Sequence[ContextResult]
    roles: Sequence[RoleSelection] = ()
    extended: Sequence[ExtendedNegotiation] = ()
    identity_response: bytes | None = None
    companion: Any = field(default=None, compare=False)


def provider_rejection(rq: AssociateRq) -> Rejection | None:
    """Return why no service of ours can take `rq`, None when one may. PS3.8 9.3.2 and 9.3.4."""
    if not rq.protocol_version & 1:
        return PROTOCOL_VERSION_NOT_SUPPORTED
    if rq.application_context != APPLICATION_CONTEXT:
        return APPLICATION_CONTEXT_NOT_SUPPORTED
    if is_too_small(rq.user.max_pdu_bytes):
        return MAX_LENGTH_TOO_SMALL
    for title, rejection in (
        (rq.called_ae, CALLED_AE_NOT_RECOGNIZED),
        (rq.calling_ae, CALLING_AE_NOT_RECOGNIZED),
    ):
        try:
            parse_ae_title(title)
        except ValueError:
            return rejection
    return None


def is_too_small(max_pdu_bytes: int) -> bool:
    """Whether a peer's maximum length is one that we do not obey; 0 means no limit (PS3.8 D.1.1)."""
    return 0 < max_pdu_bytes < LEAST_MAX_PDU_BYTES


def choose_contexts(rq: AssociateRq, supported: Callable[[str], Sequence[str]]) -> list[ContextResult]:
    """Answer each proposed context: of the transfer syntaxes that both know, the first in *our* order.

    `supported` gives our transfer syntaxes for an abstract syntax, best first; empty: we do not know it.
    """
    results: list[ContextResult] = []
    for context in rq.contexts:
        ours = supported(context.abstract_syntax)
        if not ours:
            outcome = ContextOutcome.ABSTRACT_SYNTAX_NOT_SUPPORTED
            results.append(ContextResult(context.context_id, outcome))
            continue
        chosen = next((syntax for syntax in ours if syntax in context.transfer_syntaxes), None)
        if chosen is None:
            outcome = ContextOutcome.TRANSFER_SYNTAXES_NOT_SUPPORTED
            results.append(ContextResult(context.context_id, outcome))
        else:
            results.append(ContextResult(context.context_id, ContextOutcome.ACCEPTED, chosen))
    return results


def accept_roles(rq: AssociateRq, abstract_syntaxes: Iterable[str]) -> tuple[RoleSelection, ...]:
    """Accept each role that the requestor proposes for one of `abstract_syntaxes` (PS3.7 D.3.3.4)."""
    wanted = frozenset(abstract_syntaxes)
    return tuple(role for role in rq.user.roles if role.sop_class in wanted)


def acceptance_ac(rq: AssociateRq, acceptance: Acceptance, max_pdu_bytes: int) -> AssociateAc:
    """Return the AC. Its AE titles are the RQ's bytes (PS3.8 9.3.3), and it has no asynchronous operations
    window, which means that one operation is under way at a time (PS3.7 D.3.3.3)."""
    contexts, derived = acceptance.contexts, rq.derived
    if derived is None or not isinstance(contexts, tuple) or acceptance.identity_response is not None:
        return _acceptance_ac(rq, acceptance, max_pdu_bytes)
    known: AssociateAc | None = derived.find("acceptance", contexts)
    if (
        known is not None
        and known.user.max_pdu_bytes == max_pdu_bytes
        and known.user.roles == acceptance.roles
        and known.user.extended == acceptance.extended
    ):
        return known
    made = _acceptance_ac(rq, acceptance, max_pdu_bytes)
    comes_again(made)
    derived.keep("acceptance", made, contexts)
    return made


def _acceptance_ac(rq: AssociateRq, acceptance: Acceptance, max_pdu_bytes: int) -> AssociateAc:
    return AssociateAc(
        called_bytes=rq.called_bytes,
        calling_bytes=rq.calling_bytes,
        contexts=tuple(acceptance.contexts),
        user=UserInformation(
            max_pdu_bytes=max_pdu_bytes,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=IMPLEMENTATION_VERSION,
            roles=tuple(acceptance.roles),
            extended=tuple(acceptance.extended),
            identity_response=acceptance.identity_response,
        ),
    )


def contexts_in_force(rq: AssociateRq, ac: AssociateAc) -> Mapping[int, AcceptedContext]:
    """Return what `agreed_contexts` finds of an RQ and its AC, once for a pair that comes again."""
    derived = rq.derived
    if derived is None or ac.derived is None:
        return agreed_contexts(rq.contexts, ac, rq.user.roles)
    known: Mapping[int, AcceptedContext] | None = derived.find("contexts", ac)
    if known is None:
        known = agreed_contexts(rq.contexts, ac, rq.user.roles)
        derived.keep("contexts", known, ac)
    return known


def agreed_contexts(
    proposed: Sequence[ProposedContext], ac: AssociateAc, proposed_roles: Sequence[RoleSelection]
) -> Mapping[int, AcceptedContext]:
    """Return the contexts in force. Raises MalformedPdu when the AC accepts what was not proposed."""
    by_id = {context.context_id: context for context in proposed}
    asked = {role.sop_class: role for role in proposed_roles}
    granted = {role.sop_class: role for role in ac.user.roles}
    agreed: dict[int, AcceptedContext] = {}
    for result in ac.contexts:
        if not result.accepted:
            continue
        context = by_id.get(result.context_id)
        if context is None or result.transfer_syntax not in context.transfer_syntaxes:
            raise MalformedPdu("a context or transfer syntax is accepted that was not proposed", reason=6)
        role, answer = asked.get(context.abstract_syntax), granted.get(context.abstract_syntax)
        scu, scp = True, False  # the default roles (PS3.7 D.3.3.4): no item in the AC, no other role
        if role is not None and answer is not None:
            scu, scp = role.scu and answer.scu, role.scp and answer.scp
        agreed[result.context_id] = AcceptedContext(
            result.context_id, context.abstract_syntax, result.transfer_syntax, scu, scp
        )
    return agreed


def propose(
    abstract_syntaxes: Iterable[str], transfer_syntaxes: Sequence[str] = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
) -> tuple[ProposedContext, ...]:
    """Return presentation contexts with odd IDs for `abstract_syntaxes`, at most 128."""
    return tuple(
        ProposedContext(2 * place + 1, syntax, tuple(transfer_syntaxes))
        for place, syntax in enumerate(abstract_syntaxes)
    )


def largest_fragment(peer_max_pdu_bytes: int, ours: int) -> int:
    """Return how many bytes of a message fit one P-DATA-TF towards the peer (PS3.8 D.1.1 and 9.3.1).

    Its maximum length covers the PDV header of 6 bytes, not the PDU header; 0 means no limit: then `ours`.
    """
    limit = peer_max_pdu_bytes if peer_max_pdu_bytes else ours
    return max(1, min(limit, 1 << 20) - 6)
