"""What a side has shown outlives a restart: an emptied database is noticed by the first search."""

from __future__ import annotations

from pathlib import Path

import pytest

from failover.clock import ManualClock
from failover.errors import UpstreamBroke
from failover.health.memory import KnownFile
from failover.health.search import SearchProbe

from .test_search_probe import Catalogue

STUDIES = ["1.2.3", "1.2.4", "1.2.5"]
WEEK_S = 7 * 86_400.0


async def learnt(path: Path, clock: ManualClock, side: str = "pacs") -> None:
    """A router searches `side`, which holds three studies, and ends."""
    file = KnownFile(path, clock)
    await SearchProbe(Catalogue(list(STUDIES)), file.known(side), clock).ask()
    await file.save()


async def test_an_emptied_database_is_noticed_right_after_a_restart(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "known.json"
    await learnt(path, clock)
    await clock.advance(3600.0)
    searching = SearchProbe(Catalogue([]), KnownFile(path, clock).known("pacs"), clock)
    for _ in range(2):
        with pytest.raises(UpstreamBroke, match="finds none of 3 known studies"):
            await searching.ask()


async def test_another_system_is_not_asked_for_studies_it_never_had(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "known.json"
    await learnt(path, clock)
    searching = SearchProbe(Catalogue([]), KnownFile(path, clock).known("its successor"), clock)
    assert await searching.ask() == "QIDO is answered, no study is known"


async def test_what_was_not_seen_for_a_week_is_no_evidence(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "known.json"
    await learnt(path, clock)
    await clock.advance(WEEK_S - 1)
    assert sorted(KnownFile(path, clock).known("pacs").uids) == STUDIES
    await clock.advance(2)
    assert KnownFile(path, clock).known("pacs").uids == []


async def test_a_week_begins_anew_while_they_are_found(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "known.json"
    await learnt(path, clock)
    await clock.advance(WEEK_S - 1)
    file = KnownFile(path, clock)
    await SearchProbe(Catalogue(list(STUDIES)), file.known("pacs"), clock).ask()
    await file.save()
    await clock.advance(WEEK_S - 1)
    assert sorted(KnownFile(path, clock).known("pacs").uids) == STUDIES


async def test_what_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "known.json"
    await learnt(path, clock)
    path.unlink()
    file = KnownFile(path, clock)
    searching = SearchProbe(Catalogue([]), file.known("pacs"), clock)
    await searching.ask()
    await file.save()
    assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"pacs": 1}', b'{"pacs": {"studies": [], "seen": "x"}}', b"\xff"]
)
async def test_a_broken_file_is_learnt_anew(tmp_path: Path, content: bytes) -> None:
    clock, path = ManualClock(), tmp_path / "known.json"
    path.write_bytes(content)
    file = KnownFile(path, clock)
    searching = SearchProbe(Catalogue(list(STUDIES)), file.known("pacs"), clock)
    assert await searching.ask() == "QIDO is answered"
    await file.save()
    assert sorted(KnownFile(path, clock).known("pacs").uids) == STUDIES


async def test_an_unwilling_disk_is_tried_again(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "missing" / "known.json"
    file = KnownFile(path, clock)
    await SearchProbe(Catalogue(list(STUDIES)), file.known("pacs"), clock).ask()
    await file.save()
    path.parent.mkdir()
    await file.save()
    assert sorted(KnownFile(path, clock).known("pacs").uids) == STUDIES
