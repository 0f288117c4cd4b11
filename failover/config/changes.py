"""What differs between two configurations, and one with some of the changes of another. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel

from failover.config.problems import KeyPath

_Model = TypeVar("_Model", bound=BaseModel)


def changed(old: BaseModel, new: BaseModel) -> list[KeyPath]:
    """Return the path of each key whose value differs, in the order of the schema.

    A block that is there in one alone is one change, and so are lists and mappings.
    """
    return list(_changed(old, new, ()))


def _changed(old: BaseModel, new: BaseModel, path: KeyPath) -> Iterator[KeyPath]:
    for name in type(new).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel) and type(before) is type(after):
            yield from _changed(before, after, (*path, name))
        elif before != after:
            yield (*path, name)


def with_changes(old: _Model, new: _Model, paths: Collection[KeyPath]) -> _Model:
    """Return `old` with the values that `new` has at `paths`."""
    below: dict[str, list[KeyPath]] = {}
    for path in paths:
        below.setdefault(path[0], []).append(path[1:])
    update: dict[str, Any] = {}
    for name, rest in below.items():
        whole = () in rest
        after = getattr(new, name)
        update[name] = after if whole else with_changes(getattr(old, name), after, rest)
    return old.model_copy(update=update)


def is_below(path: KeyPath, keys: Collection[str]) -> bool:
    """Return whether `path` is one of `keys` (dotted), or below one of them."""
    return any(".".join(path[:length]) in keys for length in range(1, len(path) + 1))
