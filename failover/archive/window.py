"""What the last comparison with the primary covered, and what may be said of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date


@dataclass(frozen=True, slots=True)
class Window:
    """What the last comparison with the primary covered.

    `first_day` is the last day, going back from today, of which every study of the primary was here; None: no
    day is covered. `short`: studies of which the primary had more instances than we, with its count.
    `complete`: there is no primary, so all that exists is here and no search can miss anything.
    """

    first_day: date | None = None
    short: Mapping[str, int] = field(default_factory=dict)
    complete: bool = False

    def meet(self, other: Window) -> Window:
        """Return what both cover."""
        if self.complete or other.complete:
            return other if self.complete else self
        days = [day for day in (self.first_day, other.first_day) if day is not None]
        return Window(max(days) if len(days) == 2 else None, {**self.short, **other.short})

    def sentence(self) -> str:
        """Return what a caller is told, in one line."""
        if self.complete:
            return "all studies of this archive"
        if self.first_day is None:
            return "no day is covered completely by this archive"
        return f"studies from {self.first_day.isoformat()} to today"
