"""`failover password USER`: a user of `access.web.password_file`: new, with a new password, or out of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from failover.cli.exits import Exit, leave, say
from failover.cli.options import ConfigOption, config_path


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(password)


def password(
    user: Annotated[str, typer.Argument(metavar="USER", show_default=False, help="The user's name.")],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="FILE",
            help="The password file; default: access.web.password_file of the configuration.",
            show_default=False,
        ),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", metavar="", help="Take the user out; sessions of that user end.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Give a user a password with which the backup's images can be seen when the primary is down.

    It is asked for twice on a terminal, else read from standard input: one line. A running router sees the
    change within a second.
    """
    from failover.credentials.password_file import remove_user, set_password
    from failover.errors import StorageError

    path = file or _configured(config)
    try:
        if remove:
            if not remove_user(path, user):
                leave(Exit.FAILED, f"{path}: has no user {user}")
            say([f"{path}: {user} is out"])
            return
        new = set_password(path, user, _asked())
    except ValueError as error:
        leave(Exit.USAGE, str(error))
    except (OSError, StorageError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        leave(Exit.FAILED, f"{path}: {reason}")
    say([f"{path}: {user} {'is a new user' if new else 'has a new password'}"])


def _configured(config: Path | None) -> Path:
    from failover.config.load import load_access_web
    from failover.errors import ConfigurationError

    try:
        found = load_access_web(config_path(config)).password_file
    except ConfigurationError as error:
        leave(Exit.USAGE, *error.problems)
    if found is None:
        leave(Exit.USAGE, "the configuration has no access.web.password_file; --file names one")
    return found


def _asked() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    answer: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return answer
