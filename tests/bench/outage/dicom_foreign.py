"""A backup that is none of ours: no copy goes there, and nobody knows what it took (DESIGN 4.2, 4.4).

Each instance may be on both sides only if it was under way at the fault or stored in `failing_back`. The way
back is a person's: who runs the bench says so by `force primary` and `auto`, as the gate asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from tests.bench.outage.dicom_stage import DICOM_PORT
from tests.bench.outage.stage import AE_TITLE, THEIRS, Archive
from tests.bench.outage.watching import entered_s, monotonic_of
from tests.peers.process import wait_for
from tests.system.site import Site

Span = tuple[float, float]
_FOR_EVER: Final = float("inf")


@contextmanager
def site_with(backup: Archive) -> Iterator[Site]:
    """The product between the primary and `backup`, with both known to be up."""
    primary = {"dicom": {"host": THEIRS, "port": DICOM_PORT, "ae_title": AE_TITLE}}
    there = {"dicom": {"host": "127.0.0.1", "port": backup.dicom_port, "ae_title": AE_TITLE}}

    def is_up() -> bool:
        return all(services["dicom"]["up"] for services in site.status()["upstreams"].values())

    with Site(primary, backup=there) as site:
        wait_for(is_up, "both are up")
        yield site


def go_back(site: Site) -> None:
    """All that the backup took was brought over: say so."""
    for wish in (
        {"mode": "forced", "upstream": "primary", "reason": "what the backup took was brought over"},
        {"mode": "auto"},
    ):
        answer = site.admin("PUT", "/api/route", wish)
        assert answer.status == 200, answer.body


def allowed(site: Site, fault_s: float) -> list[Span]:
    """Return when what was stored may be on both sides: at the fault, and in `failing_back`."""
    told = (
        monotonic_of(entry["time"]) for entry in site.verdicts("dicom") if entry["to"] in ("suspect", "down")
    )
    moved_s = min((at_s for at_s in told if at_s >= fault_s), default=_FOR_EVER)
    back_s = entered_s(site, "dicom", "failing_back")
    there_s = entered_s(site, "dicom", "on_primary")
    spans = [(fault_s, moved_s)]
    if back_s is not None:
        spans.append((back_s, _FOR_EVER if there_s is None else there_s))
    return spans


def without_need(stored: Mapping[str, Span], both: set[str], spans: Sequence[Span]) -> int:
    """Return how many of those on `both` sides were under way in none of `spans`."""

    def needed(uid: str) -> bool:
        began_s, ended_s = stored[uid]
        return any(began_s <= last_s and ended_s >= first_s for first_s, last_s in spans)

    return sum(not needed(uid) for uid in both)
