"""The command `failover`. Every heavy import waits until the command that needs it runs."""

from __future__ import annotations

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
    return app


def main() -> None:
    """Entry point of the command `failover`."""
    make_app()(prog_name="failover")
