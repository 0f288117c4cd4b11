"""A YAML text as plain mappings, lists and text, with the line of each key. Pure.

Scalars stay text: what they are is the schema's to say, so that `port: 011112`, `site: no` and the AE title
`ON` mean what they say. What YAML offers beyond that, and a configuration never needs, is refused here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import yaml

from failover.config.problems import KeyPath, Problem

_NULLS: Final = ("null", "Null", "NULL", "~", "")
# A configuration has a few hundred. Aliases of aliases could make billions out of ten lines.
_MOST_NODES: Final = 50_000
_DEEPEST: Final = 30
_STANDARD_TAGS: Final = "tag:yaml.org,2002:"


class Tree:
    """One configuration file, read as far as YAML goes."""

    def __init__(self) -> None:
        self.plain: Any = {}
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._nodes = 0

    def line(self, path: KeyPath) -> int:
        """The line of `path`, else of the nearest key above it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def value(self, path: KeyPath) -> Any:
        """What the file has at `path`: text, a mapping, a list, None for null."""
        value = self.plain
        for step in path:
            value = value[int(step)] if isinstance(value, list) else value[step]
        return value

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._nodes += 1
        if len(path) > _DEEPEST or self._nodes > _MOST_NODES:
            raise TooMuch(node.start_mark.line + 1)
        if not node.tag.startswith(_STANDARD_TAGS):
            self._say(path, node, f"the tag {node.tag} is not known here")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, str(i))) for i, item in enumerate(node.value)]
        return None if _is_null(node) else str(node.value)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._say(path, key_node, "a key must be plain text")
                continue
            key = str(key_node.value)
            key_path = (*path, key)
            if key_node.tag == "tag:yaml.org,2002:merge":
                self._say(path, key_node, "merge keys (<<) are not known here: write the keys out")
                continue
            if key in plain or key_path in self.lines:
                first = self.lines[key_path]
                self._say(key_path, key_node, f"is given twice, first on line {first}")
                continue
            self.lines[key_path] = key_node.start_mark.line + 1
            value = self.read(value_node, key_path)
            if value is None and value_node.value == "":
                continue  # `listen:` with nothing below it means its defaults
            plain[key] = value
        return plain

    def _say(self, path: KeyPath, node: yaml.Node, sentence: str) -> None:
        self.problems.append(Problem(node.start_mark.line + 1, path, sentence))


class TooMuch(Exception):
    """Nested too deeply, or more nodes than a configuration has. `line` is where we stopped."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


def read_tree(text: str) -> Tree:
    """Return the tree of `text`; where it is no YAML mapping, its `problems` say so and `plain` is empty."""
    tree = Tree()
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        plain = {} if root is None or _is_null(root) else tree.read(root, ())
    except yaml.MarkedYAMLError as error:
        tree.problems = [_not_yaml(error, text)]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        tree.problems = [Problem(line, (), f"not YAML: the character {error.character:#04x} is not allowed")]
    except TooMuch as error:
        tree.problems = [Problem(error.line, (), "nested too deeply, or far too long for a configuration")]
    except RecursionError:
        tree.problems = [Problem(1, (), "nested too deeply for a configuration")]
    else:
        if isinstance(plain, dict):
            tree.plain = plain
        else:
            tree.problems = [Problem(1, (), "must be a mapping of keys such as `primary:`")]
            tree.plain = None
        return tree
    tree.plain = None
    return tree


def without(plain: Any, paths: Collection[KeyPath]) -> Any:
    """Return `plain` without what stands at `paths`."""
    if isinstance(plain, list):
        kept_items = ((i, item) for i, item in enumerate(plain) if (str(i),) not in paths)
        return [without(item, _below(paths, str(i))) for i, item in kept_items]
    if not isinstance(plain, dict):
        return plain
    kept = {}
    for key, value in plain.items():
        below = _below(paths, key)
        if (key,) not in paths:
            kept[key] = without(value, below)
    return kept


def _below(paths: Collection[KeyPath], key: str) -> set[KeyPath]:
    return {path[1:] for path in paths if len(path) > 1 and path[0] == key}


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NULLS


def _not_yaml(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    problem = error.problem or "cannot be read"
    lines = text.splitlines()
    if "\\t" in problem or (line <= len(lines) and lines[line - 1][:1] == "\t"):
        problem = "a tab indents this line: use spaces"
    return Problem(line, (), f"not YAML: {problem}")
