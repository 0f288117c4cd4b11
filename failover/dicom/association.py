"""PS3.8's upper layer state machine as a table (section 9.2, table 9-10). Pure.

`UpperLayer.step` takes an event and returns what is to be done, in order; `connection` does it. Which PDU is
well formed is `pdu`; what is agreed in the association, `negotiation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, StrEnum, auto
from typing import Final

from failover.errors import ProtocolError


class State(IntEnum):  # of numbers: the table is looked up for each step, and they are hashed without Python
    """PS3.8 9.2.1, tables 9-1 to 9-5."""

    IDLE = 1
    AWAITING_RQ = 2  # transport connection open, A-ASSOCIATE-RQ PDU expected
    AWAITING_LOCAL_RESPONSE = 3  # to an A-ASSOCIATE indication
    AWAITING_TRANSPORT = 4
    AWAITING_AC = 5
    ESTABLISHED = 6
    AWAITING_RELEASE_RP = 7
    AWAITING_LOCAL_RELEASE = 8
    COLLISION_REQUESTOR_LOCAL = (
        9  # release collision, requestor's side, awaiting the local A-RELEASE response
    )
    COLLISION_ACCEPTOR_RP = 10  # release collision, acceptor's side, awaiting A-RELEASE-RP PDU
    COLLISION_REQUESTOR_RP = 11
    COLLISION_ACCEPTOR_LOCAL = 12
    AWAITING_CLOSE = 13


class Event(IntEnum):
    """PS3.8 9.2.2, the rows of table 9-10."""

    ASSOCIATE_REQUEST = 1  # local
    TRANSPORT_OPENED = 2  # we opened it
    AC_ARRIVED = 3
    RJ_ARRIVED = 4
    TRANSPORT_ACCEPTED = 5  # the peer opened it
    RQ_ARRIVED = 6
    ACCEPT_RESPONSE = 7  # local
    REJECT_RESPONSE = 8  # local
    P_DATA_REQUEST = 9  # local
    P_DATA_ARRIVED = 10
    RELEASE_REQUEST = 11  # local
    RELEASE_RQ_ARRIVED = 12
    RELEASE_RP_ARRIVED = 13
    RELEASE_RESPONSE = 14  # local
    ABORT_REQUEST = 15  # local
    ABORT_ARRIVED = 16
    TRANSPORT_CLOSED = 17
    ARTIM_EXPIRED = 18
    INVALID_PDU_ARRIVED = 19  # unrecognized or invalid


class Effect(Enum):
    """What an action consists of (PS3.8 9.2.2, tables 9-6 to 9-9)."""

    OPEN_TRANSPORT = auto()
    SEND_RQ = auto()
    SEND_AC = auto()
    SEND_RJ = auto()
    SEND_P_DATA = auto()
    SEND_RELEASE_RQ = auto()
    SEND_RELEASE_RP = auto()
    SEND_ABORT_USER = auto()
    SEND_ABORT_PROVIDER = auto()
    START_ARTIM = auto()
    STOP_ARTIM = auto()
    CLOSE = auto()
    TELL_INDICATION = auto()  # A-ASSOCIATE indication
    TELL_ACCEPTED = auto()
    TELL_REJECTED = auto()
    TELL_P_DATA = auto()
    TELL_RELEASE = auto()  # A-RELEASE indication
    TELL_COLLISION = auto()  # A-RELEASE indication that crossed our own request
    TELL_RELEASED = auto()  # A-RELEASE confirmation
    TELL_ABORTED = auto()  # A-ABORT or A-P-ABORT indication


class Action(StrEnum):
    """The standard's names (PS3.8 9.2.2, tables 9-6 to 9-9)."""

    AE_1 = "AE-1"
    AE_2 = "AE-2"
    AE_3 = "AE-3"
    AE_4 = "AE-4"
    AE_5 = "AE-5"
    AE_6 = "AE-6"
    AE_7 = "AE-7"
    AE_8 = "AE-8"
    DT_1 = "DT-1"
    DT_2 = "DT-2"
    AR_1 = "AR-1"
    AR_2 = "AR-2"
    AR_3 = "AR-3"
    AR_4 = "AR-4"
    AR_5 = "AR-5"
    AR_6 = "AR-6"
    AR_7 = "AR-7"
    AR_8 = "AR-8"
    AR_9 = "AR-9"
    AR_10 = "AR-10"
    AA_1 = "AA-1"
    AA_2 = "AA-2"
    AA_3 = "AA-3"
    AA_4 = "AA-4"
    AA_5 = "AA-5"
    AA_6 = "AA-6"
    AA_7 = "AA-7"
    AA_8 = "AA-8"


