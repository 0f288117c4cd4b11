"""The secret by which an identity provider knows us: one line in a file for its owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_LARGEST: Final = 4096


def read_secret(path: Path) -> str:
    """Return the secret in the file at `path`. Raises ValueError with a sentence, which names the file."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise ValueError(f"{path}: must be for its owner alone (chmod 600), is {mode:o}")
    try:
        secret = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text") from None
    if not secret or len(content) > _LARGEST or not secret.isprintable():
        raise ValueError(f"{path}: must hold the secret alone, on one line")
    return secret
