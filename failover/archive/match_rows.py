"""The rows that a search finds, as matches: one way for each level. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from failover.archive.matches import Match, dump
from failover.archive.queries import Level

MakeMatch = Callable[[tuple[Any, ...]], Match]


def match_of(level: Level, *, with_sop_classes: bool) -> MakeMatch:
    """Return what makes a match of a row of `level`; `with_sop_classes`: SQL has added those of a study."""
    return _study_in_order if with_sop_classes and level is Level.STUDY else _MATCHES[level]


def _patient(row: tuple[Any, ...]) -> Match:
    patient = {tag: value for tag, value in json.loads(row[3]).items() if tag.startswith("0010")} | {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00201200": {"vr": "IS", "Value": [row[6]]},
        "00201202": {"vr": "IS", "Value": [row[7]]},
        "00201204": {"vr": "IS", "Value": [row[8]]},
    }
    return Match(Level.PATIENT, None, None, None, dump(patient).encode())


def _study(row: tuple[Any, ...]) -> Match:
    return Match(Level.STUDY, row[0], None, None, row[3])


def _study_in_order(row: tuple[Any, ...]) -> Match:
    """What SQL has added stands at the end: PS3.18 F.2.2 has attributes in the order of their tags."""
    return Match(Level.STUDY, row[0], None, None, dump(json.loads(row[3])).encode())


def _series(row: tuple[Any, ...]) -> Match:
    return Match(Level.SERIES, row[0], row[1], None, row[3], row[4:])


def _image(row: tuple[Any, ...]) -> Match:
    return Match(Level.IMAGE, row[0], row[1], row[2], row[3], row[4:])


_MATCHES: Final[Mapping[Level, MakeMatch]] = {
    Level.PATIENT: _patient,
    Level.STUDY: _study,
    Level.SERIES: _series,
    Level.IMAGE: _image,
}
