"""Turns what pydantic reports of a configuration into sentences that an operator can act on. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from failover.config.problems import KeyPath, Problem
from failover.config.scalars import shown
from failover.config.tree import Tree

_UNIT: Final = re.compile(r"[0-9.]+\s*([A-Za-z]+)")
_BOUNDS: Final = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def problem_of(tree: Tree, error: Mapping[str, Any]) -> Problem:
    """Return the problem that one of pydantic's errors (`ValidationError.errors()`) speaks of."""
    location, kind = error["loc"], str(error["type"])
    # pydantic names the branch of a union as if it were a key: keep what is in the file, and what is missing.
    path: KeyPath = ()
    for index, step in enumerate(location):
        candidate = (*path, str(step))
        if candidate in tree.lines or (index == len(location) - 1 and kind == "missing"):
            path = candidate
    if location and location[-1] == "[key]":  # the key itself is wrong, not what stands below it
        return Problem(tree.line(path), path, _own_words(error))
    return Problem(tree.line(path), path, _sentence(tree, path, kind, error))


def _sentence(tree: Tree, path: KeyPath, kind: str, error: Mapping[str, Any]) -> str:
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "must be given"
    value = tree.value(path)
    context = error.get("ctx", {})
    if value is None:
        return "must not be null; left out it has its default"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be a block of keys, is {shown(value)}"
    if kind == "list_type":
        return f"must be a list such as [a, b], is {shown(value)}"
    if kind == "literal_error":
        return f"must be {context['expected'].replace(chr(39), '')}, is {shown(value)}"
    if kind in _BOUNDS:
        return _bound_sentence(kind, context, value)
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters, has {len(str(value))}"
    if isinstance(value, dict | list) and "must be" not in error["msg"]:
        return f"must be a single value, is {shown(value)}"
    return _own_words(error)


def _own_words(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def _bound_sentence(kind: str, context: Mapping[str, Any], value: object) -> str:
    key, words = _BOUNDS[kind]
    bound = context[key]
    number = f"{bound:g}" if isinstance(bound, float) else str(bound)
    unit = _UNIT.fullmatch(str(value).strip())
    if unit is None:
        return f"must be {words} {number}, is {shown(value)}"
    # Bounds are seconds or bytes; the file's own unit is one of either.
    base = "s" if unit[1] in ("ms", "s", "m", "h", "d") else "B"
    return f"must be {words} {number}{base}, is {shown(value)}"
