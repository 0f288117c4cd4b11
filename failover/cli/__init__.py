"""The command `failover`. Every heavy import waits until the command that needs it runs."""

from __future__ import annotations

from inspect import cleandoc
from typing import Annotated

import typer

from failover.cli import importing, operate, passwords, serve


def _version(wanted: bool) -> None:
    if wanted:
        from failover import __version__

        typer.echo(f"failover {__version__}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Keeps radiology working when the PACS fails."""


def make_app() -> typer.Typer:
    """Return the whole command line."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    serve.register(app)
    operate.register(app)
    importing.register(app)
    passwords.register(app)
    _unfold(app)
    return app


def _unfold(app: typer.Typer) -> None:
    """Let each paragraph of a help text run on: the terminal breaks its lines, not our source."""
    for command in app.registered_commands:
        command.help = _run_on(command.help or getattr(command.callback, "__doc__", None))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group.typer_instance.info.help = _run_on(group.typer_instance.info.help)
            _unfold(group.typer_instance)


def _run_on(text: str | None) -> str | None:
    if not isinstance(text, str):
        return None
    return "\n\n".join(" ".join(part.split()) for part in cleandoc(text).split("\n\n"))


def main() -> None:
    """Entry point of the command `failover`."""
    make_app()(prog_name="failover")
