"""Media types and Accept (RFC 9110 8.3.1 and 12.5.1, as PS3.18 8.7 uses them): parsed and weighed. Pure.

Lenient where viewers are: an unquoted `type=application/dicom` and a trailing semicolon are common. Which
offers there are is decided by the service.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# dicomweb-client asks for `image/` where it means `image/*`.
_ESSENCE: Final = re.compile(rf"\s*({_TOKEN})/({_TOKEN})?\s*")
# A value without quotes may hold a slash: `type=image/jpeg` is not RFC 9110, and everywhere.
_PARAMETER: Final = re.compile(rf';\s*(?:({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*)?')
# An Accept beyond this is refused: it would cost time and means nothing.
_MAX_RANGES: Final = 100


@dataclass(frozen=True, slots=True)
class MediaType:
    """A type with its parameters; names in lower case, values as they came."""

    type: str
    subtype: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def essence(self) -> str:
        """`type/subtype` in lower case, without parameters."""
        return f"{self.type}/{self.subtype}"

    def __str__(self) -> str:
        return self.essence + "".join(f"; {n}={_quoted(v)}" for n, v in self.parameters.items())


@dataclass(frozen=True, slots=True)
class Acceptable:
    """One range of an Accept header and its weight, 0 (not acceptable) to 1."""

    media: MediaType
    quality: float


def parse_media_type(text: str) -> MediaType:
    """Return the one media type in `text`. Raises ValueError."""
    media, end = _parse_at(text, 0)
    if text[end:].strip():
        raise ValueError("something follows the media type")
    return media


def parse_accept(texts: str | Iterable[str] | None) -> list[Acceptable]:
    """Return the ranges of Accept (one header or several), best first; none at all means `*/*`.

    Raises ValueError.
    """
    ranges: list[Acceptable] = []
    for text in [texts] if isinstance(texts, str) else texts or []:
        ranges += _ranges(text)
        if len(ranges) > _MAX_RANGES:
            raise ValueError(f"more than {_MAX_RANGES} ranges in Accept")
    if not ranges:
        return [Acceptable(MediaType("*", "*"), 1.0)]
    return sorted((r for r in ranges if r.quality > 0), key=lambda r: -r.quality)  # stable


def covers(wanted: MediaType, offered: str) -> bool:
    """Return whether the range `wanted` covers the essence `offered`, wildcards included."""
    kind, _, subtype = offered.partition("/")
    return wanted.type in ("*", kind) and wanted.subtype in ("*", subtype)


Offer = TypeVar("Offer", bound=str)


def best(accept: Sequence[Acceptable], offers: Sequence[Offer]) -> Offer | None:
    """Return the offer (essences, ours in order of preference) that Accept likes best; None: none."""
    for acceptable in accept:
        for offer in offers:
            if covers(acceptable.media, offer):
                return offer
    return None


def _ranges(text: str) -> Iterator[Acceptable]:
    at = 0
    while at < len(text):
        if text[at] in " \t,":
            at += 1
            continue
        media, at = _parse_at(text, at)
        if at < len(text) and text[at] != ",":
            raise ValueError("Accept cannot be read")
        parameters = dict(media.parameters)
        weight = parameters.pop("q", "1")
        try:
            quality = min(1.0, max(0.0, float(weight)))
        except ValueError:
            raise ValueError("a q in Accept is no number") from None
        yield Acceptable(MediaType(media.type, media.subtype, parameters), quality)


def _parse_at(text: str, at: int) -> tuple[MediaType, int]:
    match = _ESSENCE.match(text, at)
    if match is None:
        raise ValueError("not a media type")
    parameters: dict[str, str] = {}
    end = match.end()
    while (parameter := _PARAMETER.match(text, end)) is not None:
        end = parameter.end()
        if parameter[1] is not None:
            quoted = parameter[2]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else parameter[3]
            parameters.setdefault(parameter[1].lower(), value)
    return MediaType(match[1].lower(), (match[2] or "*").lower(), parameters), end


def _quoted(value: str) -> str:
    if re.fullmatch(_TOKEN, value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
