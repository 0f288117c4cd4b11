"""What a caller of DICOMweb accepts, decided from Accept and the `accept` parameter (PS3.18 8.7). Pure.

The answer of each function is what to send, or NotAcceptable, which is a 406.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from failover.archive.codecs import FRAME_MEDIA_TYPES, UNCOMPRESSED, can_decode
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from failover.errors import FailoverError
from failover.http.media_types import Acceptable, best, covers, parse_accept

DICOM: Final = "application/dicom"
ZIP: Final = "application/zip"
OCTETS: Final = "application/octet-stream"
MULTIPART: Final = "multipart/related"
PDF: Final = "application/pdf"
GIF: Final = "image/gif"
# PS3.18 table 8.7.4-1; the first is the default.
PICTURES: Final = ("image/jpeg", "image/png", GIF)
JSON_TYPES: Final = ("application/dicom+json", "application/json")
_PICTURES_OFFERED: Final = (
    "pictures are offered as image/jpeg, image/png, image/gif, and as multipart/related of these; several"
    " frames as image/gif and multipart/related alone"
)


class NotAcceptable(FailoverError):
    """Nothing that we have is what the caller accepts: 406. The message says what there is."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One way of answering that the caller accepts. `transfer_syntax` None: whatever is stored."""

    multipart: bool
    media_type: str  # of the part, or of the whole where not multipart; may hold wildcards
    transfer_syntax: str | None


def read_accept(headers: Sequence[str], parameter: str | None) -> Sequence[Acceptable]:
    """Return what is accepted, best first; the query parameter wins (PS3.18 8.3.3.1). Raises ValueError."""
    return _parsed((parameter.replace(" ", "+"),) if parameter else tuple(headers))


@lru_cache(maxsize=256)  # a viewer says the same for each slice
def _parsed(texts: tuple[str, ...]) -> tuple[Acceptable, ...]:
    return tuple(parse_accept(texts))


def json_type(accept: Sequence[Acceptable]) -> str:
    """Return the media type of a JSON answer. Raises NotAcceptable."""
    # `application/*` alone and `*/*` get the first; XML is not offered.
    chosen = best(accept, JSON_TYPES)
    if chosen is None:
        raise NotAcceptable("only application/dicom+json and application/json are offered")
    return chosen


def instance_wishes(accept: Sequence[Acceptable]) -> list[Wish]:
    """Return how whole instances may be sent, best first. Raises NotAcceptable.

    Without `transfer-syntax` the standard's default is asked for (Explicit VR Little Endian), but `*/*` asks
    for nothing in particular: it gets what is stored.
    """
    wishes: list[Wish] = []
    for acceptable in accept:
        media = acceptable.media
        if media.essence == "*/*":
            wishes.append(Wish(True, DICOM, None))
        elif media.essence == MULTIPART:
            if media.parameters.get("type", DICOM).lower() in (DICOM, "*/*", "application/*"):
                wishes.append(Wish(True, DICOM, _syntax(media.parameters)))
        elif covers(media, DICOM):
            wishes.append(Wish(False, DICOM, _syntax(media.parameters)))
    if not wishes:
        raise NotAcceptable(
            'only multipart/related; type="application/dicom", application/dicom and application/zip are'
            " offered"
        )
    return wishes


def zip_wish(accept: Sequence[Acceptable]) -> Wish | None:
    """Return the wish for a zip archive, where that is what the caller likes best (PS3.18 8.7.3.5)."""
    if not accept or accept[0].media.essence != ZIP:
        return None
    syntax = _syntax(accept[0].media.parameters)
    if syntax not in (None, EXPLICIT_LITTLE):
        raise NotAcceptable("a zip archive is offered in Explicit VR Little Endian, or as stored: `*`")
    return Wish(False, ZIP, syntax)


