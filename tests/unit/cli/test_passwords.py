"""failover password: a user more, another password, a user less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from failover.cli import make_app
from failover.clock import ManualClock
from failover.credentials.password_file import PasswordFile

BAD_USER = 'a user has 1 to 64 characters, without spaces and without : , ; " and \\\n'
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "site.yaml").write_text("access:\n  web: {password_file: passwords}\nprimary: [wrong]\n")

    def run_it(*arguments: str, typed: str = "") -> Result:
        app: typer.Typer = make_app()
        return CliRunner().invoke(app, [*arguments, "-c", str(tmp_path / "site.yaml")], input=typed)

    return run_it


def test_the_life_of_a_user(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    told = run("password", "anna", typed="correct horse\n")
    assert (told.exit_code, told.output) == (0, f"{path}: anna is a new user\n")
    assert PasswordFile(path, ManualClock()).fits("anna", "correct horse")
    told = run("password", "anna", typed="battery staple\n")
    assert told.output == f"{path}: anna has a new password\n"
    assert not PasswordFile(path, ManualClock()).fits("anna", "correct horse")
    told = run("password", "anna", "--remove")
    assert (told.exit_code, told.output) == (0, f"{path}: anna is out\n")
    told = run("password", "anna", "--remove")
    assert (told.exit_code, told.output) == (1, f"{path}: has no user anna\n")


def test_a_file_of_its_own(run: Run, tmp_path: Path) -> None:
    told = run("password", "anna", "--file", str(tmp_path / "other"), typed="correct horse\n")
    assert told.exit_code == 0
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("user", "typed", "why"), [
    ("anna", "short\n", "a password must have 8 to 1024 characters\n"),
    ("anna", "", "a password must have 8 to 1024 characters\n"),
    ("an:na", "correct horse\n", BAD_USER),
])  # fmt: skip
def test_what_cannot_be_a_user_or_a_password(run: Run, user: str, typed: str, why: str) -> None:
    told = run("password", user, typed=typed)
    assert (told.exit_code, told.output) == (2, why)


def test_without_a_password_file_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("site: x\n")
    told = CliRunner().invoke(make_app(), ["password", "anna", "-c", str(tmp_path / "bare.yaml")])
    assert told.exit_code == 2
    assert told.output == "the configuration has no access.web.password_file; --file names one\n"
