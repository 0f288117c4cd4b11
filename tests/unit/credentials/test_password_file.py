"""The password file: written, read again when it changes, for its owner alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from failover.clock import ManualClock
from failover.credentials.password_file import (
    PasswordFile,
    hash_password,
    parse_passwords,
    password_file_problems,
    remove_user,
    set_password,
)

PASSWORD = "correct horse"


def test_a_written_password_fits_and_another_does_not(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    assert set_password(path, "anna", PASSWORD)
    assert path.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in path.read_text()
    users = PasswordFile(path, ManualClock())
    assert users.fits("anna", PASSWORD)
    assert not users.fits("anna", PASSWORD + " ")
    assert not users.fits("berta", PASSWORD)


def test_two_users_with_one_password_do_not_look_alike() -> None:
    assert str(hash_password(PASSWORD)) != str(hash_password(PASSWORD))


def test_other_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    set_password(path, "anna", PASSWORD)
    path.write_text("# night shift\n" + path.read_text())
    assert set_password(path, "berta", PASSWORD)
    assert not set_password(path, "anna", "another one")
    assert path.read_text().startswith("# night shift\nanna:")
    assert not remove_user(path, "carla")
    assert remove_user(path, "berta")
    users = PasswordFile(path, ManualClock())
    assert users.fits("anna", "another one")
    assert users.hash_of("berta") is None


async def test_it_is_read_again_when_it_changes_and_stands_when_it_is_spoilt(tmp_path: Path) -> None:
    path, clock = tmp_path / "passwords", ManualClock()
    set_password(path, "anna", PASSWORD)
    users = PasswordFile(path, clock)
    set_password(path, "berta", PASSWORD)
    assert users.hash_of("berta") is None  # not looked at yet
    await clock.advance(1)
    assert users.hash_of("berta") is not None
    path.chmod(0o644)
    await clock.advance(1)
    assert users.hash_of("berta") is not None
    path.unlink()
    await clock.advance(1)
    assert users.hash_of("berta") is not None
    set_password(path, "carla", PASSWORD)
    await clock.advance(1)
    assert users.hash_of("berta") is None
    assert users.hash_of("carla") is not None


@pytest.mark.parametrize(("line", "problem"), [
    ("anna", "line 1: must be `user:hash`, as `failover password` writes it"),
    ("an na:x", "line 1: must be `user:hash`, as `failover password` writes it"),
    ("anna:secret", "line 1: holds no scrypt hash, as `failover password` writes it"),
    ("anna:$2y$10$abcdefghijklmnopqrstuu", "line 1: holds no scrypt hash, as `failover password` writes it"),
    # 2 ** 30 rounds would stop the router. The salt is another in each process: the id must not hold it.
    pytest.param(
        f"anna:{str(hash_password(PASSWORD)).replace('ln=14', 'ln=30')}",
        "line 1: holds no scrypt hash, as `failover password` writes it", id="too many rounds",
    ),
])  # fmt: skip
def test_unusable_lines_are_named_and_never_shown(line: str, problem: str) -> None:
    assert parse_passwords(line)[1] == [problem]


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    set_password(path, "anna", PASSWORD)
    assert password_file_problems(path) == []
    path.chmod(0o640)
    assert password_file_problems(path) == ["must be for its owner alone (chmod 600), is 640"]
    assert password_file_problems(tmp_path / "none") == ["cannot be read: No such file or directory"]
    users = PasswordFile(path, ManualClock())
    assert not users.fits("anna", PASSWORD)


@pytest.mark.parametrize(("user", "password"), [("anna", "short"), ("an:na", PASSWORD), ("#x", PASSWORD)])
def test_what_cannot_be_kept_is_refused(tmp_path: Path, user: str, password: str) -> None:
    with pytest.raises(ValueError, match=r"a (user|password) (has|must)"):
        set_password(tmp_path / "passwords", user, password)
