"""Matches of a search, and the finished DICOM JSON that they carry. Pure.

Finished: what stands there goes out as it is, but for the mark that stands where the caller's base URL goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from failover.archive.queries import Level

BASE_URL_MARK: Final = "\uffff"  # no character (Unicode 23.7); `attributes` lets none of a sender's in
_MARK: Final = BASE_URL_MARK.encode()


class Match(NamedTuple):
    """One answer. UIDs below the level asked for are None.

    `template` is the finished DICOM JSON of its level, in UTF-8, with BASE_URL_MARK where the base URL goes;
    `above` are those of the levels above it, nearest first.
    """

    level: Level
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    template: bytes
    above: tuple[bytes, ...] = ()

    def json(self, base_url: str, *, with_levels_above: bool = False) -> bytes:
        """Return the DICOM JSON object of this match; `base_url` has no slash at its end."""
        return finished(self.whole_template() if with_levels_above else self.template, base_url)

    def whole_template(self) -> bytes:
        """Return the template with the attributes of the levels above."""
        return dump(self.attributes()).encode() if self.above else self.template

    def attributes(self) -> dict[str, dict[str, Any]]:
        """Return the attributes of all levels, the lower one's where two have the same."""
        if not self.above:
            own: dict[str, dict[str, Any]] = json.loads(self.template)
            return own
        merged: dict[str, dict[str, Any]] = {}
        for text in (*reversed(self.above), self.template):
            merged.update(json.loads(text))
        return merged


def finished(templates: bytes, base_url: str) -> bytes:
    """Return one template, or several, with the base URL where its mark stands."""
    # Looked through once: `replace` would first count the marks.
    return escape(base_url).encode().join(templates.split(_MARK))


def as_text(value: Any) -> str:
    """Return one DICOM JSON value as text; a person name as Alphabetic=Ideographic=Phonetic."""
    if value is None:
        return ""
    if isinstance(value, dict):
        groups = (str(value.get(group) or "") for group in ("Alphabetic", "Ideographic", "Phonetic"))
        return "=".join(groups).rstrip("=")
    return str(value)


# Made once: to make an encoder costs as much as to encode an instance.
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dump(attributes: Mapping[str, Any]) -> str:
    """Return DICOM JSON text, attributes in the order of their tags (PS3.18 F.2.2)."""
    return _ENCODE(dict(sorted(attributes.items())))


def escape(text: str) -> str:
    """Return `text` as it stands within the quotes of a JSON string."""
    return json.dumps(text)[1:-1]
