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
from failover.cli.progress import Progress
from failover.cli.sources import find
from failover.cli.stow import ArchiveUnreachable, Outcome, StowSender, batches

# So many failed files are named; the rest are counted.
_MOST_NAMED: Final = 20


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("import")(import_files)


def import_files(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…", show_default=False, help="Files, folders of them, DICOMDIRs, zip archives."
        ),
    ],
    json_: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Bring DICOM files into the archive. What it brings is owed unless the primary has it.

    Files that are no DICOM files are left out and counted. Exit code 1 when the archive did not keep one of
    the others. An import that was broken off goes on where it was when it is started again with the same
    paths.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        leave(Exit.USAGE, *(f"{path}: there is no such file or folder" for path in missing))
    sender, state_dir = _sender(config)
    found = find(paths)
    progress_kept = Progress(state_dir, paths, sender.holds)
    # Of the file as it is now: one that changes while it is sent was not taken as it then is.
    keys = {source: source.key for source in found.sources}
    files = [source for source in found.sources if not progress_kept.is_taken(keys[source])]
    before = len(found.sources) - len(files)
    tally: Counter[Outcome] = Counter()
    failed = list(found.problems)

    def tell(not_sent: int = 0) -> None:
        _tell(tally[Outcome.KEPT], before, found.others, failed, as_json=json_, not_sent=not_sent)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        with Bar(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("", total=len(files))
            for batch in batches(files):
                sent = sender.send(batch)
                results = list(zip(batch, sent.results, strict=True))
                for source, (outcome, why) in results:
                    tally[outcome] += 1
                    if outcome is not Outcome.KEPT:
                        failed.append(f"{source.name}: {why}")
                kept = (keys[source] for source, (outcome, _) in results if outcome is Outcome.KEPT)
                progress_kept.taken(kept, sent.kept)
                progress.advance(bar, len(batch))
    except ArchiveUnreachable as error:
        done = sum(tally.values())
        tell(not_sent=len(files) - done)
        leave(
            Exit.UNREACHABLE,
            f"{error}; {done} of {len(files)} files were sent before",
            *_again(progress_kept),
        )
    except KeyboardInterrupt:
        tell(not_sent=len(files) - sum(tally.values()))
        leave(
            Exit.FAILED,
            f"stopped: {tally[Outcome.KEPT]} of {len(files)} files were kept",
            *_again(progress_kept),
        )
    finally:
        sender.close()
    if not failed:
        progress_kept.done()
    tell()
    if failed:
        raise typer.Exit(int(Exit.FAILED))


def _sender(config: Path | None) -> tuple[StowSender, Path]:
    from failover.config.load import load
    from failover.errors import ConfigurationError

    try:
        configuration = load(config_path(config), archive_alone=True)
    except ConfigurationError as error:
        leave(Exit.USAGE, *error.problems)
    archive = configuration.archive
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(archive.web.host, archive.web.host)
    return StowSender(host, archive.web.port, archive.web.dicomweb_path), configuration.state_dir


def _again(progress: Progress) -> list[str]:
    """What helps whoever was broken off."""
    return ["the same command goes on where this one ended"] if progress.can_resume else []


def _tell(
    kept: int, before: int, others: int, failed: list[str], *, as_json: bool, not_sent: int = 0
) -> None:
    if as_json:
        facts = {
            "kept": kept,
            "kept_before": before,
            "not_dicom": others,
            "failed": len(failed),
            "failures": failed,
            "not_sent": not_sent,
        }
        say([json.dumps(facts, indent=2, ensure_ascii=False)])
        return
    say(failed[:_MOST_NAMED], error=True)
    if len(failed) > _MOST_NAMED:
        say([f"… and {len(failed) - _MOST_NAMED} more"], error=True)
    words = [f"{kept} kept", *([f"{len(failed)} not kept"] if failed else [])]
    words += [f"{not_sent} not sent"] if not_sent else []
    if before:
        words.append(f"{before} kept by the import before")
    if others:
        words.append(f"{others} left out (no DICOM files)")
    say([", ".join(words)])
