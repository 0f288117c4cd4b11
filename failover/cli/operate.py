"""The commands that talk to a router: status, force, drain, pause, auto, decide, events; see `lists` too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from failover.cli import lists
from failover.cli.exits import Exit, leave, say
from failover.cli.options import (
    DryRunOption,
    EvenIfDownOption,
    ForOption,
    JsonOption,
    KeepReplicatingOption,
    ReasonOption,
    seconds,
)
from failover.cli.router_client import RouterClient, Unreachable, a_sentence_at_the_end, finds_router
from failover.cli.watching import print_events, show, updates, wait, watch_status

# How often a drain is looked at.
_LOOK_S: Final = 0.25
# After its grace a drain breaks what is left: so long we watch it end.
_AFTER_GRACE_S: Final = 5.0

UPSTREAMS = Annotated[str, typer.Argument(metavar="primary|backup", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(finds_router(status))
    app.command()(finds_router(force))
    app.command()(finds_router(drain))
    app.command()(finds_router(pause))
    app.command()(finds_router(auto))
    app.command()(finds_router(decide))
    app.command()(finds_router(events))
    app.command()(finds_router(lists.owed))
    app.command()(finds_router(lists.quarantine))


def status(
    router: RouterClient,
    watch: Annotated[bool, typer.Option("--watch", metavar="", help="Stay, and show each change.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show which upstream answers what, and why."""
    with a_sentence_at_the_end():
        if watch:
            watch_status(router, as_json=json_)
        else:
            show(router.ask("GET", "/api/status"), as_json=json_)


def force(
    router: RouterClient,
    upstream: UPSTREAMS,
    reason: ReasonOption,
    for_: ForOption = None,
    dry_run: DryRunOption = False,
    even_if_down: EvenIfDownOption = False,
    keep_replicating: KeepReplicatingOption = False,
    json_: JsonOption = False,
) -> None:
    """Send everything to one upstream, whatever the probes say, until `failover auto`."""
    if upstream not in ("primary", "backup"):
        leave(Exit.USAGE, f"force: must be primary or backup, is {upstream}")
    request = {
        "mode": "forced",
        "upstream": upstream,
        "reason": reason,
        "for_s": seconds("--for", for_),
        "dry_run": dry_run,
        "even_if_down": even_if_down,
        "keep_replicating": keep_replicating,
    }
    _ask_and_show(router, "PUT", "/api/route", request, as_json=json_)


def drain(
    router: RouterClient,
    upstream: Annotated[str, typer.Argument(metavar="primary", show_default=False)],
    reason: ReasonOption,
    for_: ForOption = None,
    dry_run: DryRunOption = False,
    even_if_down: EvenIfDownOption = False,
    keep_replicating: KeepReplicatingOption = False,
    grace: Annotated[
        str, typer.Option("--grace", metavar="60s", help="How long what is in flight may go on.")
    ] = "60s",
    json_: JsonOption = False,
) -> None:
    """Give the primary no new work, and return when it is empty: then it can be serviced.

    What is still in flight after the grace is ended: what may be repeated goes to the backup, the rest
    breaks. Exit code 1 when something is in flight even then, or when the replicator did not say that it
    heard; the drain stays in force.
    """
    if upstream != "primary":
        leave(Exit.USAGE, f"drain: must be primary, is {upstream}")
    grace_s = seconds("--grace", grace) or 0.0
    request = {
        "mode": "drain",
        "upstream": upstream,
        "reason": reason,
        "for_s": seconds("--for", for_),
        "dry_run": dry_run,
        "even_if_down": even_if_down,
        "keep_replicating": keep_replicating,
        "grace_s": grace_s,
    }
    with a_sentence_at_the_end():
        answer = router.ask("PUT", "/api/route", request)
        warnings = answer.get("warnings", [])
        if not dry_run:
            answer = _wait_until_empty(router, answer, grace_s)
        show(answer, as_json=json_)
    if not dry_run:
        _tell_what_is_left(answer, grace)
    if warnings:
        leave(Exit.FAILED, *warnings)


