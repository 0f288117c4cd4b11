"""`failover archive plan`, `protect`, `unprotect`: what retention will take and what it spares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from failover.cli.exits import Exit, leave, say
from failover.cli.options import JsonOption, ReasonOption
from failover.cli.router_client import RouterClient, a_sentence_at_the_end, finds_router
from failover.cli.watching import print_view

StudyOption = Annotated[
    str | None, typer.Option("--study", metavar="UID", help="One study.", show_default=False)
]
PatientOption = Annotated[
    str | None,
    typer.Option(
        "--patient", metavar="ID", help="All studies of a patient ID, also later ones.", show_default=False
    ),
]


def register(archive: typer.Typer) -> None:
    """Add the commands below `failover archive`."""
    archive.command()(finds_router(plan))
    archive.command()(finds_router(protect))
    archive.command()(finds_router(unprotect))


def plan(
    router: RouterClient,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=1000, help="So many studies.")
    ] = 100,
    json_: JsonOption = False,
) -> None:
    """Show which studies retention takes next, when and why, and what each waits for. Nothing goes by it.

    First what goes for space, oldest study first, then by age. What is protected, owed or refused stays.
    """
    with a_sentence_at_the_end():
        answer = router.ask("GET", f"/api/archive/plan?limit={limit}")
    if json_:
        say([json.dumps(answer, indent=2, ensure_ascii=False)])
        return
    from failover.cli.list_views import plan_view

    print_view(plan_view(answer))


def protect(
    router: RouterClient,
    reason: ReasonOption,
    study: StudyOption = None,
    patient: PatientOption = None,
    json_: JsonOption = False,
) -> None:
    """Keep a study, or all studies of a patient, whatever their age and however short the space."""
    _protect(router, reason, study, patient, protected=True, as_json=json_)


def unprotect(
    router: RouterClient,
    reason: ReasonOption,
    study: StudyOption = None,
    patient: PatientOption = None,
    json_: JsonOption = False,
) -> None:
    """End the protection of a study or a patient: retention takes them in their turn."""
    _protect(router, reason, study, patient, protected=False, as_json=json_)


def _protect(
    router: RouterClient,
    reason: str,
    study: str | None,
    patient: str | None,
    *,
    protected: bool,
    as_json: bool,
) -> None:
    if (study is None) == (patient is None):
        leave(Exit.USAGE, "--study or --patient must be given, one of the two")
    wanted: Mapping[str, Any] = {"protected": protected, "reason": reason}
    wanted = {**wanted, **({"study_instance_uid": study} if study is not None else {"patient_id": patient})}
    with a_sentence_at_the_end():
        answer = router.ask("POST", "/api/archive/protection", wanted)
    if as_json:
        say([json.dumps(answer, indent=2)])
        return
    count = answer["studies"]
    noun = "1 study is" if count == 1 else f"{count} studies are"
    say([f"{noun} {'protected' if protected else 'no longer protected'}"])
