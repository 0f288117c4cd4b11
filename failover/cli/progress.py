"""What an import has already sent, so that one that was broken off goes on where it was.

A file of lines below `state_dir`, one for the same set of paths, removed when all of them are taken: of each
batch its files and the objects that the archive said it had kept. It saves work and nothing else: an object
that is sent twice is known to the archive. So nothing here is synced, and nothing believed that the archive
does not hold now: its index may be a backup from before this import.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

FOLDER: Final = "imports"
_BETWEEN: Final = "|"


class Progress:
    """Of one import. Without a place to write it goes on, and cannot be resumed."""

    def __init__(
        self, state_dir: Path, paths: Iterable[Path], holds: Callable[[Sequence[str]], bool]
    ) -> None:
        """`holds` asks the archive whether it has all objects with these SOP instance UIDs."""
        what = "\n".join(sorted(str(path.resolve()) for path in paths))
        name = hashlib.blake2b(what.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
        self._path = state_dir / FOLDER / f"{name}.taken"
        self.can_resume = True
        self._taken: set[str] = set()
        with suppress(OSError):
            for line in self._path.read_text("ascii", "replace").splitlines():
                keys, _, uids = line.partition(_BETWEEN)
                if uids.strip() and holds(uids.split()):
                    self._taken |= set(keys.split())
        self._is_new = not self._taken

    def is_taken(self, key: str) -> bool:
        """Whether an import before this one brought that, and it has not changed since."""
        return bool(key) and key in self._taken

    def taken(self, keys: Iterable[str], sop_instance_uids: Iterable[str]) -> None:
        """Write down that the archive has these, as these objects."""
        if not self.can_resume:
            return
        line = f"{' '.join(filter(None, keys))} {_BETWEEN} {' '.join(sop_instance_uids)}\n"
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._path.open("w" if self._is_new else "a", encoding="ascii") as file:
                file.write(line)
            self._is_new = False
        except OSError:
            self.can_resume = False

    def done(self) -> None:
        """All are taken: the next import of these paths begins anew."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
