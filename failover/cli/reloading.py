"""The command `reload`: the running processes read the configuration again, and what became of it is told."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from failover.cli.exits import Exit, leave, say
from failover.cli.options import ConfigOption, JsonOption, config_path


def reload(
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Say what would change; change nothing.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Let the processes of this machine read the configuration and replaced certificates again.

    What can change live does; what needs a restart is named. A file with problems changes nothing. SIGHUP
    does the same and says it in the log.
    """
    from failover.config.load import load
    from failover.errors import ConfigurationError

    path = config_path(config)
    try:
        configuration = load(path)
    except ConfigurationError as error:
        leave(Exit.USAGE, *error.problems, "nothing was changed")
    import asyncio

    answers = asyncio.run(_ask_all(configuration, dry_run))
    if not answers:
        leave(
            Exit.UNREACHABLE,
            f"no failover runs with state_dir {configuration.state_dir} (or it belongs to another user)",
        )
    if json_:
        say([json.dumps(answers, indent=2, ensure_ascii=False)])
    else:
        say(_lines(answers, dry_run=dry_run))
    if any(answer["problems"] for answer in answers.values()):
        raise typer.Exit(int(Exit.FAILED))


async def _ask_all(configuration: Any, dry_run: bool) -> dict[str, Any]:
    from failover.app.process import reload_socket
    from failover.app.reload import components
    from failover.control import ask
    from failover.errors import ControlUnreachable

    answers: dict[str, Any] = {}
    for component in components(configuration):
        try:
            answers[component] = await ask(
                reload_socket(configuration.state_dir, component),
                "reload",
                {"dry_run": dry_run},
                timeout_s=10.0,
            )
        except ControlUnreachable:
            continue  # it does not run here: a router alone, or a foreign backup
    return answers


def _lines(answers: dict[str, Any], *, dry_run: bool) -> list[str]:
    lines = []
    for kind, words in (
        ("changed", "would change" if dry_run else "changed"),
        ("needs_restart", "needs a restart"),
    ):
        by_key: dict[str, list[str]] = {}
        for component, answer in answers.items():
            for key in answer[kind]:
                by_key.setdefault(key, []).append(component)
        lines += [f"{words}: {key} ({', '.join(components)})" for key, components in by_key.items()]
    for component, answer in answers.items():
        lines += [f"{component}: {problem}" for problem in answer["problems"]]
    return lines or [f"nothing differs from what is in force ({', '.join(answers)})"]
