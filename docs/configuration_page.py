# ruff: noqa: E501 - the prose of a Markdown page
"""docs/configuration.md, drawn from the schema: every key with its kind, its default and its description."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from failover.config import scalars
from failover.config.schema import LOOPBACK, Block, Configuration

_HEAD: Final = """# Configuration

<!-- Drawn from failover/config/schema.py by `make docs`; do not edit. -->

One YAML file, `failover.yaml` by default. Only `primary` must be given, with `web`, `dicom` or both; all else has
the defaults below. The smallest one:

```yaml
primary:
  web:   {url: http://pacs.example.org:8042}
  dicom: {host: pacs.example.org, port: 4242, ae_title: PACS1}
```

- Unknown keys and keys given twice are refused. `failover check -c FILE` tells every problem at once, each with its
  line, its key and what would be right: `failover.yaml:12: listen.web.port: must be 1 to 65535, is 80800`.
- Scalars are read as text and typed by the key: `port: 011112` is 11112, `site: no` is the name "no", and the AE
  title `ON` is `ON`.
- Durations carry their unit: `200ms`, `5s`, `10m`, `2h`, `7d`. So do sizes: `512B`, `64MiB`, `1.2TB`.
- Relative paths are relative to the file. A secret is never in the file: `token_file` names the file it is in.
- A service of an upstream that is left out does not exist: it has no probe and no verdict, and it moves nothing.
- `backup` as a block has the keys of `primary`, and `pass_credentials` (true, false; default: `false`): whether it
  gets the `Cookie` and `Authorization` that callers show the primary. [access.md](access.md) says who may see what.

Refused at the start, with exit code 2, because they would leave a door open:

| what | needs |
|---|---|
| `listen.admin` beyond loopback | `listen.admin.token_file` |
| `listen.web` beyond loopback | `access.web` in the file |
| `listen.dicom` beyond loopback | `access.dicom` in the file; `any` must be written out |
| `archive.web` or `archive.dicom` beyond loopback | `archive.access` |

Refused too: two of our own listeners on one port, an upstream that is one of our own listeners, primary and backup
that are one system, a token or password file that cannot be used, a certificate, key or CA file that cannot serve. Certificates
about to expire and keys that others can read are advice of `failover check`; [tls.md](tls.md) has the whole of it.
"""

_KINDS: Final = {
    scalars.parse_duration: "duration",
    scalars.parse_size: "size",
    scalars.parse_whole: "whole number",
    scalars.parse_port: "port",
    scalars.parse_truth: "true, false",
    scalars.parse_network: "network",
    scalars.parse_path: "path",
    scalars.parse_url: "URL",
    scalars.parse_url_path: "URL path",
    scalars.parse_host: "host",
    scalars.parse_authority: "host:port",
    scalars.parse_text: "text",
    scalars.parse_pattern: "regular expression",
}


def page() -> str:
    """Return the whole page."""
    lines = [_HEAD.rstrip()]
    for path, block in blocks(Configuration):
        lines += ["", f"## {path or 'top level'}", ""]
        if path and block.__dict__.get("__doc__"):
            lines += [" ".join(str(block.__doc__).split()), ""]
        lines += ["| key | kind | default | meaning |", "|---|---|---|---|"]
        for name, field in block.model_fields.items():
            lines.append(
                f"| `{name}` | {kind(field)} | {default(path, name, field)} | {field.description or ''} |"
            )
    return "\n".join(lines) + "\n"


def key_paths() -> list[str]:
    """Return the path of every key that a file may have, `backup` standing for what is as in `primary`."""
    return [
        f"{path}.{name}".lstrip(".") for path, block in blocks(Configuration) for name in block.model_fields
    ]


def blocks(block: type[Block], path: str = "") -> Iterator[tuple[str, type[Block]]]:
    """Yield each block of the file with its path, in the order of the schema."""
    yield path, block
    for name, field in block.model_fields.items():
        if path == "" and name == "backup":
            continue  # as primary
        for inner in _blocks_in(field.annotation):
            below = f"{path}.{name}".lstrip(".")
            yield from blocks(inner, f"{below}.AE_TITLE" if _is_mapping(field.annotation) else below)


def kind(field: FieldInfo) -> str:
    """Return in words what the value is."""
    return _kind(field.annotation, list(field.metadata)).replace("|", "\\|")


def default(path: str, name: str, field: FieldInfo) -> str:
    """Return the default as one would write it."""
    if (path, name) == ("", "site"):
        return "the host's name"
    if (path, name) == ("archive", "data_dir"):
        return "`state_dir`/archive"
    if field.is_required():
        return "**must be given**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Block) or value is PydanticUndefined:
        return "see below"
    return _written(value, kind(field))


def _written(value: Any, kind_: str) -> str:
    if value is None or value == {} or value == []:
        return "–"
    if value == LOOPBACK:
        return "loopback"
    if kind_ == "duration":
        return f"`{_with_unit(value, (('d', 86400), ('h', 3600), ('m', 60), ('s', 1)), 'ms', 1000)}`"
    if kind_ == "size":
        return (
            f"`{_with_unit(value, (('TB', 10**12), ('GB', 10**9), ('MiB', 2**20), ('KiB', 2**10)), 'B', 1)}`"
        )
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{value[0]}-{value[1]}`"
    if isinstance(value, Path):
        return f"`./{value}`"
    return f"`{value}`"


def _with_unit(value: float, units: tuple[tuple[str, int], ...], smallest: str, per: int) -> str:
    for unit, length in units:
        if value >= length and (value % length == 0 or (unit == "TB" and value % (length / 10) == 0)):
            return f"{value / length:g}{unit}"
    return f"{value * per:g}{smallest}"


def _kind(annotation: Any, metadata: list[Any]) -> str:
    for note in metadata:
        if isinstance(note, BeforeValidator):
            known = _KINDS.get(note.func)  # type: ignore[arg-type]
            if known is not None:
                return known
            if note.func.__name__ == "_ae_title":
                return "AE title"
            if note.func.__name__ == "_statuses":
                return "status, or range"
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _kind(arguments[0], list(annotation.__metadata__))
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(a, []) for a in arguments if a is not type(None))
    if origin is Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin is list:
        return f"list of {_kind(arguments[0], [])}s"
    if origin is dict:
        return f"{_kind(arguments[0], [])}: {_kind(arguments[1], [])}"
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return "block"
    return "text"


def _blocks_in(annotation: Any) -> Iterator[type[Block]]:
    if isinstance(annotation, type) and issubclass(annotation, Block):
        yield annotation
    for argument in get_args(annotation):
        yield from _blocks_in(argument)


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict
