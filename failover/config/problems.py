"""One thing that is wrong with a configuration: where, and what would be right. Pure.

A problem is one line: `failover.yaml:12: listen.web.port: must be 1 to 65535, is 80800`. Which values are
right is in `schema` and `checks`; `sentences` says it of what pydantic reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KeyPath = tuple[str, ...]
_LONGEST_KEY: Final = 100


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong at `path`, on `line` of the file. `sentence` says what would be right."""

    line: int
    path: KeyPath
    sentence: str

    def text(self, name: str) -> str:
        """The finished line for the file called `name`."""
        key = ".".join(self.path)[:_LONGEST_KEY] or "file"
        return _one_line(f"{name}:{self.line}: {key}: {self.sentence}")


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