def frame_wishes(accept: Sequence[Acceptable]) -> list[Wish]:
    """Return how frames may be sent, best first. Raises NotAcceptable."""
    wishes: list[Wish] = []
    for acceptable in accept:
        media, multipart = acceptable.media, acceptable.media.essence == MULTIPART
        if media.essence == "*/*":
            wishes.append(Wish(True, "*/*", None))
            continue
        kind = media.parameters.get("type", OCTETS).lower() if multipart else media.essence
        syntax = media.parameters.get("transfer-syntax", "").strip('"')
        if kind == OCTETS:
            wishes.append(Wish(multipart, OCTETS, None if syntax == "*" else syntax or EXPLICIT_LITTLE))
        elif kind in ("*/*", "application/*"):
            wishes.append(Wish(multipart, "*/*", None))
        elif kind.startswith(("image/", "video/")):
            # Of a compressed type what is stored is given, if it is of that type: we never encode.
            wishes.append(Wish(multipart, kind, None if syntax in ("", "*") else syntax))
    if not wishes:
        raise NotAcceptable("frames are offered as application/octet-stream, or as they are stored")
    return wishes


def choose_instance(wish: Wish, stored: str) -> str | None:
    """Return the transfer syntax in which an instance is sent under `wish`; None: it cannot be.

    An instance stored uncompressed is Explicit VR Little Endian for all who ask for that; others are decoded
    only on request, and only where decoding is possible.
    """
    if wish.transfer_syntax in (None, stored):
        return stored
    if wish.transfer_syntax == EXPLICIT_LITTLE and can_decode(stored):
        return EXPLICIT_LITTLE
    return None


def choose_frame(wishes: Sequence[Wish], stored: str) -> tuple[Wish, str, bool] | None:
    """Return the wish that is fulfilled, the part's Content-Type, and whether frames must be decoded.

    None: none can be.
    """
    stored_type = FRAME_MEDIA_TYPES.get(stored)
    native = f"{OCTETS}; transfer-syntax={EXPLICIT_LITTLE}"
    for wish in wishes:
        if stored in UNCOMPRESSED or stored_type is None:
            fits = wish.media_type in (OCTETS, "*/*") and wish.transfer_syntax in (
                None,
                stored,
                EXPLICIT_LITTLE,
            )
            if fits:
                return wish, native, True
            continue
        as_stored = f"{stored_type}; transfer-syntax={stored}"
        if wish.media_type == OCTETS and wish.transfer_syntax == EXPLICIT_LITTLE:
            if can_decode(stored):
                return wish, native, True
        elif wish.transfer_syntax in (None, stored) and _of_type(wish.media_type, stored_type):
            return wish, as_stored, False
    return None


def picture_type(accept: Sequence[Acceptable]) -> str:
    """Return the media type of one picture. Raises NotAcceptable."""
    chosen = best(accept, PICTURES)
    if chosen is None:
        raise NotAcceptable(_PICTURES_OFFERED)
    return chosen


def rendered_wish(accept: Sequence[Acceptable], *, several: bool) -> tuple[bool, str]:
    """Return whether pictures go as multipart/related, and their media type. Raises NotAcceptable.

    `several` frames were asked for: they are no single picture, unless it moves.
    """
    for acceptable in accept:
        media = acceptable.media
        if media.essence == "*/*":
            return several, PICTURES[0]
        if media.essence == MULTIPART:
            kinds = parse_accept(media.parameters.get("type", PICTURES[0]))
            if (chosen := best(kinds, PICTURES)) is not None:
                return True, chosen
        elif (chosen := best([acceptable], PICTURES[-1:] if several else PICTURES)) is not None:
            return False, chosen
    raise NotAcceptable(_PICTURES_OFFERED)


def _of_type(wanted: str, offered: str) -> bool:
    kind = wanted.partition("/")[0]
    return wanted in ("*/*", OCTETS, offered) or (wanted == f"{kind}/*" and offered.startswith(f"{kind}/"))


def _syntax(parameters: Mapping[str, str]) -> str | None:
    syntax = parameters.get("transfer-syntax", EXPLICIT_LITTLE).strip('"') or EXPLICIT_LITTLE
    return None if syntax == "*" else syntax
