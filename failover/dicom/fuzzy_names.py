"""Person names as people type them (`fuzzymatching=true`, PS3.18 8.3.4.2, which leaves the rule to us). Pure.

Each word of the key must begin a word of the name, in whatever order and group. Case and accents do not
count, and an umlaut is found however it was written: Müller finds Mueller and Muller, and each of these finds
Müller. Mueller and Muller, both without an umlaut, stay two names.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_BETWEEN_WORDS: Final = re.compile(r"[\s^=,.'’\-]+")
_LETTERS: Final = str.maketrans({
    "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h",
})  # fmt: skip
_PLAIN: Final = str.maketrans({"ø": "o"})
_SPELT_OUT: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
# Marks are part of the letter in scripts beyond these: が is not か.
_MARKS_ARE_ACCENTS: Final = 0x0700  # Latin, Greek, Cyrillic, Hebrew, Arabic


@dataclass(frozen=True, slots=True)
class Fuzzy:
    """A person name by its words; of each the spellings of which one must begin a word of the name.

    They may hold the wild cards `*` and `?`.
    """

    words: tuple[tuple[str, ...], ...]

    def patterns(self) -> list[list[str]]:
        """Return of each word the patterns of which one must match `name_words`."""
        return [[f"* {spelling}*" for spelling in spellings] for spellings in self.words]


def fuzzy_key(text: str) -> Fuzzy:
    """Return what the key `text` asks for."""
    return Fuzzy(tuple(_spellings(word) for word in _words(text) if word.strip("*")))


def name_words(names: Iterable[str]) -> str:
    """Return all words of `names` in all their spellings, each with a space before it."""
    found = dict.fromkeys(
        spelling for name in names for word in _words(name) for spelling in _spellings(word)
    )
    return "".join(f" {word}" for word in found)


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFC", text).casefold()
    return [word for word in _BETWEEN_WORDS.split(folded) if word]


def _spellings(word: str) -> tuple[str, ...]:
    if word.isascii():
        return (word,)
    word = unicodedata.normalize("NFC", word).translate(_LETTERS)
    spellings = (_without_accents(word.translate(_PLAIN)), _without_accents(word.translate(_SPELT_OUT)))
    return tuple(dict.fromkeys(spellings))


def _without_accents(text: str) -> str:
    kept: list[str] = []
    for character in unicodedata.normalize("NFD", text):
        if unicodedata.category(character) == "Mn" and kept and ord(kept[-1]) < _MARKS_ARE_ACCENTS:
            continue
        kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept))
