"""Every row of DESIGN 4.1 to 4.3 that says where a request goes."""

from __future__ import annotations

import pytest

from failover.model import Mode, Phase, Service, UpstreamName, Verdict
from failover.routing.board import RouteBoard
from failover.routing.selection import Choice, Kind, Route, ServiceRoute, choose

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
UP, SUSPECT, DOWN = Verdict.UP, Verdict.SUSPECT, Verdict.DOWN
READ, STORE, OTHER = Kind.READ, Kind.STORE, Kind.OTHER
STANDING = {
    Phase.ON_PRIMARY: ServiceRoute(Phase.ON_PRIMARY, PRIMARY, PRIMARY),
    Phase.ON_BACKUP: ServiceRoute(Phase.ON_BACKUP, BACKUP, BACKUP),
    Phase.FAILING_BACK: ServiceRoute(Phase.FAILING_BACK, BACKUP, PRIMARY),
}


def route(
    phase: Phase = Phase.ON_PRIMARY,
    primary: Verdict | None = UP,
    backup: Verdict | None = UP,
    *,
    mode: Mode = Mode.AUTO,
    forced: UpstreamName | None = None,
    exists: tuple[UpstreamName, ...] = (PRIMARY, BACKUP),
) -> Route:
    return Route(
        mode=mode,
        forced=forced,
        keep_replicating=False,
        services=dict.fromkeys(Service, STANDING[phase]),
        verdicts={(PRIMARY, Service.WEB): primary, (BACKUP, Service.WEB): backup},
        exists=frozenset((name, Service.WEB) for name in exists),
        hold_stores=False,
    )


def went(route: Route, kind: Kind = READ) -> tuple[UpstreamName | None, UpstreamName | None, bool]:
    choice: Choice = choose(route, Service.WEB, kind)
    assert choice.reason
    return choice.first, choice.rescue, choice.provisional


@pytest.mark.parametrize("kind", [READ, STORE, OTHER])
@pytest.mark.parametrize("primary", [UP, None])
def test_on_the_primary(kind: Kind, primary: Verdict | None) -> None:
    assert went(route(primary=primary), kind) == (PRIMARY, BACKUP, True)


@pytest.mark.parametrize(("kind", "first"), [(READ, BACKUP), (STORE, BACKUP), (OTHER, PRIMARY)])
def test_while_the_primary_is_suspect(kind: Kind, first: UpstreamName) -> None:
    assert went(route(primary=SUSPECT), kind) == (first, first.other, True)


@pytest.mark.parametrize("kind", [READ, STORE, OTHER])
def test_while_the_primary_is_down_and_nothing_has_moved_yet(kind: Kind) -> None:
    assert went(route(primary=DOWN), kind) == (BACKUP, PRIMARY, False)


def test_nobody_leaves_for_one_that_is_no_better() -> None:
    assert went(route(primary=SUSPECT, backup=SUSPECT)) == (PRIMARY, BACKUP, True)
    assert went(route(primary=SUSPECT, backup=None)) == (PRIMARY, BACKUP, True)
    assert went(route(primary=SUSPECT, backup=DOWN)) == (PRIMARY, BACKUP, True)
    assert went(route(primary=DOWN, backup=DOWN)) == (PRIMARY, BACKUP, False)
    assert went(route(primary=DOWN, backup=SUSPECT)) == (BACKUP, PRIMARY, False)


@pytest.mark.parametrize("kind", [READ, STORE, OTHER])
def test_in_backup_mode_what_the_backup_cannot_give_the_primary_may(kind: Kind) -> None:
    assert went(route(Phase.ON_BACKUP, UP), kind) == (BACKUP, PRIMARY, False)
    assert went(route(Phase.ON_BACKUP, SUSPECT), kind) == (BACKUP, None, False)
    assert went(route(Phase.ON_BACKUP, DOWN), kind) == (BACKUP, None, False)
    assert went(route(Phase.ON_BACKUP, None), kind) == (BACKUP, None, False)


def test_in_backup_mode_the_primary_takes_all_while_the_backup_is_bad() -> None:
    assert went(route(Phase.ON_BACKUP, UP, SUSPECT)) == (PRIMARY, BACKUP, False)
    assert went(route(Phase.ON_BACKUP, UP, DOWN)) == (PRIMARY, BACKUP, False)
    assert went(route(Phase.ON_BACKUP, SUSPECT, DOWN)) == (PRIMARY, BACKUP, False)
    assert went(route(Phase.ON_BACKUP, DOWN, DOWN)) == (BACKUP, PRIMARY, False)


def test_failing_back_stores_go_to_the_primary_reads_stay() -> None:
    assert went(route(Phase.FAILING_BACK), READ) == (BACKUP, PRIMARY, False)
    assert went(route(Phase.FAILING_BACK), STORE) == (PRIMARY, BACKUP, True)
    assert went(route(Phase.FAILING_BACK, SUSPECT), STORE) == (BACKUP, PRIMARY, True)
    assert went(route(Phase.FAILING_BACK, SUSPECT), READ) == (BACKUP, None, False)


@pytest.mark.parametrize("mode", [Mode.FORCED, Mode.DRAIN])
@pytest.mark.parametrize("backup", [UP, SUSPECT, DOWN, None])
@pytest.mark.parametrize("kind", [READ, STORE, OTHER])
def test_forced_backup_and_drain_never_touch_the_primary(
    mode: Mode, backup: Verdict | None, kind: Kind
) -> None:
    for phase in Phase:
        assert went(route(phase, UP, backup, mode=mode, forced=BACKUP), kind) == (BACKUP, None, False)


def test_forced_backup_without_that_service_is_nowhere() -> None:
    forced = route(mode=Mode.FORCED, forced=BACKUP, exists=(PRIMARY,))
    assert went(forced) == (None, None, False)


def test_forced_primary_rescues() -> None:
    forced = route(primary=DOWN, mode=Mode.FORCED, forced=PRIMARY)
    assert went(forced) == (BACKUP, PRIMARY, False)


def test_a_service_that_only_one_has() -> None:
    assert went(route(exists=(BACKUP,))) == (BACKUP, None, False)
    assert went(route(exists=(PRIMARY,), primary=DOWN)) == (PRIMARY, None, False)
    assert went(route(exists=())) == (None, None, False)


def test_a_choice_holds_until_another_route_is_published() -> None:
    board = RouteBoard(route())
    first = board.choice(Service.WEB, READ)
    assert first == choose(board.current, Service.WEB, READ)
    assert board.choice(Service.WEB, READ) is first
    assert board.choice(Service.WEB, OTHER) == choose(board.current, Service.WEB, OTHER)
    board.publish(route(Phase.ON_BACKUP))
    assert board.choice(Service.WEB, READ).first is BACKUP
