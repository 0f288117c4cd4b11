"""The configuration read again while we run (SIGHUP, `failover reload`): what is taken over.

Which keys a process uses, and which of them it can take over, is a table here; how it takes them is the
process's own. A file with problems, or changes that would leave a door open, change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from failover.app.web_words import name_of
from failover.config import Configuration, load
from failover.config.changes import changed, is_below, with_changes
from failover.config.checks import problems
from failover.config.problems import KeyPath
from failover.errors import ConfigurationError, FailoverError

_log = structlog.get_logger(__name__)

_TLS_FILES: Final = tuple(
    f"listen.{listener}.tls.{key}"
    for listener in ("web", "dicom", "admin")
    for key in ("cert_file", "key_file", "client_ca_file")
)


@dataclass(frozen=True, slots=True)
class Uses:
    """The keys (or blocks) that a process reads: what it can take over live, and all that it uses."""

    live: tuple[str, ...]
    all: tuple[str, ...]


USES: Final[Mapping[str, Uses]] = {
    "router": Uses(
        live=(
            "access.web.addresses", "access.dicom", "policy",
            "health.interval", "health.fast_interval", "health.timeout", "health.search_interval",
            "health.frame_interval", "health.rise", "health.fall", "health.dicom.interval",
            "listen.web.max_connections", "listen.web.max_per_address", "listen.web.reserve",
            "listen.web.head_timeout", "listen.web.body_idle",
            "listen.web.answer_timeout", "listen.web.keep_alive",
            "listen.dicom.max_associations", "listen.dicom.max_per_address", "listen.dicom.max_per_ae_title",
            "listen.dicom.reserve", "listen.dicom.artim", "listen.dicom.idle_timeout",
            *_TLS_FILES,
        ),
        all=(
            "site", "state_dir", "listen", "access", "primary", "backup", "archive.web", "archive.dicom",
            "health", "policy", "replication.tee",
        ),
    ),
    # Each web worker beside the router: web-2, web-3 …
    "web": Uses(
        live=(
            "access.web.addresses", "policy.hedge",
            "listen.web.max_connections", "listen.web.max_per_address", "listen.web.reserve",
            "listen.web.head_timeout", "listen.web.body_idle",
            "listen.web.answer_timeout", "listen.web.keep_alive",
            *(key for key in _TLS_FILES if key.startswith("listen.web.")),
        ),
        all=(
            "state_dir", "listen.web", "access.web", "policy.hedge", "primary", "backup", "archive.web",
            "replication.tee",
        ),
    ),
    "archive": Uses(
        live=("archive.retention", "archive.move_destinations", "archive.access.dicom"),
        all=("site", "state_dir", "archive", "primary", "backup", "listen.dicom"),
    ),
    "replicator": Uses(
        live=(
            "replication.poll_every", "replication.recheck", "replication.window_days",
            "archive.retention.days",
        ),
        all=(
            "state_dir", "primary", "backup", "replication", "archive.retention.days", "archive.data_dir",
            "archive.dicom", "listen.dicom.ae_title",
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of a reload. With `problems` nothing was changed."""

    changed: Sequence[str] = ()
    needs_restart: Sequence[str] = ()
    problems: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "changed": list(self.changed),
            "needs_restart": list(self.needs_restart),
            "problems": list(self.problems),
        }


def components(configuration: Configuration) -> list[str]:
    """Return the processes that there may be, by name."""
    workers = [name_of(number) for number in range(2, configuration.listen.web.workers + 1)]
    return [name for name in USES if name != "web"] + workers


def compared(
    component: str, running: Configuration, wanted: Configuration
) -> tuple[list[KeyPath], list[KeyPath]]:
    """Return which keys `component` can take over from `wanted`, and which would need a restart."""
    uses = USES[component.partition("-")[0]]
    used = [path for path in changed(running, wanted) if is_below(path, uses.all)]
    live = [path for path in used if is_below(path, uses.live)]
    return live, [path for path in used if path not in live]


class Reloader:
    """One process's configuration file. `take` is set by the process once it can take changes."""

    def __init__(
        self, component: str, path: Path, running: Configuration, *, archive_alone: bool = False
    ) -> None:
        self.component = component
        self.running = running
        """What is in force: of each key what was last taken over."""
        self._path = path
        self._archive_alone = archive_alone
        self._turn = asyncio.Lock()
        self._take: Callable[[Configuration], list[str]] | None = None

    def takes(self, take: Callable[[Configuration], list[str]]) -> None:
        """`take` puts a configuration in force and returns a sentence for each thing that could not be.

        It is also called when nothing differs: files that the configuration names may have been replaced.
        """
        self._take = take

    async def reload(self, *, dry_run: bool = False) -> Reloaded:
        """Read the file again and take over what can be; a dry run changes nothing."""
        async with self._turn:
            outcome = await self._reload(dry_run=dry_run)
        if dry_run:
            return outcome
        if outcome.problems:
            _log.error("configuration not taken, the old one goes on", problems="; ".join(outcome.problems))
        else:
            _log.info(
                "configuration taken",
                changed=" ".join(outcome.changed) or "nothing",
                needs_restart=" ".join(outcome.needs_restart) or "nothing",
            )
        return outcome

    async def _reload(self, *, dry_run: bool) -> Reloaded:
        try:
            # In a thread: callers must not wait for YAML and certificates to be read.
            wanted = await asyncio.to_thread(load, self._path, archive_alone=self._archive_alone)
        except ConfigurationError as error:
            return Reloaded(problems=error.problems)
        live, fixed = compared(self.component, self.running, wanted)
        merged = with_changes(self.running, wanted, live) if live else self.running
        # The file is sound as a whole; half of its changes may not be (a list of callers left out, while the
        # listener that needed it stays open).
        unsafe = problems(merged, archive_alone=self._archive_alone)
        needs_restart = [".".join(path) for path in fixed]
        if unsafe:
            keys = ", ".join(needs_restart)
            return Reloaded(
                problems=[f"{'.'.join(key)}: {why}, until a restart takes {keys}" for key, why in unsafe]
            )
        if dry_run:
            return Reloaded([".".join(path) for path in live], needs_restart)
        if self._take is None:
            return Reloaded(problems=["still starting, or stopping: ask again"])
        try:
            left = self._take(merged)
        except FailoverError as error:
            return Reloaded(problems=[str(error)])
        self.running = merged
        return Reloaded([".".join(path) for path in live], needs_restart, left)
