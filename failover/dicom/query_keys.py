"""What a query key matches (PS3.4 C.2.2.2, PS3.18 8.3.4), for C-FIND and QIDO-RS alike. Pure.

A key is text as the caller wrote it; `parse_key` returns what it asks for, and `matches` tells whether an
attribute's values satisfy that. Both sides are compared in one normal form: Unicode NFC, case folded, without
padding, so that names in Japanese, Arabic or Greek are found however they were typed. Stricter than the
standard nowhere; laxer where the field is: text is compared without case, not person names alone.
It does not know tables or SQL (archive/queries does) nor messages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from failover.dicom.fuzzy_names import Fuzzy, name_words

# PS3.4 C.2.2.2.4: wild cards are for these alone; elsewhere `*` and `?` are themselves and match nothing.
WILDCARD_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
RANGE_VRS: Final = frozenset({"DA", "TM", "DT"})
# A key longer than this is no question a person or a program asks; it would only cost time.
MAX_KEY_LENGTH: Final = 4096
MAX_LIST: Final = 10_000


class KeyUnreadable(ValueError):
    """The key has no reading: QIDO-RS 400, C-FIND 0xA900. The message names no value."""


@dataclass(frozen=True, slots=True)
class Universal:
    """Zero-length key, or `*` alone: matches everything, also where the attribute is missing."""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Single value matching, or one of a list (PS3.4 C.2.2.2.2; the field lists other VRs too)."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wild:
    """`*` any number of characters, `?` exactly one. `pattern` is in normal form."""

    pattern: str


@dataclass(frozen=True, slots=True)
class AnyWild:
    """One of several patterns."""

    patterns: tuple[Wild | AnyOf, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included, compared as text of one width; None is open (PS3.4 C.2.2.2.5)."""

    low: str | None
    high: str | None


@dataclass(frozen=True, slots=True)
class Name:
    """A person name: each part is for one component group (alphabetic, ideographic, phonetic).

    One part alone is asked of every group, because few callers know in which one a spelling stands.
    """

    groups: tuple[Group, ...]


Group = AnyOf | Wild | AnyWild | Universal
Wanted = Universal | AnyOf | Wild | AnyWild | Range | Name | Fuzzy


def parse_key(vr: str, text: str) -> Wanted:
    """Return what the key `text` of an attribute with `vr` asks for. Raises KeyUnreadable.

    A list is separated by backslashes; QIDO-RS callers' commas are theirs to turn into backslashes, and only
    for VR UI (PS3.18 8.3.4.1), because a comma is a character of names and descriptions.
    """
    if len(text) > MAX_KEY_LENGTH and vr != "UI":
        raise KeyUnreadable("a key of more than 4096 characters")
    if vr == "UI":
        values = tuple(dict.fromkeys(v for v in (v.strip("\0 ") for v in text.split("\\")) if v))
        if len(values) > MAX_LIST:
            raise KeyUnreadable(f"a list of more than {MAX_LIST} UIDs")
        return Universal() if not values or values == ("*",) else AnyOf(values)
    if not text.strip("\0 ") or text.strip("\0 ") == "*":
        return Universal()
    if vr in RANGE_VRS:
        return _range(vr, text.strip("\0 "))
    if vr == "PN":
        return _name(text)
    alternatives = [_text(vr, part) for part in text.split("\\") if part.strip("\0 ")]
    if not alternatives or any(isinstance(a, Universal) for a in alternatives):
        return Universal()
    if len(alternatives) == 1:
        return alternatives[0]
    if all(isinstance(a, AnyOf) for a in alternatives):
        return AnyOf(tuple(v for a in alternatives if isinstance(a, AnyOf) for v in a.values))
    return AnyWild(tuple(a for a in alternatives if not isinstance(a, Universal)))


def matches(wanted: Wanted, vr: str, values: Sequence[str]) -> bool:
    """Return whether one of an attribute's `values`, as text, is what is `wanted`.

    A missing or empty attribute (`values` is empty) is matched by universal matching alone.
    """
    if isinstance(wanted, Universal):
        return True
    return any(_one_matches(wanted, vr, value) for value in values if value.strip("\0 "))


def normal(text: str) -> str:
    """Return the form in which text is compared: no padding, NFC, case folded.

    Folding can undo composition, so it is composed again; the result is a fixed point.
    """
    if text.isascii():
        return text.strip("\0 ").lower()
    folded = unicodedata.normalize("NFC", text.strip("\0 ")).casefold()
    for _ in range(4):
        again = unicodedata.normalize("NFC", folded).casefold()
        if again == folded:
            break
        folded = again
    return folded.strip("\0 ")


