"""How a command ends: the exit codes of the contract, and saying why on the way out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import IntEnum
from typing import NoReturn

import typer


class Exit(IntEnum):
    """The exit codes; scripts rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2  # usage or configuration
    UNREACHABLE = 3  # the router (for `import`: the archive) is not reachable


def leave(code: Exit, *lines: str) -> NoReturn:
    """Write `lines` to stderr, one each, unwrapped also when piped, and end with `code`."""
    say(lines, error=True)
    raise typer.Exit(int(code))


def say(lines: Iterable[str], *, error: bool = False) -> None:
    """Write plain lines: for facts that scripts read and for messages."""
    stream = sys.stderr if error else sys.stdout
    for line in lines:
        stream.write(f"{line}\n")
    stream.flush()