def pause(
    router: RouterClient,
    reason: ReasonOption,
    for_: ForOption = None,
    dry_run: DryRunOption = False,
    json_: JsonOption = False,
) -> None:
    """Stay where we are: no failover and no failback by itself; single requests are still rescued."""
    request = {"mode": "paused", "reason": reason, "for_s": seconds("--for", for_), "dry_run": dry_run}
    _ask_and_show(router, "PUT", "/api/route", request, as_json=json_)


def auto(
    router: RouterClient,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why; it stands in the audit trail.")
    ] = None,
    dry_run: DryRunOption = False,
    json_: JsonOption = False,
) -> None:
    """Hand the decision back to the router."""
    request = {"mode": "auto", "reason": reason, "dry_run": dry_run}
    _ask_and_show(router, "PUT", "/api/route", request, as_json=json_)


def decide(
    router: RouterClient,
    decision: Annotated[
        str,
        typer.Argument(
            metavar="failback|refused|vanished-owed|vanished-deleted|clock-right", show_default=False
        ),
    ],
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    json_: JsonOption = False,
) -> None:
    """Decide what only a person may decide.

    failback: begin the gated way back (policy.failback: manual). refused: go back although the primary
    refuses objects, or the archive lost some before they were sent. vanished-owed: what vanished from the
    primary is debt. vanished-deleted: it was deleted. clock-right: the archive's clock leapt ahead, and is
    right: what is old by it may go.
    """
    choices = ("failback", "refused", "vanished-owed", "vanished-deleted", "clock-right")
    if decision not in choices:
        leave(Exit.USAGE, f"decide: must be {', '.join(choices[:-1])} or {choices[-1]}, is {decision}")
    request = {"decision": decision, "reason": reason, "dry_run": dry_run}
    _ask_and_show(router, "POST", "/api/decisions", request, as_json=json_)


def events(
    router: RouterClient,
    follow: Annotated[
        bool, typer.Option("--follow", metavar="", help="Stay, and print each new event.")
    ] = False,
    since: Annotated[
        int, typer.Option("--since", metavar="ID", min=0, help="Only events after this id.")
    ] = 0,
    json_: JsonOption = False,
) -> None:
    """Print the audit trail: every move, every intent, every decision."""
    with a_sentence_at_the_end():
        happened = router.ask("GET", f"/api/events?since={since}")
        if json_ and not follow:
            say([json.dumps(happened, indent=2, ensure_ascii=False)])
            return
        print_events(happened, as_json=json_)
        if follow:
            last = max([since, *(int(event["id"]) for event in happened)])
            for update in updates(router, last):
                print_events(update["events"], as_json=json_)


# -- what several of them do ------------------------------------------------------------------------


def _ask_and_show(
    router: RouterClient, method: str, path: str, request: Mapping[str, Any], *, as_json: bool
) -> None:
    with a_sentence_at_the_end():
        answer = router.ask(method, path, request)
        show(answer, as_json=as_json)
    say(answer.get("warnings", []), error=True)


def _wait_until_empty(router: RouterClient, answer: dict[str, Any], grace_s: float) -> dict[str, Any]:
    """Return the status once nothing is in flight at the primary, or the last one after the grace."""
    from failover.cli.views import in_flight
    from failover.clock import SystemClock

    clock = SystemClock()
    until = clock.monotonic() + grace_s + _AFTER_GRACE_S
    while answer["mode"] == "drain" and clock.monotonic() < until:
        if answer["intent"].get("drain") != "under_way" and not in_flight(answer, "primary"):
            break
        wait(_LOOK_S)
        try:
            answer = router.ask("GET", "/api/status")
        except Unreachable:
            if clock.monotonic() >= until:
                raise
    return answer


def _tell_what_is_left(answer: dict[str, Any], grace: str) -> None:
    from failover.cli.views import in_flight, in_flight_words, mode_sentence

    if answer["mode"] != "drain":
        leave(Exit.FAILED, f"the drain was ended meanwhile; the mode is {mode_sentence(answer)}")
    if in_flight(answer, "primary"):
        left = in_flight_words(answer, "primary")
        leave(Exit.FAILED, f"after {grace} the primary still has {left}; the drain stays in force")
    ended = (
        f"what was left after {grace} was ended; " if answer["intent"].get("drain") == "grace_over" else ""
    )
    say([f"{ended}the primary is empty: it can be serviced; `failover auto` ends the drain"], error=True)
