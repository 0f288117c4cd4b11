"""check, the serving commands' complaints, help, and that the command starts quickly."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import Result

from failover.cli import make_app

Failover = Callable[..., Result]
BAD = "primary: {web: {url: http://127.0.0.1:8042}}\nlisten:\n  web: {host: 0.0.0.0, port: 80800}\n"
PROBLEMS = [
    "bad.yaml:3: listen.web.host: beyond loopback needs access.web: whom the archive may answer",
    "bad.yaml:3: listen.web.port: must be 1 to 65535, is 80800",
]


def commands() -> Iterator[list[str]]:
    """Every command, its group before it."""

    def below(group: typer.core.TyperGroup, path: list[str]) -> Iterator[list[str]]:
        for name, command in group.commands.items():
            yield [*path, name]
            if isinstance(command, typer.core.TyperGroup):
                yield from below(command, [*path, name])

    top = typer.main.get_command(make_app())
    assert isinstance(top, typer.core.TyperGroup)
    yield from below(top, [])


def test_the_terminal_breaks_the_lines_of_a_help_not_our_source() -> None:
    def below(group: typer.core.TyperGroup) -> Iterator[str]:
        for command in group.commands.values():
            yield command.help or ""
            if isinstance(command, typer.core.TyperGroup):
                yield from below(command)

    top = typer.main.get_command(make_app())
    assert isinstance(top, typer.core.TyperGroup)
    told = list(below(top))
    assert all(told)
    assert not [text for text in told if "\n" in text.replace("\n\n", "")]


def test_every_command_of_the_contract_is_there() -> None:
    assert {" ".join(command) for command in commands()} == {
        "run", "router", "archive", "archive plan", "archive protect", "archive unprotect",
        "replicator", "check", "reload", "demo", "demo stop-primary",
        "demo start-primary", "status", "force", "drain", "pause", "auto", "decide", "events", "owed",
        "quarantine", "import", "password",
    }  # fmt: skip


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_has_help(failover: Failover, command: list[str]) -> None:
    told = failover(*command, "--help")
    assert told.exit_code == 0
    assert "Usage: failover" in told.output or "Usage: " in told.output


def test_the_version(failover: Failover) -> None:
    assert failover("--version").stdout.startswith("failover ")


def test_check_says_ok_and_what_the_primary_will_feel(failover: Failover, tmp_path: Path) -> None:
    (tmp_path / "failover.yaml").write_text(
        "primary: {web: {url: http://127.0.0.1:8042}, dicom: {host: h, port: 104, ae_title: A}}\n"
        "health: {dicom: {timeout: 9s}}\n"
    )
    told = failover("check")
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert lines[0] == "failover.yaml: ok"
    assert lines[1] == "advice: health.dicom.timeout: is not shorter than policy.fail_after"
    assert "   17,280  dicom C-ECHO" in lines
    facts = json.loads(failover("check", "--json").stdout)
    assert facts["ok"] is True
    assert facts["probes_per_day"]["dicom C-ECHO"] == 17280


def test_check_prints_every_problem(failover: Failover, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    told = failover("check", "-c", "bad.yaml")
    assert (told.exit_code, told.stdout.splitlines()) == (2, PROBLEMS)
    facts = failover("check", "-c", "bad.yaml", "--json")
    assert (facts.exit_code, json.loads(facts.stdout)) == (2, {"ok": False, "problems": PROBLEMS})
    missing = failover("check", "-c", "none.yaml")
    assert (missing.exit_code, missing.stdout) == (2, "none.yaml: No such file or directory\n")


@pytest.mark.parametrize("command", ["run", "router", "archive", "replicator"])
def test_a_configuration_problem_is_one_line_each_also_when_piped(tmp_path: Path, command: str) -> None:
    (tmp_path / "bad.yaml").write_text(BAD + "archive: {web: {host: x y}}\n")
    ended = subprocess.run(
        [sys.executable, "-m", "failover", command, "-c", "bad.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert (
        "bad.yaml:4: archive.web.host: must be a name or an address alone, is x y"
        in ended.stderr.splitlines()
    )
    assert all(line.startswith("bad.yaml:") for line in ended.stderr.splitlines())


@pytest.mark.parametrize(
    ("command", "key"), [("run", "listen.web"), ("router", "listen.web"), ("archive", "archive.web")]
)
def test_a_taken_port_is_one_line_that_names_it(tmp_path: Path, command: str, key: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        block, service = key.split(".")
        (tmp_path / "f.yaml").write_text(
            f"primary: {{web: {{url: http://127.0.0.1:1}}}}\n{block}: {{{service}: {{port: {port}}}}}\n"
        )
        ended = subprocess.run(
            [sys.executable, "-m", "failover", command, "-c", "f.yaml"],
            cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    said = [line for line in ended.stderr.splitlines() if str(port) in line and key in line]
    assert len(said) == 1, ended.stderr


def test_the_demo_says_what_how_may_be(failover: Failover) -> None:
    ended = failover("demo", "stop-primary", "--how", "gently")
    assert (ended.exit_code, ended.stderr) == (2, "--how: must be kill or stop, is gently\n")


def test_a_command_loads_nothing_heavy_before_it_must() -> None:
    code = (
        "import sys; import failover.cli as c; c.make_app();"
        "print(*{'aiohttp','pydantic','pydicom','numpy','asyncio','rich.live'} & set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True
    )
    assert told.stdout == "\n"
