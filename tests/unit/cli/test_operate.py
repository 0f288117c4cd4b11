"""The commands that talk to a router: what they ask, what they print, how they end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from failover.admin.requests import DecisionRequest, RouteRequest
from failover.model import Mode, UpstreamName
from failover.routing.states import Decision
from tests.fakes.operations import FakeOperations
from tests.unit.cli.conftest import TOKEN, Running

Failover = Callable[..., Result]


def test_status_is_for_people_and_for_scripts(failover: Failover, router: Running) -> None:
    shown = failover("status", "--admin", router.url)
    assert shown.exit_code == 0
    assert "essen" in shown.output
    assert "on primary" in shown.output
    assert "coverage 99.8 %" in shown.output
    assert "\x1b" not in shown.output, "no colours in a pipe"
    facts = failover("status", "--json", "--admin", router.url)
    assert json.loads(facts.stdout)["phase"] == "on_primary"


def test_a_dead_primary_is_told_with_its_reason(failover: Failover, router: Running) -> None:
    def die(operations: FakeOperations) -> None:
        operations.move("backup")
        web = operations.now["upstreams"]["primary"]["web"]
        web.update(up=False, verdict="down", reason="reach: connection refused")
        operations.now["replication"].update(lag_objects=12, lag_s=754.0)
        operations.now["failback"].update(allowed=False, reason="waiting: 12 objects", hold_down_left_s=42.0)

    router.act(die)
    output = failover("status", "--admin", router.url).output
    for words in ("ON BACKUP", "✕ down", "reach: connection refused", "hold-down: 42 s left", "for 12 min"):
        assert words in output


def test_force_asks_what_the_options_say(failover: Failover, router: Running) -> None:
    done = failover(
        "force", "backup", "--reason", "images are black", "--for", "2h",
        "--keep-replicating", "--even-if-down", "--admin", router.url,
    )  # fmt: skip
    assert done.exit_code == 0
    assert "forced to the backup until" in done.output
    asked, actor = router.operations.asked[0]
    assert asked == RouteRequest(
        Mode.FORCED, UpstreamName.BACKUP, "images are black",
        for_s=7200.0, even_if_down=True, keep_replicating=True,
    )  # fmt: skip
    assert actor == "nightshift"
    assert failover("auto", "--admin", router.url).exit_code == 0
    assert router.operations.now["mode"] == "auto"


def test_a_dry_run_prints_the_sentences(failover: Failover, router: Running) -> None:
    told = failover("force", "backup", "--reason", "x", "--dry-run", "--admin", router.url)
    assert told.exit_code == 0
    assert "Nothing was changed" in told.output
    assert "web and DICOM would be answered by the backup" in told.output
    facts = failover("force", "backup", "--reason", "x", "--dry-run", "--json", "--admin", router.url)
    assert json.loads(facts.stdout)["would"][0] == "mode would be forced"
    assert router.operations.trail == []


def test_a_refusal_ends_with_1(failover: Failover, router: Running) -> None:
    router.act(lambda operations: operations.now["upstreams"]["backup"]["dicom"].update(verdict="down"))
    refused = failover("force", "backup", "--reason", "x", "--admin", router.url)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == "the backup is down; with even_if_down it is done all the same\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["force", "backup"],
        ["force", "both", "--reason", "x"],
        ["force", "--reason", "x"],
        ["force", "backup", "--reason", "x", "--for", "7200"],
        ["force", "backup", "--reason", " "],
        ["drain", "backup", "--reason", "x"],
        ["drain", "primary", "--reason", "x", "--grace", "soon"],
        ["drain", "primary"],
        ["pause"],
        ["decide", "failback"],
        ["decide", "later", "--reason", "x"],
        ["status", "--nonsense"],
        ["nonsense"],
        ["status", "--admin", "127.0.0.1:9470"],
        ["status", "--admin", "http://127.0.0.1:99999999"],
        ["status", "--token-file", "nowhere"],
    ],
)
def test_a_usage_error_ends_with_2(failover: Failover, router: Running, arguments: list[str]) -> None:
    ended = failover(*arguments, FAILOVER_ADMIN=router.url)
    assert ended.exit_code == 2, ended.output
    assert ended.stdout == ""
    assert ended.stderr
    assert router.operations.asked == []


def test_no_router_ends_with_3(failover: Failover) -> None:
    for command in (["status"], ["events"], ["auto"], ["pause", "--reason", "x"], ["status", "--watch"]):
        ended = failover(*command, "--admin", "http://127.0.0.1:1")
        assert ended.exit_code == 3
        assert ended.stderr == (
            "no router answers at http://127.0.0.1:1: Connection refused; "
            "is it running? --admin URL names another\n"
        )


def test_the_first_line_is_the_first_sentence_of_the_page(failover: Failover, router: Running) -> None:
    shown = failover("status", "--admin", router.url).output.splitlines()
    facts = json.loads(failover("status", "--json", "--admin", router.url).output)
    assert shown[0] == f"✓ {facts['headline']}"
    assert shown[1] == f"  {facts['advice']}"


def test_moments_in_a_sentence_are_in_local_time(
    failover: Failover, router: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        router.act(lambda operations: operations.move("backup"))
        router.act(lambda operations: _die(operations.now))
        shown = failover("status", "--admin", router.url).output
    finally:
        monkeypatch.undo()
        time.tzset()
    assert "The primary is down; the backup answers since 2026-01-01 09:00:00 JST." in shown


def _die(status: dict[str, Any]) -> None:
    for service in status["upstreams"]["primary"].values():
        service.update(up=False, verdict="down")


def test_a_demo_that_does_not_run_is_named(failover: Failover) -> None:
    ended = failover("demo", "stop-primary", "--dir", "elsewhere")
    assert ended.exit_code == 1
    assert ended.stderr == "no demo runs in elsewhere: `failover demo` starts one, --dir names its folder\n"


def test_drain_returns_when_the_primary_is_empty(failover: Failover, router: Running) -> None:
    router.act(lambda operations: operations.now["in_flight"]["primary"].update(web=0, dicom=0))
    ended = failover("drain", "primary", "--reason", "upgrade", "--admin", router.url)
    assert ended.exit_code == 0
    assert "the primary is empty: it can be serviced" in ended.stderr
    assert router.operations.now["mode"] == "drain"


def test_drain_waits_for_what_is_in_flight(failover: Failover, router: Running) -> None:
    def empty_at_second_look(operations: FakeOperations) -> None:
        whole, looks = operations.status, iter(range(1000))

        def status() -> Any:
            if next(looks) == 2:
                operations.now["in_flight"]["primary"].update(web=0, dicom=0)
            return whole()

        operations.status = status  # type: ignore[method-assign]

    router.act(empty_at_second_look)
    ended = failover("drain", "primary", "--reason", "upgrade", "--admin", router.url)
    assert ended.exit_code == 0
    assert "at the primary   0 web requests, 0 associations" in ended.stdout


def test_drain_tells_what_is_left_after_its_grace(failover: Failover, router: Running) -> None:
    ended = failover(
        "drain", "primary", "--reason", "upgrade", "--grace", "1ms", "--json", "--admin", router.url
    )
    assert ended.exit_code == 1
    assert ended.stderr == (
        "after 1ms the primary still has 3 web requests, 1 association; the drain stays in force\n"
    )
    assert json.loads(ended.stdout)["mode"] == "drain"


def test_what_the_router_warns_of_is_said_and_a_drain_fails_by_it(
    failover: Failover, router: Running
) -> None:
    def warn(operations: FakeOperations) -> None:
        operations.warnings = ["the replicator did not answer"]
        operations.now["in_flight"]["primary"].update(web=0, dicom=0)

    router.act(warn)
    forced = failover("force", "backup", "--reason", "upgrade", "--admin", router.url)
    assert (forced.exit_code, forced.stderr) == (0, "the replicator did not answer\n")
    drained = failover("drain", "primary", "--reason", "upgrade", "--admin", router.url)
    assert drained.exit_code == 1
    assert drained.stderr.endswith("the replicator did not answer\n")


def test_a_drain_that_someone_ends_is_told(failover: Failover, router: Running) -> None:
    def someone_says_auto(operations: FakeOperations) -> None:
        whole = operations.status

        def status() -> Any:
            if operations.asked:
                operations.now["mode"] = "auto"
            return whole()

        operations.status = status  # type: ignore[method-assign]

    router.act(someone_says_auto)
    ended = failover("drain", "primary", "--reason", "upgrade", "--admin", router.url)
    assert ended.exit_code == 1
    assert "the drain was ended meanwhile; the mode is auto" in ended.stderr


def test_pause_and_decide(failover: Failover, router: Running) -> None:
    assert failover("pause", "--reason", "migration", "--for", "90m", "--admin", router.url).exit_code == 0
    ended = failover("decide", "vanished-owed", "--reason", "restored", "--admin", router.url)
    assert ended.exit_code == 0
    assert [asked for asked, _ in router.operations.asked] == [
        RouteRequest(Mode.PAUSED, None, "migration", for_s=5400.0),
        DecisionRequest(Decision.VANISHED_OWED, "restored"),
    ]


def test_events_are_lines_or_json(failover: Failover, router: Running) -> None:
    fields = {"service": "web", "from": "on_primary", "to": "on_backup"}
    router.act(lambda operations: operations.happen("transition", reason="no good answer for 5 s", **fields))
    lines = failover("events", "--admin", router.url).stdout.splitlines()
    assert len(lines) == 1
    assert "transition web  on primary → on backup  no good answer for 5 s" in lines[0]
    assert json.loads(failover("events", "--json", "--admin", router.url).stdout)[0]["id"] == 1
    assert failover("events", "--since", "1", "--admin", router.url).stdout == ""


def test_following_prints_each_event_once(router: Running) -> None:
    router.act(lambda operations: operations.happen("started", reason="first"))
    command = [sys.executable, "-m", "failover", "events", "--follow", "--json", "--admin", router.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["reason"] == "first"
            router.act(lambda operations: operations.happen("alarm", reason="second"))
            assert json.loads(process.stdout.readline())["reason"] == "second"
            router.act(lambda operations: operations.happen("alarm", reason="third"))
            assert json.loads(process.stdout.readline())["reason"] == "third"
        finally:
            process.terminate()


def test_watching_prints_a_status_a_line_when_piped(router: Running) -> None:
    command = [sys.executable, "-m", "failover", "status", "--watch", "--json", "--admin", router.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["phase"] == "on_primary"
            router.act(lambda operations: operations.move("backup"))
            phases = (json.loads(line)["phase"] for line in process.stdout)
            assert next(phase for phase in phases if phase != "on_primary") == "on_backup"
        finally:
            process.terminate()


# -- finding the router and the token ---------------------------------------------------------------


def test_the_router_is_found_as_the_contract_says(
    failover: Failover, router: Running, tmp_path: Path
) -> None:
    nowhere = "http://127.0.0.1:1"
    listen = f"listen: {{admin: {{port: {router.port}}}}}\n"
    assert failover("status", "--admin", router.url, FAILOVER_ADMIN=nowhere).exit_code == 0
    assert failover("status", FAILOVER_ADMIN=router.url).exit_code == 0
    (tmp_path / "here.yaml").write_text(listen)
    assert failover("status", "-c", "here.yaml").exit_code == 0
    assert failover("status", FAILOVER_CONFIG="here.yaml").exit_code == 0
    assert failover("status", "-c", "here.yaml", FAILOVER_ADMIN=nowhere).exit_code == 3
    (tmp_path / "failover.yaml").write_text(listen + "primary: being edited\n")
    assert failover("status").exit_code == 0
    assert failover("status", FAILOVER_CONFIG="none.yaml").exit_code == 2
    (tmp_path / "failover.yaml").write_text("listen: {admin: {port: x}}\n")
    broken = failover("status")
    assert (broken.exit_code, broken.stderr) == (
        2,
        "failover.yaml:1: listen.admin.port: must be a whole number, is x\n",
    )


def test_a_proxy_of_the_environment_is_not_used(failover: Failover, router: Running) -> None:
    assert failover("status", "--admin", router.url, http_proxy="http://127.0.0.1:1").exit_code == 0


def test_the_token_is_shown_and_names_who_acts(
    failover: Failover, locked_router: Running, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text(TOKEN)
    without = failover("status", "--admin", locked_router.url)
    assert without.exit_code == 2
    assert without.stderr == "the router wants a token it knows: --token-file FILE or FAILOVER_TOKEN_FILE\n"
    assert failover("status", "--token-file", "mine", "--admin", locked_router.url).exit_code == 0
    ended = failover("pause", "--reason", "x", FAILOVER_ADMIN=locked_router.url, FAILOVER_TOKEN_FILE="tokens")
    assert ended.exit_code == 0
    assert locked_router.operations.asked[0][1] == "alice"


def test_what_answers_but_is_no_router_is_told(failover: Failover, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as other:
        assert other.stdout is not None
        try:
            port = other.stdout.readline().split(" port ")[1].split()[0]
            ended = failover("status", "--admin", f"http://127.0.0.1:{port}")
            assert ended.exit_code in (2, 3)
            assert "404" in ended.stderr or "no failover router" in ended.stderr
        finally:
            other.terminate()
