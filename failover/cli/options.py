"""The options that several commands share, and how the configuration file is found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from failover.cli.exits import Exit, leave

CONFIG_FILE: Final = "failover.yaml"

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        help="The configuration; default: $FAILOVER_CONFIG, else ./failover.yaml.",
        show_default=False,
    ),
]
AdminOption = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="URL",
        help="Where the router's admin API is; default: $FAILOVER_ADMIN, else listen.admin of the "
        "configuration, else http://127.0.0.1:9470.",
        show_default=False,
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="The file with our token; default: $FAILOVER_TOKEN_FILE.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it stands in the audit trail.")
]
ForOption = Annotated[
    str | None,
    typer.Option(
        "--for", metavar="2h", help="How long; then the mode is auto again. Default: until `failover auto`."
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", metavar="", help="Say what would happen; change and record nothing.")
]
EvenIfDownOption = Annotated[
    bool, typer.Option("--even-if-down", metavar="", help="Also when the upstream that would answer is down.")
]
KeepReplicatingOption = Annotated[
    bool,
    typer.Option("--keep-replicating", metavar="", help="Go on replicating with the primary, both ways."),
]


def config_path(given: Path | None) -> Path:
    """Return the configuration file to read: as given, else $FAILOVER_CONFIG, else ./failover.yaml."""
    return given or Path(os.environ.get("FAILOVER_CONFIG") or CONFIG_FILE)


def seconds(option: str, text: str | None) -> float | None:
    """Return a duration option in seconds; ends with a sentence and exit code 2 when it is none."""
    if text is None:
        return None
    from failover.config.scalars import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        leave(Exit.USAGE, f"{option}: {error}")
