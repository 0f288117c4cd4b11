"""Prints the router's answers, once or live. A router that goes away while we watch is looked for again."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from failover.cli.exits import say
from failover.cli.router_client import RouterClient, Unreachable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# How often a lost router is looked for again.
_RETRY_S: Final = 1.0
# Piped output is never wrapped: a line is a fact.
_PIPED_WIDTH: Final = 1000
# So many events stand below a watched status.
_RECENT_EVENTS: Final = 8

Json = dict[str, Any]


def show(answer: Json, *, as_json: bool) -> None:
    """Print a status, or what a dry run would do."""
    if as_json:
        say([json.dumps(answer, indent=2, ensure_ascii=False)])
        return
    from failover.cli.views import consequences, status_view

    _console().print(consequences(answer["would"]) if "would" in answer else status_view(answer))


def print_view(view: RenderableType) -> None:
    """Print what `views` made."""
    _console().print(view)


def print_events(happened: list[Json], *, as_json: bool) -> None:
    """Print events, one on each line."""
    if as_json:
        say(json.dumps(event, ensure_ascii=False) for event in happened)
    elif happened:
        from failover.cli.views import event_line

        console = _console()
        for event in happened:
            console.print(event_line(event))


def watch_status(router: RouterClient, *, as_json: bool) -> None:
    """Show the status at each change until Ctrl-C. Raises Unreachable when no router is there at first."""
    first = router.ask("GET", "/api/status")
    if as_json or not sys.stdout.isatty():
        for update in updates(router, None):
            _show_next(update["status"], as_json=as_json)
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from failover.cli.views import event_line, status_view

    view = status_view(first)
    recent: list[Json] = []
    with Live(view, console=_console(), auto_refresh=False, vertical_overflow="crop") as live:

        def lost(why: str) -> None:
            live.update(
                Group(Text(f"✕ {why}: this is what it said last", "bold red"), Text(), view), refresh=True
            )

        for update in updates(router, None, lost):
            recent = (recent + update["events"])[-_RECENT_EVENTS:]
            newest_first = (event_line(event) for event in reversed(recent))
            view = Group(status_view(update["status"]), Text(), *newest_first)
            live.update(view, refresh=True)


def updates(
    router: RouterClient, since: int | None, lost: Callable[[str], None] | None = None
) -> Iterator[Json]:
    """Yield the router's stream for ever, each event once, `since` an id or None for the last few.

    When the router goes away, `lost` is told, or stderr gets one line, and it is looked for again.
    """
    last = since
    told = False
    while True:
        try:
            for update in router.stream(last):
                told = False
                last = max([last or 0, *(int(event["id"]) for event in update["events"])])
                yield update
        except Unreachable as error:
            if lost is not None:
                lost(str(error))
            elif not told:
                say([f"{error}; trying again"], error=True)
            told = True
        wait(_RETRY_S)


def wait(seconds: float) -> None:
    """Let time pass; Ctrl-C ends it."""
    threading.Event().wait(seconds)


def _show_next(current: Json, *, as_json: bool) -> None:
    if as_json:
        say([json.dumps(current, ensure_ascii=False)])
    else:
        show(current, as_json=False)
        say([""])


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
