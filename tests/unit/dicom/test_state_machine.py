"""PS3.8 table 9-10, state by event: each of the 13 x 19 cells, written down anew from the standard."""

from __future__ import annotations

import pytest

from failover.dicom.association import EFFECTS, TRANSITIONS, Action, Effect, Event, State, UpperLayer
from failover.errors import ProtocolError

# Rows: events 1 to 19. Columns: Sta1 to Sta13. "AE-1>4": action and next state; "." an empty cell.
TABLE = """
1  AE-1>4 . . . . . . . . . . . .
2  . . . AE-2>5 . . . . . . . . .
3  . AA-1>13 AA-8>13 . AE-3>6 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-6>13
4  . AA-1>13 AA-8>13 . AE-4>1 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-6>13
5  AE-5>2 . . . . . . . . . . . .
6  . AE-6>3 AA-8>13 . AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-7>13
7  . . AE-7>6 . . . . . . . . . .
8  . . AE-8>13 . . . . . . . . . .
9  . . . . . DT-1>6 . AR-7>8 . . . . .
10 . AA-1>13 AA-8>13 . AA-8>13 DT-2>6 AR-6>7 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-6>13
11 . . . . . AR-1>7 . . . . . . .
12 . AA-1>13 AA-8>13 . AA-8>13 AR-2>8 AR-8>9 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-6>13
13 . AA-1>13 AA-8>13 . AA-8>13 AA-8>13 AR-3>1 AA-8>13 AA-8>13 AR-10>12 AR-3>1 AA-8>13 AA-6>13
14 . . . . . . . AR-4>13 AR-9>11 . . AR-4>13 .
15 . . AA-1>13 AA-2>1 AA-1>13 AA-1>13 AA-1>13 AA-1>13 AA-1>13 AA-1>13 AA-1>13 AA-1>13 .
16 . AA-2>1 AA-3>1 . AA-3>1 AA-3>1 AA-3>1 AA-3>1 AA-3>1 AA-3>1 AA-3>1 AA-3>1 AA-2>1
17 . AA-5>1 AA-4>1 AA-4>1 AA-4>1 AA-4>1 AA-4>1 AA-4>1 AA-4>1 AA-4>1 AA-4>1 AA-4>1 AR-5>1
18 . AA-2>1 . . . . . . . . . . AA-2>1
19 . AA-1>13 AA-8>13 . AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-8>13 AA-7>13
"""
CELLS = [
    (State(column), Event(int(row.split()[0])), cell)
    for row in TABLE.strip().splitlines()
    for column, cell in enumerate(row.split()[1:], start=1)
]


def test_the_table_has_all_cells() -> None:
    assert len(CELLS) == 13 * 19
    assert len(TRANSITIONS) == sum(cell != "." for _, _, cell in CELLS)


@pytest.mark.parametrize(("state", "event", "cell"), CELLS)
def test_cell(state: State, event: Event, cell: str) -> None:
    machine = UpperLayer(requestor=True)
    machine.state = state
    if cell == ".":
        with pytest.raises(ProtocolError):
            machine.step(event)
        assert machine.state is state
        return
    action, following = cell.split(">")
    assert machine.step(event) == EFFECTS[Action(action)]
    assert machine.state is State(int(following))


def test_a_collision_on_the_acceptors_side_goes_its_own_way() -> None:
    machine = UpperLayer(requestor=False)
    machine.state = State.AWAITING_RELEASE_RP
    assert machine.step(Event.RELEASE_RQ_ARRIVED) == (Effect.TELL_COLLISION,)
    assert machine.state is State.COLLISION_ACCEPTOR_RP
    machine.step(Event.RELEASE_RP_ARRIVED)
    assert machine.state is State.COLLISION_ACCEPTOR_LOCAL
    assert Effect.SEND_RELEASE_RP in machine.step(Event.RELEASE_RESPONSE)


def test_an_rq_that_the_provider_cannot_take_is_rejected_without_asking() -> None:
    machine = UpperLayer(requestor=False)
    machine.step(Event.TRANSPORT_ACCEPTED)
    effects = machine.step(Event.RQ_ARRIVED, acceptable=False)
    assert effects == (Effect.STOP_ARTIM, Effect.SEND_RJ, Effect.START_ARTIM)
    assert machine.state is State.AWAITING_CLOSE
