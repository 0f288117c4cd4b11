"""The house stands as docs/words.md and the design have it: floors, purity, banned calls.

What ruff cannot see is checked here with `ast`: who imports whom, which modules are pure, and
`.create_task(` under whatever name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "failover"
TESTS = PACKAGE.parent / "tests"

# Imports point down only; rooms that share a floor from `clients` up do not import each other.
GROUND = 0
FLOORS = {
    "clients": 1,
    "health": 2,
    "routing": 3,
    "proxy": 4,
    "relay": 4,
    "archive": 4,
    "replication": 5,
    "admin": 6,
    "app": 7,
    "cli": 7,
    "__main__": 7,
}
# On the ground floor, what may be imported from where: lower numbers know nothing of higher ones.
CELLAR = {
    "errors": 0, "model": 0, "addresses": 0,
    "clock": 1, "aio": 1, "shares": 1, "durable": 1, "metrics": 1, "tallies": 0, "footprint": 0,
    "http": 2, "dicom": 3, "config": 2, "certificates": 1, "tls": 2, "doors": 2, "spool": 2, "control": 2,
    "audit": 3, "credentials": 2, "assets": 0, "seldom": 2, "compiled": 3, "copies": 3,
}  # fmt: skip

PURE = {
    "errors", "model", "addresses",
    "config/schema", "config/blocks", "config/listen", "config/access", "config/upstream", "config/archive",
    "config/health", "config/policy", "config/scalars", "config/tree", "config/problems", "config/sentences",
    "config/checks",
    "http/head", "http/framing", "http/json_items", "http/forwarded", "http/multipart", "http/media_types",
    "http/cookies", "credentials/claims", "credentials/transactions", "credentials/id_token",
    "proxy/challenge",
    "dicom/pdu", "dicom/encoding", "dicom/units", "dicom/association", "dicom/negotiation", "dicom/dimse",
    "dicom/query_keys", "dicom/fuzzy_names", "dicom/json_model", "dicom/data_sets", "dicom/syntaxes",
    "audit/events",
    "health/rise_fall", "health/verdict", "health/stores", "health/standstill", "health/slowness",
    "health/plan", "health/report",
    "routing/states", "routing/state", "routing/machine", "routing/gate", "routing/route",
    "routing/selection", "routing/snapshot", "routing/wishes", "routing/replicator_word", "routing/wire",
    "routing/troubles", "app/store_totals", "app/web_words",
    "proxy/rewrite", "proxy/retry", "proxy/hold", "proxy/classify", "proxy/stow", "proxy/resume",
    "proxy/hedge", "proxy/passage", "proxy/parts", "proxy/items", "proxy/stage",
    "proxy/upstreams",
    "relay/offer", "relay/operations", "relay/matches", "relay/object_statuses",
    "archive/paths", "archive/retention", "archive/queries", "archive/matches", "archive/statements",
    "archive/outside", "archive/find", "archive/window", "archive/match_rows", "archive/held",
    "archive/commitment", "clients/stored",
    "replication/reconcile", "replication/permission", "replication/proof", "replication/vanished",
    "admin/guards", "admin/headline", "admin/facts", "admin/requests", "admin/questions",
    "cli/views", "cli/list_views",
}  # fmt: skip
IMPURE_MODULES = {
    "asyncio", "socket", "os", "time", "logging", "structlog", "subprocess", "threading", "sqlite3", "ssl",
    "aiohttp", "pynetdicom", "tempfile", "shutil", "selectors", "signal", "multiprocessing", "urllib.request",
}  # fmt: skip
ALLOWED_IN_PURE = {"config/schema": {"socket"}}  # the default of `site` is the host's name


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").as_posix(), path


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Each module that the file imports when it runs, with the line; TYPE_CHECKING blocks do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def room(module: str) -> str:
    return module.split("/", 1)[0]


def test_imports_point_down_only() -> None:
    wrong = []
    for name, path in modules():
        here = room(name)
        floor = FLOORS.get(here, GROUND)
        for imported, line in imports(path):
            if not imported.startswith("failover."):
                continue
            there = imported.split(".")[1]
            if there == here or there.startswith("__version"):
                continue
            target = FLOORS.get(there, GROUND)
            siblings = target == floor != GROUND and not {here, there} <= {"cli", "app", "__main__"}
            if target > floor or siblings:
                wrong.append(f"{name}.py:{line}: {here} must not import {there}")
            if floor == target == GROUND and here in CELLAR and CELLAR.get(there, 9) > CELLAR[here]:
                wrong.append(f"{name}.py:{line}: {here} must not import {there} (ground floor)")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name, _ in modules()} - {"__init__"}
    assert rooms <= FLOORS.keys() | CELLAR.keys(), rooms - FLOORS.keys() - CELLAR.keys()


def test_pure_modules_have_no_effects() -> None:
    wrong = []
    for name, path in modules():
        if name not in PURE:
            continue
        for imported, line in imports(path):
            if imported in IMPURE_MODULES - ALLOWED_IN_PURE.get(name, set()):
                wrong.append(f"{name}.py:{line}: a pure module imports {imported}")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith):
                wrong.append(f"{name}.py:{node.lineno}: a pure module awaits")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "print"):
                wrong.append(f"{name}.py:{node.lineno}: a pure module calls {ast.unparse(node.func)}")
    assert not wrong, "\n".join(wrong)


def test_the_pure_list_names_modules_that_exist() -> None:
    known = {name for name, _ in modules()}
    assert not PURE - known, f"listed as pure and not there: {sorted(PURE - known)}"


def test_tasks_start_in_one_place() -> None:
    wrong = [
        f"{name}.py:{node.lineno}: {ast.unparse(node.func)}"
        for name, path in modules()
        if name != "aio"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("create_task", "ensure_future")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("banned", ["asyncio.sleep", "time.sleep"])
def test_no_test_sleeps(banned: str) -> None:
    wrong = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path in sorted(TESTS.rglob("*.py"))
        if path != Path(__file__) and "bench" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == banned
        and not (node.args and ast.unparse(node.args[0]) == "0")
    ]
    assert not wrong, f"{banned} in a test: wait for a condition, with a limit: {wrong}"


def test_every_module_says_what_it_answers() -> None:
    silent = [
        name
        for name, path in modules()
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent, silent


def test_the_router_does_not_load_pynetdicom() -> None:
    """It would cost the router 55 MB: it belongs to the replicator and the archive."""
    loads = {name: {i for i, _ in imports(path)} for name, path in modules()}
    offenders = {
        name
        for name in loads
        if room(name) in ("clients", "health", "routing", "proxy", "relay", "admin", "http", "dicom", "audit")
        and name != "clients/dimse_bulk"
        and any(i.split(".")[0] == "pynetdicom" for i in loads[name])
    }
    assert not offenders, offenders


def test_what_checks_signatures_is_loaded_only_where_a_provider_is_configured() -> None:
    """It costs a process 8 MB: see `credentials/id_token`."""
    heavy = {"jwt", "cryptography"}
    by = {name: {i for i, _ in imports(path)} for name, path in modules()}
    assert [n for n, found in by.items() if heavy & {i.split(".")[0] for i in found}] == [
        "credentials/id_token"
    ]
    assert [n for n, found in by.items() if "failover.credentials.id_token" in found] == [
        "proxy/provider_logins"
    ]
    assert [n for n, found in by.items() if "failover.proxy.provider_logins" in found] == ["app/admission"]
    at_once = ast.parse((PACKAGE / "app/admission.py").read_text(encoding="utf-8")).body
    assert "provider_logins" not in "\n".join(
        ast.unparse(one) for one in at_once if isinstance(one, ast.Import | ast.ImportFrom)
    )  # fmt: skip