def normal_name(text: str) -> tuple[str, str, str]:
    """Return the three component groups of a person name in normal form; a missing one is empty.

    PS3.5 6.2.1.1: trailing null components and their delimiters may be left out, so they are.
    """
    groups = [normal_group(group) for group in text.split("=")[:3]]
    groups += [""] * (3 - len(groups))
    return groups[0], groups[1], groups[2]


def normal_group(text: str) -> str:
    return "^".join(part.strip(" ") for part in normal(text).split("^")).rstrip("^ ")


def normal_date(text: str) -> str:
    """Return a DA value as YYYYMMDD; the form of before 1993, YYYY.MM.DD, is read (PS3.5 6.2)."""
    return text.strip("\0 ").replace(".", "").replace("-", "")


_TIME: Final = re.compile(r"([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:\.([0-9]{1,6}))?)?)?")


def normal_time(text: str) -> str:
    """Return a TM value as HHMMSS.FFFFFF; one that is none, as it is. Colons are read (before 1993)."""
    stripped = text.strip("\0 ").replace(":", "")
    match = _TIME.fullmatch(stripped)
    if match is None:
        return stripped
    return f"{match[1]}{match[2] or '00'}{match[3] or '00'}.{(match[4] or '').ljust(6, '0')}"


def normal_number(text: str) -> str:
    """Return IS or DS as Python writes the number, so that `1`, `01` and `1.0` are one; else the text."""
    stripped = text.strip("\0 ")
    try:
        number = float(stripped)
    except ValueError:
        return stripped
    return repr(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


_DATETIME: Final = re.compile(r"([0-9]{4,14})(\.[0-9]{1,6})?([+-][0-9]{4})?")


def normal_datetime(text: str) -> str:
    """Return a DT value filled up to YYYYMMDDHHMMSS.FFFFFF, without its offset from UTC."""
    match = _DATETIME.fullmatch(text.strip("\0 "))
    if match is None:
        return text.strip("\0 ")
    return _earliest(match[1], match[2])


# -- how a key is read ------------------------------------------------------------------------------


def _text(vr: str, text: str) -> AnyOf | Wild | Universal:
    if vr in ("IS", "DS", "US", "UL", "SS", "SL", "FL", "FD"):
        return AnyOf((normal_number(text),))
    pattern = normal(text)
    if vr in WILDCARD_VRS and ("*" in pattern or "?" in pattern):
        pattern = re.sub(r"\*+", "*", pattern)
        return Universal() if pattern == "*" else Wild(pattern)
    return AnyOf((pattern,))


def _name(text: str) -> Wanted:
    parts = text.split("\\", 1)[0].split("=")[:3]
    groups = [_group(re.sub(r"\*+", "*", normal_group(part))) for part in parts]
    while len(groups) > 1 and isinstance(groups[-1], Universal):
        groups.pop()
    if all(isinstance(group, Universal) for group in groups):
        return Universal()
    # `Yamada=` means the alphabetic group alone: the caller wrote a delimiter.
    if len(groups) == 1 and len(parts) > 1:
        groups.append(Universal())
    return Name(tuple(groups))


def _group(pattern: str) -> Group:
    if pattern in ("", "*"):
        return Universal()
    if "*" not in pattern and "?" not in pattern:
        return AnyOf((pattern,))
    stem = pattern[:-1].rstrip("^ ")
    if pattern.endswith("^*") and stem:
        # `Doe^*` is Doe with any given name, also with none: PS3.5 6.2.1.1 lets that delimiter be left out.
        alone = Wild(stem) if "*" in stem or "?" in stem else AnyOf((stem,))
        return AnyWild((alone, Wild(pattern)))
    return Wild(pattern)


def _range(vr: str, text: str) -> Wanted:
    parts = [_range_part(vr, part) for part in text.split("\\") if part.strip()]
    if len(parts) != 1:
        raise KeyUnreadable(f"a list is no key of VR {vr}")
    return parts[0]


def _range_part(vr: str, text: str) -> Range:
    text = text.strip()
    if vr == "DA":
        # A hyphen divides; a date of ISO 8601 has two of them and nothing else has.
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            text = text.replace("-", "")
        low, dash, high = text.partition("-")
        low, high = normal_date(low), normal_date(high)
        _refuse_unless(all(re.fullmatch(r"[0-9]{8}", d) for d in (low, high) if d), vr)
    elif vr == "TM":
        low, dash, high = text.partition("-")
        _refuse_unless(all(_TIME.fullmatch(t.strip().replace(":", "")) for t in (low, high) if t.strip()), vr)
        if not dash:
            high = low
        low = normal_time(low) if low.strip() else ""
        high = _latest_time(high.strip().replace(":", "")) if high.strip() else ""
    else:
        low, dash, high = _split_datetime(text)
        ends = [_DATETIME.fullmatch(part) for part in (low, high) if part]
        _refuse_unless(all(ends), vr)
        if not dash:
            high = low
        first, last = _DATETIME.fullmatch(low), _DATETIME.fullmatch(high)
        low = _earliest(first[1], first[2]) if first else ""
        high = _latest(last[1], last[2]) if last else ""
    if not dash and vr == "DA":
        high = low
    _refuse_unless(bool(low or high), vr)
    return Range(low or None, high or None)


def _refuse_unless(holds: bool, vr: str) -> None:
    if not holds:
        raise KeyUnreadable(f"not a value or range of VR {vr}")


def _latest_time(text: str) -> str:
    # What was left out may be anything: `10` is the whole hour (PS3.5 6.2, TM).
    match = _TIME.fullmatch(text)
    assert match is not None
    return f"{match[1]}{match[2] or '59'}{match[3] or '59'}.{(match[4] or '').ljust(6, '9')}"


_OFFSET: Final = r"(?:\+(?:0[0-9]|1[0-4])[0-5][0-9]|-(?:0[0-9]|1[0-2])[0-5][0-9])"
_DATETIME_RANGE: Final = re.compile(rf"((?:[0-9.]+{_OFFSET}?)?)(?:(-)((?:[0-9.]+{_OFFSET}?)?))?")


def _split_datetime(text: str) -> tuple[str, str, str]:
    # PS3.4 C.2.2.2.5.1: a hyphen may also begin an offset from UTC, -1200 at the least, which ends a value.
    match = _DATETIME_RANGE.fullmatch(text)
    if match is None:
        return text, "", ""
    return match[1], match[2] or "", match[3] or ""


def _earliest(digits: str, fraction: str | None) -> str:
    filled = digits + "00000101000000"[len(digits) :]
    return filled + "." + (fraction or ".")[1:].ljust(6, "0")


def _latest(digits: str, fraction: str | None) -> str:
    filled = digits + "99991231235959"[len(digits) :]
    return filled + "." + (fraction or ".")[1:].ljust(6, "9")


# -- how a value is compared ------------------------------------------------------------------------


def _one_matches(wanted: Wanted, vr: str, value: str) -> bool:
    if isinstance(wanted, Name):
        return _name_matches(wanted, normal_name(value))
    if isinstance(wanted, Fuzzy):
        words = name_words([value])
        return all(any(wild_matches(p, words) for p in spellings) for spellings in wanted.patterns())
    if isinstance(wanted, Range):
        comparable = comparable_value(vr, value)
        return (wanted.low is None or comparable >= wanted.low) and (
            wanted.high is None or comparable <= wanted.high
        )
    if isinstance(wanted, AnyWild):
        return any(_one_matches(pattern, vr, value) for pattern in wanted.patterns)
    if isinstance(wanted, Universal):
        return True
    return _text_matches(wanted, comparable_value(vr, value))


def comparable_value(vr: str, value: str) -> str:
    """Return `value` in the form in which keys of `vr` are compared, and in which the index keeps it."""
    if vr == "DA":
        return normal_date(value)
    if vr == "TM":
        return normal_time(value)
    if vr == "DT":
        return normal_datetime(value)
    if vr == "UI":
        return value.strip("\0 ")
    if vr in ("IS", "DS", "US", "UL", "SS", "SL", "FL", "FD"):
        return normal_number(value)
    return normal(value)


def _name_matches(wanted: Name, groups: tuple[str, str, str]) -> bool:
    if len(wanted.groups) == 1:
        return any(_text_matches(wanted.groups[0], group) for group in groups if group)
    return all(_text_matches(part, group) for part, group in zip(wanted.groups, groups, strict=False))


def _text_matches(wanted: Group, value: str) -> bool:
    if isinstance(wanted, Universal):
        return True
    if isinstance(wanted, AnyWild):
        return any(_text_matches(pattern, value) for pattern in wanted.patterns)
    if isinstance(wanted, AnyOf):
        return value in wanted.values
    return wild_matches(wanted.pattern, value)


def wild_matches(pattern: str, value: str) -> bool:
    """Return whether `value` is what `pattern` describes, in time proportional to their product at most.

    No regular expression: `*a*a*a*a*b` would take exponential time in one.
    """
    p = v = 0
    star, resume = -1, 0
    while v < len(value):
        if p < len(pattern) and pattern[p] == "*":
            star, resume = p, v
            p += 1
        elif p < len(pattern) and (pattern[p] == "?" or pattern[p] == value[v]):
            p += 1
            v += 1
        elif star >= 0:
            resume += 1
            p, v = star + 1, resume
        else:
            return False
    return all(character == "*" for character in pattern[p:])
