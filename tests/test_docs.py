"""Nothing is undocumented: config keys, commands, options, admin routes, metrics, audit events, alerts.

Pages drawn from the code must be as the code has it; those written by hand must name what is there.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from docs import commands_page, configuration_page, generate, metrics_page
from failover.admin.api import admin_app
from failover.admin.requests import RouteRequest
from failover.app.reload import USES
from failover.audit.events import EventKind
from failover.config.load import parse
from failover.config.schema import ListenAdmin
from failover.credentials.password_file import set_password
from failover.routing.states import TRANSITIONS, Decision
from tests.fakes.operations import FakeOperations, calm_status
from tests.peers.authority import Authority

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", generate.PAGES)
def test_a_page_drawn_from_the_code_is_current(page: str) -> None:
    assert page not in generate.stale(), f"run `make docs`:\n{generate.stale()[page]}"


def test_every_config_key_has_a_description() -> None:
    wanting = [
        f"{path}.{name}".lstrip(".")
        for path, block in configuration_page.blocks(configuration_page.Configuration)
        for name, field in block.model_fields.items()
        if not field.description
    ]
    assert not wanting
    page = text("configuration.md")
    assert not [
        key for key in configuration_page.key_paths() if f"| `{key.rsplit('.', 1)[-1]}` |" not in page
    ]


def test_what_a_reload_takes_over_live_stands_in_the_table_and_nothing_else_does() -> None:
    table = text("deploy.md").split("| process | takes over live |", 1)[1].split("\n\n", 1)[0]
    rows = dict(re.findall(r"^\| ([a-z ]+?)(?: beside it .*?)? \| (.*) \|$", table, re.MULTILINE))
    told = {
        row: {key.rsplit(".", 1)[-1] for key in re.findall(r"`([a-z_.]+)`", said)}
        for row, said in rows.items()
    }
    for process, row in {"router": "router", "archive": "archive", "replicator": "replicator"}.items():
        live = {key.rsplit(".", 1)[-1] for key in USES[process].live if "tls." not in key}
        blocks = {"health", "web", "dicom"} if process == "router" else set[str]()  # in front of their keys
        assert told[row] - blocks == live - blocks, process
    assert "`policy.hedge`" in rows["each web worker"]
    assert "`access.web.addresses`" in rows["each web worker"]


def test_every_command_and_option_is_there_with_help() -> None:
    page = text("commands.md")
    for words, command in commands_page.commands():
        assert f"## failover {' '.join(words)}\n" in page
        assert command.help, words
        for parameter in command.params:
            assert (
                parameter.name == "help"
                or not commands_page.options(command)
                or parameter.help
                or (not parameter.opts[0].startswith("-"))
            ), f"{words}: {parameter.name} has no help"


def test_every_admin_route_is_documented() -> None:
    page = text("admin-api.md")
    for resource in admin_app(FakeOperations(), ListenAdmin()).router.routes():
        assert isinstance(resource, web.AbstractRoute)
        assert resource.resource is not None
        if resource.method == "HEAD":
            continue
        path = resource.resource.canonical
        assert f"{resource.method} {path}" in page or f"`{path}`" in page, f"{resource.method} {path}"


def test_every_field_of_the_api_is_documented() -> None:
    page = text("admin-api.md")
    for field in RouteRequest.__dataclass_fields__:
        assert f"| `{field}` |" in page
    for decision in Decision:
        assert f"| `{decision}` |" in page
    for field, value in calm_status().items():
        assert f'"{field}"' in page
        for inner in value if isinstance(value, dict) else ():
            assert f'"{inner}"' in page, f"{field}.{inner}"


def test_every_metric_is_documented_and_named_as_it_should_be() -> None:
    page = text("metrics.md")
    for name in metrics_page.names():
        assert f"| `{name}` |" in page
        assert re.fullmatch(r"failover_[a-z0-9_]+", name), name
    assert len(set(metrics_page.names())) == len(metrics_page.names())


def test_every_audit_event_is_documented() -> None:
    page = text("audit.md")
    assert not [kind for kind in EventKind if f"| `{kind}` |" not in page]
    assert not [edge.code for edge in TRANSITIONS.values() if f"| `{edge.code}` |" not in page]


def test_every_alert_is_documented() -> None:
    alerts = {
        name
        for folder in ("deploy", "grafana")
        for path in sorted((ROOT / folder).rglob("*.y*ml"))
        for name in re.findall(r"^\s*-?\s*alert:\s*[\"']?(\w+)", path.read_text(encoding="utf-8"), re.M)
    }
    assert alerts
    documented = set(re.findall(r"^### (\w+)$", text("alerts.md"), re.M))
    assert documented - alerts == set(), "documented, and there is none"
    assert alerts - documented == set(), "undocumented"
    # What a section refers to must be there too.
    assert set(re.findall(r"`(Failover[A-Z]\w+)`", text("alerts.md"))) - alerts == set()


def test_links_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_example_of_a_configuration_is_one(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("alice 0123456789abcdef\n")
    set_password(tmp_path / "passwords", "alice", "correct horse")
    Authority(tmp_path / "tls", "hospital-ca").issue("router", file="router")
    primary = "primary: {web: {url: http://pacs.example.org}}\n"
    for path in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for example in re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
            lines = example.splitlines()
            indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
            content = "\n".join(line[indent:] for line in lines)
            whole = content if "primary" in yaml.safe_load(content) else primary + content
            parse(whole, name=path.name, folder=tmp_path)
