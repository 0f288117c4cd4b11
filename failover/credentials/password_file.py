"""A password file: is this the password of that user? Reads and writes the file; leaves HTTP to others.

One `user:$scrypt$ln=14,r=8,p=5$salt$hash` per line (PHC string format, base64 without padding); `#` begins a
comment line. `failover password` writes it. The file is for its owner alone: with any right for others it is
not used. It is read again when it changes; when it can then not be read, what was read last stands.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from failover.clock import Clock
from failover.durable import write_file

_log = structlog.get_logger(__name__)

# 16 MiB and about 0.2 s a try: OWASP's second row for scrypt, small enough for the router's memory.
_LOG_N: Final = 14
_R: Final = 8
_P: Final = 5
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
# A line may ask for this much memory and work, not more: a typing error must not stop the router.
_MOST_LOG_N: Final = 17
_MOST_MEMORY_BYTES: Final = 160 * 2**20
SHORTEST_PASSWORD: Final = 8
LONGEST_PASSWORD: Final = 1024
_LARGEST_FILE: Final = 2**20
# How often the file's times are looked at.
_LOOK_EVERY_S: Final = 1.0
_USER: Final = re.compile(r"[^\s:#,;\"\\\x00-\x1f\x7f][^\s:,;\"\\\x00-\x1f\x7f]{0,63}")
_HASH: Final = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)


@dataclass(frozen=True, slots=True)
class Hash:
    """One password as it is kept."""

    log_n: int
    r: int
    p: int
    salt: bytes
    hashed: bytes

    def fits(self, password: str) -> bool:
        """Whether it was made from `password`. Takes a fifth of a second: for a thread."""
        found = _scrypt(password, self.salt, self.log_n, self.r, self.p, len(self.hashed))
        return hmac.compare_digest(found, self.hashed)

    def __str__(self) -> str:
        return f"$scrypt$ln={self.log_n},r={self.r},p={self.p}${_text(self.salt)}${_text(self.hashed)}"


def hash_password(password: str) -> Hash:
    """Return how `password` is kept. Raises ValueError with a sentence when it is too short or too long."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ValueError(f"a password must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    salt = os.urandom(_SALT_BYTES)
    return Hash(_LOG_N, _R, _P, salt, _scrypt(password, salt, _LOG_N, _R, _P, _HASH_BYTES))


def parse_passwords(text: str) -> tuple[dict[str, Hash], list[str]]:
    """Return the users in `text` and a sentence for each unusable line (never what stands in it)."""
    users: dict[str, Hash] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, kept = line.strip().partition(":")
        hashed = _parse_hash(kept)
        if not colon or not _USER.fullmatch(user):
            problems.append(f"line {number}: must be `user:hash`, as `failover password` writes it")
        elif hashed is None:
            problems.append(f"line {number}: holds no scrypt hash, as `failover password` writes it")
        elif user in users:
            problems.append(f"line {number}: the user is there twice")
        else:
            users[user] = hashed
    return users, problems


def password_file_problems(path: Path) -> list[str]:
    """Return a sentence for everything that keeps the password file at `path` from being used."""
    try:
        return _read(path)[1]
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]


def set_password(path: Path, user: str, password: str) -> bool:
    """Write `user` with `password` into the file at `path`, which is made when there is none.

    Other lines stay as they are. Returns whether the user is new. Raises ValueError, OSError, StorageError.
    """
    if not _USER.fullmatch(user):
        raise ValueError('a user has 1 to 64 characters, without spaces and without : , ; " and \\')
    return _replace_line(path, user, f"{user}:{hash_password(password)}")


def remove_user(path: Path, user: str) -> bool:
    """Take `user` out of the file. Returns whether it was there. Raises ValueError, OSError, StorageError."""
    return not _replace_line(path, user, None)


def _replace_line(path: Path, user: str, line: str | None) -> bool:
    """Returns whether `user` was not there before."""
    lines: list[str] = []
    if path.exists():
        _, problems = _read(path)
        if problems:
            raise ValueError(problems[0])
        lines = path.read_text(encoding="utf-8").splitlines()
    kept: list[str] = []
    new = True
    for old in lines:
        if old.strip().partition(":")[0] != user or old.startswith("#"):
            kept.append(old)
            continue
        new = False
        if line is not None:
            kept.append(line)
    if new and line is not None:
        kept.append(line)
    write_file(path, "".join(f"{one}\n" for one in kept).encode())
    return new


class PasswordFile:
    """The users of one file, as they are now."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Read the file; without a usable line nobody gets in, and the log says why."""
        self._path = path
        self._clock = clock
        self._users: dict[str, Hash] = {}
        self._looked_s = clock.monotonic()
        self._seen: tuple[int, int, int, int] | None = None
        # The time that a stranger's try takes tells nobody whether the user exists.
        self._nobody = Hash(_LOG_N, _R, _P, b"\x00" * _SALT_BYTES, b"\x00" * _HASH_BYTES)
        self._look()

    def hash_of(self, user: str) -> Hash | None:
        """Return how the password of `user` is kept now; None when there is no such user."""
        now_s = self._clock.monotonic()
        if now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now_s
            self._look()
        return self._users.get(user)

    def fits(self, user: str, password: str) -> bool:
        """Whether `password` is that of `user`. Takes a fifth of a second in any case: for a thread."""
        kept = self._users.get(user)
        if len(password) > LONGEST_PASSWORD:
            return False
        return (kept or self._nobody).fits(password) and kept is not None

    def _look(self) -> None:
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)
            if seen == self._seen:
                return
            self._seen = seen
            users, problems = _read(self._path)
        except OSError as error:
            if self._seen is not None:
                self._seen = None
                _log.error("password file cannot be read", error=error.strerror)
            return
        if problems:
            _log.error("password file cannot be used; what was read last stands", problem=problems[0])
            return
        self._users = users
        _log.info("password file read", users=len(users))


def _read(path: Path) -> tuple[dict[str, Hash], list[str]]:
    """Return users and problems of the file at `path`. Raises OSError."""
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_IMODE(mode) & 0o077:
            return {}, [f"must be for its owner alone (chmod 600), is {stat.S_IMODE(mode):o}"]
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        return {}, ["has more than 1 MiB"]
    try:
        return parse_passwords(content.decode("utf-8"))
    except UnicodeDecodeError:
        return {}, ["is not UTF-8 text"]


def _parse_hash(kept: str) -> Hash | None:
    match = _HASH.fullmatch(kept)
    if match is None:
        return None
    log_n, r, p = (int(match[number]) for number in (1, 2, 3))
    try:
        salt, hashed = _bytes(match[4]), _bytes(match[5])
    except (ValueError, binascii.Error):
        return None
    if not 10 <= log_n <= _MOST_LOG_N or not 1 <= r <= 32 or not 1 <= p <= 16:
        return None
    return Hash(log_n, r, p, salt, hashed) if (128 << log_n) * r < _MOST_MEMORY_BYTES else None


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int, length: int) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"), salt=salt, n=1 << log_n, r=r, p=p, dklen=length,
        maxmem=_MOST_MEMORY_BYTES,
    )  # fmt: skip


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
