"""What an import has already taken, so that one that was broken off goes on where it was.

A file of lines below `state_dir`, one for the same set of paths, removed when all of them are taken. It saves
work and nothing else: an object that is sent twice is known to the archive. So nothing here is synced. The
first line names the index that took them: a new one, after a loss, has none of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FOLDER = "imports"


class Progress:
    """Of one import. Without a place to write it goes on, and cannot be resumed."""

    def __init__(self, state_dir: Path, paths: Iterable[Path], index: str) -> None:
        """`index`: the identity of the archive's index."""
        what = "\n".join(sorted(str(path.resolve()) for path in paths))
        name = hashlib.blake2b(what.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
        self._path = state_dir / FOLDER / f"{name}.taken"
        self.can_resume = True
        self._index = index
        self._taken: set[str] = set()
        with suppress(OSError):
            by, *taken = self._path.read_text("ascii", "replace").split() or [""]
            self._taken = set(taken) if by == index else set()
        self._is_new = not self._taken

    def is_taken(self, key: str) -> bool:
        """Whether an import before this one brought that, and it has not changed since."""
        return bool(key) and key in self._taken

    def taken(self, keys: Iterable[str]) -> None:
        """Write down that the archive has these."""
        if not self.can_resume:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._path.open("w" if self._is_new else "a", encoding="ascii") as file:
                first = [self._index] if self._is_new else []
                file.writelines(f"{line}\n" for line in [*first, *filter(None, keys)])
            self._is_new = False
        except OSError:
            self.can_resume = False

    def done(self) -> None:
        """All are taken: the next import of these paths begins anew."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
