"""The commands that list objects one by one, for the PACS administrator after an outage: owed, quarantine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer

from failover.cli.exits import Exit, leave, say
from failover.cli.options import JsonOption
from failover.cli.router_client import RouterClient, a_sentence_at_the_end
from failover.cli.watching import print_view

Json = dict[str, Any]
# The most that the API gives at once.
_PAGES: Final = {"/api/owed": 1000, "/api/split": 1000, "/api/quarantine": 100}
_STATES: Final = ("owed", "sent", "refused", "vanished", "deleted", "proven")

LimitOption = Annotated[
    int, typer.Option("--limit", metavar="N", min=0, help="At most so many objects; 0: all of them.")
]


def owed(
    router: RouterClient,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only owed, sent, refused, vanished, deleted or proven; default: the first three.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        bool, typer.Option("--split", help="The studies of which each side has what the other lacks.")
    ] = False,
    limit: LimitOption = 100,
    json_: JsonOption = False,
) -> None:
    """List what the archive owes the primary, object by object: the proof that everything is back.

    owed: not yet sent. sent: not yet shown by the primary. refused: for good. vanished: the primary showed it
    once and does not now. deleted: there, and hidden here. proven: was owed, and the primary has shown it.
    With --split studies instead: those that a suspicion or an outage has split, until the replicator has made
    them whole.
    """
    if split and state is not None:
        leave(Exit.USAGE, "--split lists studies, --state objects: one of the two")
    if split:
        return _list(router, "/api/split", {}, limit, as_json=json_)
    if state is not None and state not in _STATES:
        leave(Exit.USAGE, f"--state: must be {', '.join(_STATES[:-1])} or {_STATES[-1]}, is {state}")
    return _list(router, "/api/owed", {"state": state} if state else {}, limit, as_json=json_)


def quarantine(
    router: RouterClient,
    limit: LimitOption = 100,
    json_: JsonOption = False,
) -> None:
    """List what came under a known SOP instance UID with another patient or content, and what differs.

    Shows patient data: the elements that differ, as each version has them.
    """
    _list(router, "/api/quarantine", {}, limit, as_json=json_)


def _list(router: RouterClient, path: str, question: dict[str, str], limit: int, *, as_json: bool) -> None:
    with a_sentence_at_the_end():
        pages = list(_pages(router, path, question, limit))
        listed = _listed(path)
        items = [one for page in pages for one in page[listed]]
        answer = {**pages[0], listed: items, "next": pages[-1]["next"]}
    if as_json:
        say([json.dumps(answer, indent=2, ensure_ascii=False)])
        return
    from failover.cli.list_views import owed_view, quarantine_view, split_view

    if path == "/api/split":
        print_view(split_view(answer))
    elif path == "/api/owed":
        print_view(owed_view(answer, question.get("state")))
    else:
        print_view(quarantine_view(answer))


def _listed(path: str) -> str:
    return "studies" if path == "/api/split" else "objects"


def _pages(router: RouterClient, path: str, question: dict[str, str], limit: int) -> Iterator[Json]:
    left, after, longest = limit, None, _PAGES[path]
    while True:
        asked = {**question, "limit": str(min(left, longest) if limit else longest)}
        if after is not None:
            asked["after"] = str(after)
        page = router.ask("GET", f"{path}?{urlencode(asked)}")
        yield page
        left -= len(page[_listed(path)])
        after = page["next"]
        if after is None or (limit and left <= 0):
            return
