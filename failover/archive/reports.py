"""A structured report as people read it: HTML or plain text (PS3.18 8.7.4, PS3.3 C.17.3).

Whose it is stands first. What comes from the object is text, never markup. Blocking: called in the processes
of `decoders`. What is asked for, and by whom, is `dicomweb`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pydicom

from failover.archive.pixels import NoPixels, read_header

HTML: Final = "text/html"
PLAIN: Final = "text/plain"
# Deeper, and beyond so many lines, nothing is written for people; the report says that it was cut.
_DEPTH: Final = 24
_LINES: Final = 20_000
_CUT: Final = "… more, not shown here"
_SHOWN_AS: Final = {
    "TEXT": "TextValue", "DATE": "Date", "TIME": "Time", "DATETIME": "DateTime", "UIDREF": "UID",
}  # fmt: skip


def document(path: Path, media_type: str) -> bytes:
    """Return the report in UTF-8. Raises NoPixels: it is none, UnreadableDataSet, FileNotFoundError."""
    report = read_header(path)
    if "ContentSequence" not in report:
        raise NoPixels("this object is no report")
    title = _meaning(report.get("ConceptNameCodeSequence")) or "Structured report"
    state = [_text(report, keyword) for keyword in ("CompletionFlag", "VerificationFlag")]
    facts = [
        ("Patient", _name(report, "PatientName")), ("Born", _text(report, "PatientBirthDate")),
        ("ID", _text(report, "PatientID")), ("Study", _text(report, "StudyDate")),
        ("State", ", ".join(filter(None, state))),
    ]  # fmt: skip
    lines = list(islice(_lines(report.ContentSequence, 0), _LINES + 1))
    if len(lines) > _LINES:
        lines = [*lines[:_LINES], (0, "", _CUT)]
    made = _html(title, facts, lines) if media_type == HTML else _plain(title, facts, lines)
    return made.encode("utf-8", "replace")


Line = tuple[int, str, str]
"""How deep it stands, what it is called, what it says."""


def _lines(items: Any, depth: int) -> Iterator[Line]:
    if depth > _DEPTH:
        yield depth, "", _CUT
        return
    for item in items:
        name, value = _meaning(item.get("ConceptNameCodeSequence")), _value(item)
        if name or value:
            yield depth, name, value
        if item.get("ContentSequence"):
            yield from _lines(item.ContentSequence, depth + 1)


def _value(item: pydicom.Dataset) -> str:
    """PS3.3 C.17.3: the value of one content item."""
    kind = _text(item, "ValueType")
    if kind == "PNAME":
        return _name(item, "PersonName")
    if kind in _SHOWN_AS:
        return _text(item, _SHOWN_AS[kind])
    if kind == "CODE":
        return _meaning(item.get("ConceptCodeSequence"))
    if kind == "NUM":
        measured = item.get("MeasuredValueSequence")
        if not measured:
            return "not measured"
        unit = _meaning(measured[0].get("MeasurementUnitsCodeSequence"))
        return f"{_text(measured[0], 'NumericValue')} {unit}".strip()
    if kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        return "(refers to an object)"
    return "(coordinates)" if kind in ("SCOORD", "SCOORD3D", "TCOORD") else ""


def _meaning(codes: Any) -> str:
    return _text(codes[0], "CodeMeaning") if codes else ""


def _text(item: pydicom.Dataset, keyword: str) -> str:
    value = item.get(keyword)
    return "" if value is None else str(value).strip()


def _name(item: pydicom.Dataset, keyword: str) -> str:
    """PS3.5 6.2.1.1: all its groups; the family name, then the others."""
    groups = []
    for group in _text(item, keyword).split("="):
        family, _, others = group.partition("^")
        groups.append(", ".join(filter(None, (family.strip(), " ".join(others.replace("^", " ").split())))))
    return " · ".join(filter(None, groups))


def _plain(title: str, facts: list[tuple[str, str]], lines: list[Line]) -> str:
    head = [title, *(f"{name}: {value}" for name, value in facts if value), ""]
    said = (f"{'  ' * depth}{name + ': ' if name and value else name}{value}" for depth, name, value in lines)
    return "\r\n".join([*head, *said, ""])


def _html(title: str, facts: list[tuple[str, str]], lines: list[Line]) -> str:
    """Lists within lists, by how deep each line stands."""
    out = [
        '<!doctype html><html><head><meta charset="utf-8"><title>Report</title></head><body>',
        f"<h1>{escape(title)}</h1><dl>",
        *(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts if value),
        "</dl>",
    ]
    open_lists = 0
    for depth, name, value in lines:
        while open_lists <= depth:
            out.append("<ul>")
            open_lists += 1
        while open_lists > depth + 1:
            out.append("</ul>")
            open_lists -= 1
        said = "<br>".join(escape(part) for part in value.splitlines())
        out.append(f"<li><b>{escape(name)}</b> {said}</li>")
    return "".join([*out, "</ul>" * open_lists, "</body></html>\n"])