EFFECTS: Final[Mapping[Action, tuple[Effect, ...]]] = {
    Action.AE_1: (Effect.OPEN_TRANSPORT,),
    Action.AE_2: (Effect.SEND_RQ,),
    Action.AE_3: (Effect.TELL_ACCEPTED,),
    Action.AE_4: (Effect.TELL_REJECTED, Effect.CLOSE),
    Action.AE_5: (Effect.START_ARTIM,),
    Action.AE_6: (Effect.STOP_ARTIM, Effect.TELL_INDICATION),
    Action.AE_7: (Effect.SEND_AC,),
    Action.AE_8: (Effect.SEND_RJ, Effect.START_ARTIM),
    Action.DT_1: (Effect.SEND_P_DATA,),
    Action.DT_2: (Effect.TELL_P_DATA,),
    Action.AR_1: (Effect.SEND_RELEASE_RQ,),
    Action.AR_2: (Effect.TELL_RELEASE,),
    Action.AR_3: (Effect.TELL_RELEASED, Effect.CLOSE),
    Action.AR_4: (Effect.SEND_RELEASE_RP, Effect.START_ARTIM),
    Action.AR_5: (Effect.STOP_ARTIM,),
    Action.AR_6: (Effect.TELL_P_DATA,),
    Action.AR_7: (Effect.SEND_P_DATA,),
    Action.AR_8: (Effect.TELL_COLLISION,),
    Action.AR_9: (Effect.SEND_RELEASE_RP,),
    Action.AR_10: (Effect.TELL_RELEASED,),
    Action.AA_1: (Effect.SEND_ABORT_USER, Effect.START_ARTIM),
    Action.AA_2: (Effect.STOP_ARTIM, Effect.CLOSE),
    Action.AA_3: (Effect.TELL_ABORTED, Effect.CLOSE),
    Action.AA_4: (Effect.TELL_ABORTED,),
    Action.AA_5: (Effect.STOP_ARTIM,),
    Action.AA_6: (),
    Action.AA_7: (Effect.SEND_ABORT_PROVIDER,),
    Action.AA_8: (Effect.SEND_ABORT_PROVIDER, Effect.TELL_ABORTED, Effect.START_ARTIM),
}


