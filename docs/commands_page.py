# ruff: noqa: E501 - the prose of a Markdown page
"""docs/commands.md, drawn from the command line itself: every command with its arguments and options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import typer

from failover.cli import make_app

_HEAD: Final = """# Commands

<!-- Drawn from failover/cli by `make docs`; do not edit. -->

Every command has `--help`; those that print facts have `--json`. Options follow the last verb:
`failover demo stop-primary --how kill`.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed: refused by the router, a port is taken, something is left after the grace, a file was not kept |
| 2 | usage or configuration: each problem is one line |
| 3 | the router (for `import`: the archive) is not reachable |

The commands that talk to a router find it by `--admin URL`, else `FAILOVER_ADMIN`, else the `listen.admin` of the
configuration (`-c FILE`, else `FAILOVER_CONFIG`, else `failover.yaml` in the current folder), else
`http://127.0.0.1:9470`. Their token is the last word of the first line in the file that `--token-file` or
`FAILOVER_TOKEN_FILE` names. With a token the audit trail has the token's name, else the user who ran the command.

`force` towards, or `drain` onto, an upstream that is down is refused unless `--even-if-down`. When `--for` ends, the
mode is `auto` again, with the usual gate. A dry run changes and records nothing.
"""


def page() -> str:
    """Return the whole page."""
    lines = [_HEAD.rstrip()]
    for words, command in commands():
        lines += ["", f"## failover {' '.join(words)}", "", f"`{_usage(words, command)}`", ""]
        lines += [_paragraphs(command.help or ""), ""]
        options = [p for p in command.params if _flags(p) and p.name not in ("help", "version")]
        if options:
            lines += ["| option | meaning |", "|---|---|"]
            lines += [f"| `{_option(p)}` | {_meaning(p)} |" for p in options]
        while lines[-1] == "":
            lines.pop()
    return "\n".join(lines) + "\n"


def commands() -> Iterator[tuple[list[str], Any]]:
    """Yield each command with its words, a group before what is in it."""

    def below(group: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
        for name, command in group.commands.items():
            yield [*words, name], command
            if hasattr(command, "commands"):
                yield from below(command, [*words, name])

    yield from below(typer.main.get_command(make_app()), [])


def options(command: Any) -> list[str]:
    """Return the long form of every option of one command."""
    return [_flags(p)[-1] for p in command.params if _flags(p)]


def _usage(words: list[str], command: Any) -> str:
    parts = ["failover", *words]
    for parameter in command.params:
        flags = _flags(parameter)
        if not flags:
            parts.append(parameter.metavar or str(parameter.name).upper())
        elif parameter.required:
            parts.append(_option(parameter))
    parts.append("[OPTIONS]")
    return " ".join(parts)


def _flags(parameter: Any) -> list[str]:
    return [flag for flag in parameter.opts if flag.startswith("-")]


def _option(parameter: Any) -> str:
    flags = ", ".join(_flags(parameter))
    return f"{flags} {parameter.metavar}" if parameter.metavar else flags


def _meaning(parameter: Any) -> str:
    words = " ".join((parameter.help or "").split()).replace("|", "\\|")
    if parameter.required:
        words += " **Must be given.**"
    elif isinstance(parameter.default, str | int) and not isinstance(parameter.default, bool):
        words += f" Default: `{parameter.default}`."
    return words


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
