"""What can be compiled: the list is of modules that exist, and no compiled one is older than its source."""

from __future__ import annotations

import ast
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _listed() -> list[Path]:
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES":
            names = ast.literal_eval(node.value)
            return [ROOT / "failover" / f"{name.replace('.', '/')}.py" for name in names]
    raise AssertionError("setup.py lists no modules")


def test_what_is_compiled_exists() -> None:
    assert [str(source) for source in _listed() if not source.is_file()] == []


def test_no_compiled_module_hides_a_newer_source() -> None:
    compiled = [
        found for found in (ROOT / "failover").rglob("*") if found.name.endswith(tuple(EXTENSION_SUFFIXES))
    ]
    stale = []
    for found in compiled:
        source = found.with_name(found.name.partition(".")[0] + ".py")
        if not source.is_file() or source.stat().st_mtime > found.stat().st_mtime:
            stale.append(f"{found.name}: make compile, or make clean")
    assert stale == []


def test_no_name_that_c_keeps_for_itself() -> None:
    """mypyc puts `_` before each attribute: `_thread` becomes `__thread`, a word of the C compiler."""
    kept = ("_asm", "_const", "_inline", "_signed", "_thread", "_volatile")
    found = [
        f"{source.name}: {node.attr}"
        for source in _listed()
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in kept
    ]
    assert found == []