def _table() -> Mapping[tuple[State, Event], tuple[Action, State]]:
    s, e, a = State, Event, Action
    table: dict[tuple[State, Event], tuple[Action, State]] = {
        (s.IDLE, e.ASSOCIATE_REQUEST): (a.AE_1, s.AWAITING_TRANSPORT),
        (s.IDLE, e.TRANSPORT_ACCEPTED): (a.AE_5, s.AWAITING_RQ),
        (s.AWAITING_TRANSPORT, e.TRANSPORT_OPENED): (a.AE_2, s.AWAITING_AC),
        (s.AWAITING_TRANSPORT, e.ABORT_REQUEST): (a.AA_2, s.IDLE),
        (s.AWAITING_TRANSPORT, e.TRANSPORT_CLOSED): (a.AA_4, s.IDLE),
        (s.AWAITING_AC, e.AC_ARRIVED): (a.AE_3, s.ESTABLISHED),
        (s.AWAITING_AC, e.RJ_ARRIVED): (a.AE_4, s.IDLE),
        (s.AWAITING_RQ, e.RQ_ARRIVED): (a.AE_6, s.AWAITING_LOCAL_RESPONSE),
        (s.AWAITING_RQ, e.ABORT_ARRIVED): (a.AA_2, s.IDLE),
        (s.AWAITING_RQ, e.TRANSPORT_CLOSED): (a.AA_5, s.IDLE),
        (s.AWAITING_RQ, e.ARTIM_EXPIRED): (a.AA_2, s.IDLE),
        (s.AWAITING_LOCAL_RESPONSE, e.ACCEPT_RESPONSE): (a.AE_7, s.ESTABLISHED),
        (s.AWAITING_LOCAL_RESPONSE, e.REJECT_RESPONSE): (a.AE_8, s.AWAITING_CLOSE),
        (s.ESTABLISHED, e.P_DATA_REQUEST): (a.DT_1, s.ESTABLISHED),
        (s.ESTABLISHED, e.P_DATA_ARRIVED): (a.DT_2, s.ESTABLISHED),
        (s.ESTABLISHED, e.RELEASE_REQUEST): (a.AR_1, s.AWAITING_RELEASE_RP),
        (s.ESTABLISHED, e.RELEASE_RQ_ARRIVED): (a.AR_2, s.AWAITING_LOCAL_RELEASE),
        (s.AWAITING_RELEASE_RP, e.P_DATA_ARRIVED): (a.AR_6, s.AWAITING_RELEASE_RP),
        # Of a collision the requestor's side goes to Sta9; `step` sends the acceptor's side to Sta10.
        (s.AWAITING_RELEASE_RP, e.RELEASE_RQ_ARRIVED): (a.AR_8, s.COLLISION_REQUESTOR_LOCAL),
        (s.AWAITING_RELEASE_RP, e.RELEASE_RP_ARRIVED): (a.AR_3, s.IDLE),
        (s.AWAITING_LOCAL_RELEASE, e.P_DATA_REQUEST): (a.AR_7, s.AWAITING_LOCAL_RELEASE),
        (s.AWAITING_LOCAL_RELEASE, e.RELEASE_RESPONSE): (a.AR_4, s.AWAITING_CLOSE),
        (s.COLLISION_REQUESTOR_LOCAL, e.RELEASE_RESPONSE): (a.AR_9, s.COLLISION_REQUESTOR_RP),
        (s.COLLISION_ACCEPTOR_RP, e.RELEASE_RP_ARRIVED): (a.AR_10, s.COLLISION_ACCEPTOR_LOCAL),
        (s.COLLISION_REQUESTOR_RP, e.RELEASE_RP_ARRIVED): (a.AR_3, s.IDLE),
        (s.COLLISION_ACCEPTOR_LOCAL, e.RELEASE_RESPONSE): (a.AR_4, s.AWAITING_CLOSE),
        (s.AWAITING_CLOSE, e.RQ_ARRIVED): (a.AA_7, s.AWAITING_CLOSE),
        (s.AWAITING_CLOSE, e.INVALID_PDU_ARRIVED): (a.AA_7, s.AWAITING_CLOSE),
        (s.AWAITING_CLOSE, e.ABORT_ARRIVED): (a.AA_2, s.IDLE),
        (s.AWAITING_CLOSE, e.TRANSPORT_CLOSED): (a.AR_5, s.IDLE),
        (s.AWAITING_CLOSE, e.ARTIM_EXPIRED): (a.AA_2, s.IDLE),
    }
    arrivals = (
        e.AC_ARRIVED, e.RJ_ARRIVED, e.RQ_ARRIVED, e.P_DATA_ARRIVED, e.RELEASE_RQ_ARRIVED,
        e.RELEASE_RP_ARRIVED, e.INVALID_PDU_ARRIVED,
    )  # fmt: skip
    open_states = [state for state in s if state not in (s.IDLE, s.AWAITING_TRANSPORT)]
    for state in open_states:
        for event in arrivals:  # a PDU that this state does not expect
            if state is s.AWAITING_RQ:
                otherwise = (a.AA_1, s.AWAITING_CLOSE)
            elif state is s.AWAITING_CLOSE:
                otherwise = (a.AA_6, s.AWAITING_CLOSE)
            else:
                otherwise = (a.AA_8, s.AWAITING_CLOSE)
            table.setdefault((state, event), otherwise)
        if state not in (s.AWAITING_RQ, s.AWAITING_CLOSE):
            table[state, e.ABORT_REQUEST] = (a.AA_1, s.AWAITING_CLOSE)
            table[state, e.ABORT_ARRIVED] = (a.AA_3, s.IDLE)
            table[state, e.TRANSPORT_CLOSED] = (a.AA_4, s.IDLE)
    return table


TRANSITIONS: Final = _table()


class UpperLayer:
    """The state of one association on one side."""

    __slots__ = ("requestor", "state")

    def __init__(self, *, requestor: bool) -> None:
        self.requestor = requestor
        self.state = State.IDLE

    def step(self, event: Event, *, acceptable: bool = True) -> tuple[Effect, ...]:
        """Go to the next state and return what is to be done.

        `acceptable` counts for an A-ASSOCIATE-RQ alone (AE-6): False when the service-provider itself cannot
        take it; then it is rejected. Raises ProtocolError for a cell that is empty in table 9-10: the local
        user asked for what this state does not have. Nothing has changed then.
        """
        found = TRANSITIONS.get((self.state, event))
        if found is None:
            raise ProtocolError(f"{event.name} in {self.state.name}")
        action, following = found
        if action is Action.AE_6 and not acceptable:
            self.state = State.AWAITING_CLOSE
            return (Effect.STOP_ARTIM, Effect.SEND_RJ, Effect.START_ARTIM)
        if action is Action.AR_8 and not self.requestor:
            following = State.COLLISION_ACCEPTOR_RP
        self.state = following
        return EFFECTS[action]
