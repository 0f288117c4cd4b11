"""Bearer tokens (RFC 6750): who is it that shows this one? Reads the token file; leaves HTTP to others.

A token file holds one `name token` per line; `#` begins a comment line. The name is what the audit trail
calls the one who shows the token. Tokens are kept as SHA-256 digests: a dump of our memory shows none.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# Shorter ones could be guessed over the network.
SHORTEST_TOKEN: Final = 16
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 2.1: b64token
_NAME: Final = re.compile(r"[^\s:]{1,64}")


class Tokens:
    """The tokens of one file."""

    def __init__(self, names_by_digest: Mapping[bytes, str]) -> None:
        self._names_by_digest = dict(names_by_digest)

    def name_of(self, token: str) -> str | None:
        """Return the name that belongs to `token`, None for a stranger; equally fast for every token."""
        digest = _digest(token)
        found: str | None = None
        for known, name in self._names_by_digest.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found


def parse_tokens(text: str) -> tuple[Tokens, list[str]]:
    """Return the tokens in `text` and a sentence for each unusable line (never the token itself)."""
    names_by_digest: dict[bytes, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            problems.append(f"line {number}: must be `name token`")
            continue
        name, token = words
        if not _NAME.fullmatch(name):
            problems.append(f"line {number}: the name must have 1 to 64 characters, no colon")
        elif not _TOKEN.fullmatch(token):
            problems.append(f"line {number}: the token must be letters, digits and . _ ~ + / - alone")
        elif len(token) < SHORTEST_TOKEN:
            problems.append(f"line {number}: the token must have at least {SHORTEST_TOKEN} characters")
        elif _digest(token) in names_by_digest:
            problems.append(f"line {number}: the token is there twice")
        else:
            names_by_digest[_digest(token)] = name
    if not names_by_digest and not problems:
        problems.append("holds no token: one `name token` per line")
    return Tokens(names_by_digest), problems


def token_file_problems(path: Path) -> list[str]:
    """Return a sentence for everything that keeps the token file at `path` from being used."""
    try:
        return parse_tokens(path.read_text(encoding="utf-8"))[1]
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]
    except UnicodeDecodeError:
        return ["is not UTF-8 text"]


def token_file_warning(path: Path) -> str | None:
    """Return what is unwise about the rights of the token file at `path`; None: nothing is."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    if not mode & 0o077:
        return None
    return f"{path} can be read or written by others (mode {mode:04o}), who act by it then: chmod 0600 {path}"


def read_tokens(path: Path) -> Tokens:
    """Return the usable tokens of the file at `path`. Raises OSError, UnicodeDecodeError."""
    return parse_tokens(path.read_text(encoding="utf-8"))[0]


def own_token(path: Path) -> str:
    """Return the token that a command shows: the last word of the first line that is no comment.

    So a file with the bare token and one with `name token` both serve. Raises ValueError with a sentence.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ValueError(f"{path}: {reason}") from None
    for line in lines:
        words = line.split()
        if words and not words[0].startswith("#"):
            if not _TOKEN.fullmatch(words[-1]):
                raise ValueError(f"{path}: the token must be letters, digits and . _ ~ + / - alone")
            return words[-1]
    raise ValueError(f"{path}: holds no token")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
