"""`failover import PATH…`: DICOM files into the archive, through its STOW listener, with a progress bar."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import typer

from failover.cli.exits import Exit, leave, say
from failover.cli.options import ConfigOption, JsonOption, config_path
from failover.cli.stow import ArchiveUnreachable, Outcome, StowSender, batches, is_part10

# So many failed files are named; the rest are counted.
_MOST_NAMED: Final = 20


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("import")(import_files)


def import_files(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH…", show_default=False, help="Files, or folders of them.")
    ],
    json_: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Bring DICOM files into the archive. What it brings is owed unless the primary has it.

    Files that are no DICOM files are left out and counted. Exit code 1 when the archive did not keep one of
    the others.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        leave(Exit.USAGE, *(f"{path}: there is no such file or folder" for path in missing))
    sender = _sender(config)
    files, others = _sort_out(paths)
    tally: Counter[Outcome] = Counter()
    failed: list[str] = []
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("", total=len(files))
            for batch in batches(files):
                for path, (outcome, why) in zip(batch, sender.send(batch), strict=True):
                    tally[outcome] += 1
                    if outcome is not Outcome.KEPT:
                        failed.append(f"{path}: {why}")
                progress.advance(bar, len(batch))
    except ArchiveUnreachable as error:
        done = sum(tally.values())
        leave(Exit.UNREACHABLE, f"{error}; {done} of {len(files)} files were sent before")
    except KeyboardInterrupt:
        leave(Exit.FAILED, f"stopped: {tally[Outcome.KEPT]} of {len(files)} files were kept")
    finally:
        sender.close()
    _tell(tally[Outcome.KEPT], others, failed, as_json=json_)
    if failed:
        raise typer.Exit(int(Exit.FAILED))


def _sender(config: Path | None) -> StowSender:
    from failover.config.load import load
    from failover.errors import ConfigurationError

    try:
        archive = load(config_path(config), archive_alone=True).archive
    except ConfigurationError as error:
        leave(Exit.USAGE, *error.problems)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(archive.web.host, archive.web.host)
    return StowSender(host, archive.web.port, archive.web.dicomweb_path)


def _sort_out(paths: list[Path]) -> tuple[list[Path], int]:
    """Return the DICOM files below `paths`, each once, and how many other files there are."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update((file, None) for file in sorted(path.rglob("*")) if file.is_file())
        else:
            found[path] = None
    files = [file for file in found if is_part10(file)]
    return files, len(found) - len(files)


def _tell(kept: int, others: int, failed: list[str], *, as_json: bool) -> None:
    if as_json:
        facts = {"kept": kept, "not_dicom": others, "failed": len(failed), "failures": failed}
        say([json.dumps(facts, indent=2, ensure_ascii=False)])
        return
    say(failed[:_MOST_NAMED], error=True)
    if len(failed) > _MOST_NAMED:
        say([f"… and {len(failed) - _MOST_NAMED} more"], error=True)
    words = [f"{kept} kept", *([f"{len(failed)} not kept"] if failed else [])]
    if others:
        words.append(f"{others} left out (no DICOM files)")
    say([", ".join(words)])
