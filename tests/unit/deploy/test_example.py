"""deploy/failover.example.yaml names every key, says the schema's defaults, and loads either way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from docs import configuration_page
from failover.config.load import parse
from failover.config.schema import Configuration
from failover.credentials.password_file import set_password
from tests.peers.authority import Authority
from tests.unit.deploy.units import ROOT

EXAMPLE = ROOT / "deploy" / "failover.example.yaml"
# What stands there as an illustration, not as the default: the default is nothing, or the host's.
ILLUSTRATED = {
    "site", "listen.admin.token_file", "listen.admin.hosts", "access.web", "archive.access",
    "archive.access.web", "archive.move_destinations", "health.web.body_pattern", "health.web.json_pointer",
    "health.web.json_value", "health.web.slower_than", "replication.window_days", "archive.access.dicom",
    "access.dicom", "listen.web.tls", "listen.dicom.tls", "listen.admin.tls",
}  # fmt: skip
_KEY = re.compile(r"( *)# ((?:[a-z_]+|WORKSTATION):(?: .*)?)$")


def uncommented() -> str:
    """The example with each commented key put in force; prose stays prose."""
    lines = []
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        match = _KEY.fullmatch(line)
        lines.append(match[1] + match[2] if match else line)
    return "\n".join(lines)


def loaded(text: str, folder: Path) -> Configuration:
    (folder / "tokens").write_text("alice 0123456789abcdef\n")
    set_password(folder / "passwords", "alice", "correct horse")
    (folder / "oidc-secret").write_text("0123456789abcdef\n")
    (folder / "oidc-secret").chmod(0o600)
    if "cert_file" in text:
        authority = Authority(folder / "tls", "hospital-ca")
        authority.issue("router", file="router")
    return parse(text, name=EXAMPLE.name, folder=folder)


def keys(content: Any, path: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in content.items():
        key = f"{path}.{name}".lstrip(".")
        found.add(key)
        if isinstance(value, dict):
            found |= keys(value, key)
    return found


def test_it_loads_as_it_stands(tmp_path: Path) -> None:
    configuration = loaded(EXAMPLE.read_text(encoding="utf-8"), tmp_path)
    assert configuration.policy.fail_after == 5.0


def test_it_loads_with_everything_in_force(tmp_path: Path) -> None:
    text = uncommented().replace("method: HEAD", "method: GET")  # what a body must contain needs GET
    text = text.replace("url: http:", "url: https:")
    configuration = loaded(text, tmp_path)
    assert configuration.site == "essen"
    assert configuration.health.web.json_value == "ready"


def test_it_names_every_key_of_the_schema() -> None:
    named = {
        key.replace("move_destinations.WORKSTATION", "move_destinations.AE_TITLE")
        for key in keys(yaml.safe_load(uncommented()))
    }
    wanted = set(configuration_page.key_paths())
    assert wanted - named == set()
    assert named - wanted == {"archive.move_destinations.AE_TITLE"}


def test_what_it_says_is_the_default(tmp_path: Path) -> None:
    content = yaml.safe_load(uncommented())
    for key in ILLUSTRATED:
        *way, last = key.split(".")
        block = content
        for name in way:
            block = block.get(name) or {}
        block.pop(last, None)
    content["primary"] = {"web": {"url": "http://pacs.example.org"}}
    given = loaded(yaml.safe_dump(content), tmp_path)
    bare = loaded("primary: {web: {url: http://pacs.example.org}}", tmp_path)
    for block, model in configuration_page.blocks(Configuration):
        if (
            "AE_TITLE" in block
            or block.endswith(".tls")
            or block.startswith(("primary", "archive.access", "access."))
        ):
            continue
        for name in model.model_fields:
            key = f"{block}.{name}".lstrip(".")
            assert _at(given, key) == _at(bare, key), key


def _at(configuration: Any, key: str) -> Any:
    for name in key.split("."):
        configuration = getattr(configuration, name)
    return configuration
