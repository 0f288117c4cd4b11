"""Remembered credentials: what counts, for how long, and what is on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from failover.clock import ManualClock
from failover.credentials import remembered
from failover.credentials.remembered import Remembered, read_key

HOURS = 3600.0
WARD = b"pacs.example", b"X-Forwarded-For: 10.0.0.7\r\n"
SESSION = [(b"JSESSIONID", b"0123456789ABCDEF0123")]


def memory(folder: Path, clock: ManualClock) -> Remembered:
    return Remembered(folder, read_key(folder), clock, hold_s=12 * HOURS)


def assert_no_secret(folder: Path) -> None:
    files = list(folder.iterdir())
    assert len(files) == 2
    assert not [path for path in files if SESSION[0][1] in path.read_bytes()]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)


def accept(one: Remembered, digest: bytes, clock: ManualClock) -> None:
    now_s = clock.monotonic()
    assert one.accepted(digest, now_s, WARD)
    one.probed(WARD, refuses=True, began_s=now_s)


def shown(one: Remembered, *cookies: tuple[bytes, bytes], authorization: bytes | None = None) -> bytes:
    digest = one.digest(cookies, authorization)
    assert digest is not None
    return digest


async def test_it_counts_only_when_a_later_probe_was_refused(tmp_path: Path) -> None:
    clock = ManualClock()
    one = memory(tmp_path, clock)
    digest = shown(one, *SESSION)
    assert one.accepted(digest, 0.0, WARD)
    assert not one.holds(digest)
    one.probed(WARD, refuses=True, began_s=-1.0)  # it began before: the door may have been opened since
    assert not one.holds(digest)
    one.probed(WARD, refuses=True, began_s=0.0)
    assert one.holds(digest)


async def test_an_open_primary_is_remembered_by_nobody(tmp_path: Path) -> None:
    one = memory(tmp_path, ManualClock())
    digest = shown(one, *SESSION)
    one.accepted(digest, 0.0, WARD)
    one.probed(WARD, refuses=False, began_s=1.0)
    one.probed(WARD, refuses=True, began_s=2.0)
    assert not one.holds(digest)


async def test_it_ends_after_its_time_and_is_renewed(tmp_path: Path) -> None:
    clock = ManualClock()
    one = memory(tmp_path, clock)
    digest = shown(one, *SESSION)
    accept(one, digest, clock)
    assert not one.accepted(digest, 0.0, WARD)  # fresh enough: no probe
    await clock.advance(6 * HOURS)  # half its time: renewed
    accept(one, digest, clock)
    await clock.advance(12 * HOURS - 1)
    assert one.holds(digest)
    await clock.advance(1)
    assert not one.holds(digest)


async def test_a_refusal_forgets_it_and_a_late_answer_brings_it_not_back(tmp_path: Path) -> None:
    clock = ManualClock()
    one = memory(tmp_path, clock)
    digest = shown(one, *SESSION)
    accept(one, digest, clock)
    await clock.advance(10)
    one.refused(digest)
    assert not one.holds(digest)
    assert not one.accepted(digest, asked_s=5.0, alike=WARD)  # asked before, answered after
    one.probed(WARD, refuses=True, began_s=20.0)
    assert not one.holds(digest)
    assert one.accepted(digest, asked_s=11.0, alike=WARD)  # logged in again


def test_all_that_is_shown_is_one(tmp_path: Path) -> None:
    one = memory(tmp_path, ManualClock())
    both = shown(one, *SESSION, (b"lang", b"de"))
    assert both == shown(one, (b"lang", b"de"), *SESSION)
    assert both != shown(one, *SESSION)
    assert shown(one, *SESSION, authorization=b"Basic YTpi") != shown(one, authorization=b"Basic YTpi")
    # The borders of the pieces count.
    assert shown(one, (b"a", b"b" * 20)) != shown(one, (b"ab", b"b" * 19))


@pytest.mark.parametrize(("cookies", "authorization"), [
    ([], None), ([(b"lang", b"de")], None), (SESSION, b"Negotiate abc"), ([], b"Digest username=x"),
])  # fmt: skip
def test_what_could_be_guessed_or_is_new_each_time_is_no_credential(
    tmp_path: Path, cookies: list[tuple[bytes, bytes]], authorization: bytes | None
) -> None:
    assert memory(tmp_path, ManualClock()).digest(cookies, authorization) is None


async def test_it_outlasts_a_restart_without_a_secret_on_disk(tmp_path: Path) -> None:
    clock = ManualClock()
    one = memory(tmp_path, clock)
    digest = shown(one, *SESSION)
    accept(one, digest, clock)
    await clock.advance(2 * HOURS)
    assert (one.changed, one.write(one.content()), one.changed) == (True, True, False)
    assert_no_secret(tmp_path)
    await clock.advance(1 * HOURS)
    again = memory(tmp_path, clock)
    assert again.holds(digest)
    await clock.advance(9 * HOURS)
    assert not again.holds(digest)


@pytest.mark.parametrize("content", [
    b"", b"[]", b"{", b'{"written_at": "2026-01-01T00:00:00Z", "ages_s": []}',
    b'{"written_at": "2026-01-01T00:00:00Z", "ages_s": {"x": 1}}',
    b'{"written_at": "2099-01-01T00:00:00Z", "ages_s": {"00": 1}}',
])  # fmt: skip
def test_an_unreadable_file_remembers_nobody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / remembered.FILE).write_bytes(content)
    assert memory(tmp_path, ManualClock()).count == 0


async def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 3)
    clock = ManualClock()
    one = memory(tmp_path, clock)
    digests = [shown(one, (b"s", b"%020d" % number)) for number in range(5)]
    for digest in digests:
        accept(one, digest, clock)
        await clock.advance(1)
    assert [one.holds(digest) for digest in digests] == [False, False, True, True, True]
