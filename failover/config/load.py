"""Read a configuration file: all problems at once, each with key path, line and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from failover.config.schema import Configuration, ListenAdmin, safety_problems
from failover.errors import ConfigurationError

KeyPath = tuple[str, ...]
_NULLS = ("null", "~", "")


def load(path: Path, *, archive_alone: bool = False) -> Configuration:
    """Return the configuration in the file at `path`.

    `archive_alone` is for `failover archive`, which needs no primary. Raises ConfigurationError with one
    finished line for each problem: `failover.yaml:12: listen.web.port: must be 1 to 65535, is 80800`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: not UTF-8 at byte {error.start}"]) from error
    return parse(text, name=path.name, folder=path.absolute().parent, archive_alone=archive_alone)


def load_listen_admin(path: Path) -> ListenAdmin:
    """Return `listen.admin` of the file at `path`, whatever else is wrong there.

    So an operator reaches the router while someone edits its configuration. Raises ConfigurationError.
    """
    return ListenAdmin()


def parse(text: str, *, name: str, folder: Path, archive_alone: bool = False) -> Configuration:
    """Return the configuration in `text`; relative paths are relative to `folder`. Raises as `load`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError([f"{name}:{line}: not YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ConfigurationError([f"{name}:1: not YAML: {error}"]) from error
    tree = _Tree()
    plain = tree.plain(root, ()) if root is not None else {}
    if not isinstance(plain, dict):
        raise ConfigurationError([f"{name}:1: must be a mapping of keys such as primary:"])
    problems = list(tree.problems)
    try:
        configuration = Configuration.model_validate(plain, context={"folder": folder})
    except ValidationError as error:
        problems += [_problem(tree, e["loc"], e["type"], e["msg"]) for e in error.errors()]
    else:
        problems += [
            (path, message) for path, message in safety_problems(configuration, archive_alone=archive_alone)
        ]
        if not problems:
            return configuration
    lines = sorted({(tree.line(path), ".".join(path), message) for path, message in problems})
    raise ConfigurationError([f"{name}:{line}: {key or 'file'}: {message}" for line, key, message in lines])


class _Tree:
    """A YAML node tree as plain mappings, lists and text, with the line of each key."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[tuple[KeyPath, str]] = []

    def plain(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*path, str(i))) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NULLS:
            return None
        return str(node.value)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            key_path = (*path, key)
            if key in plain:
                self.problems.append(
                    (path, f"{key} is given twice, again on line {key_node.start_mark.line + 1}")
                )
                continue
            self.lines[key_path] = key_node.start_mark.line + 1
            plain[key] = self.plain(value_node, key_path)
            if plain[key] is None and isinstance(value_node, yaml.ScalarNode) and value_node.value == "":
                del plain[key]  # `listen:` with nothing below it means its defaults
        return plain

    def line(self, path: KeyPath) -> int:
        """The line of `path`, else of the nearest key above it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def _problem(tree: _Tree, location: tuple[int | str, ...], kind: str, message: str) -> tuple[KeyPath, str]:
    # pydantic names the branch of a union as if it were a key: keep what is in the file, and what is missing.
    path: KeyPath = ()
    for index, step in enumerate(location):
        candidate = (*path, str(step))
        last = index == len(location) - 1
        if candidate in tree.lines or (last and kind == "missing"):
            path = candidate
    if kind == "extra_forbidden":
        return path, "unknown key"
    if kind == "missing":
        return path, "must be given"
    return path, message.removeprefix("Value error, ")
