"""Cookies as the router needs them (RFC 6265): whose they are, and their way back through us. Pure.

Two systems stand behind one name, and a browser keeps one set of cookies for it. So that they never meet,
what the backup sets is renamed (`failover-backup-…`) and goes back to it alone, under its own name; our own
session never reaches an upstream; everything else is the primary's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

SESSION: Final = b"failover-session"
# RFC 6265bis 4.1.3.2: browsers take it only from a TLS page, for this host alone and the whole site.
SECURE_SESSION: Final = b"__Host-failover-session"
OURS: Final = frozenset((SESSION, SECURE_SESSION))
# Logins under way at the identity provider: one cookie each, its id behind the name.
LOGIN: Final = b"failover-login-"
SECURE_LOGIN: Final = b"__Host-failover-login-"
OF_THE_BACKUP: Final = b"failover-backup-"
_PREFIXES: Final = (OF_THE_BACKUP, LOGIN, SECURE_LOGIN)
_MARK: Final = b"failover-"

Pair = tuple[bytes, bytes]


def pairs(values: Iterable[bytes]) -> list[Pair]:
    """Return name and value of each cookie in the `Cookie` fields `values`, in their order."""
    found = []
    for value in values:
        for piece in value.split(b";"):
            name, equals, content = piece.strip(b" \t").partition(b"=")
            if equals and name:
                found.append((name.rstrip(b" \t"), content.lstrip(b" \t")))
    return found


def of_the_primary(value: bytes) -> bytes:
    """Return the `Cookie` field `value` without what is ours or the backup's; b"" when nothing is left."""
    if _MARK not in value:
        return value
    return _joined(pair for pair in pairs((value,)) if not _is_marked(pair[0]))


def of_the_backup(value: bytes, *, others: bool) -> bytes:
    """Return what the backup set, under its own names; `others`: also the primary's, where none collides."""
    if _MARK not in value:
        return value if others else b""
    given = pairs((value,))
    own = [(name[len(OF_THE_BACKUP) :], content) for name, content in given if name.startswith(OF_THE_BACKUP)]
    if others:
        names = {name for name, _ in own}
        own += [pair for pair in given if not _is_marked(pair[0]) and pair[0] not in names]
    return _joined(own)


def _is_marked(name: bytes) -> bool:
    return name in OURS or name.startswith(_PREFIXES)


def _joined(given: Iterable[Pair]) -> bytes:
    return b"; ".join(b"%b=%b" % pair for pair in given)


# -- Set-Cookie -------------------------------------------------------------------------------------


class PathMap(NamedTuple):
    """How a path of the upstream is called by callers: `theirs` at its beginning becomes `ours`."""

    theirs: bytes
    ours: bytes

    def apply(self, path: bytes) -> bytes:
        rest = path[len(self.theirs) :]
        if not path.startswith(self.theirs) or (rest and rest[:1] not in b"/?#"):
            return path
        return self.ours + rest


def set_cookie(value: bytes, host: bytes | None, *, backup: bool, paths: PathMap | None) -> bytes | None:
    """Return the `Set-Cookie` field `value` as callers get it, None when they do not.

    `host` is the Host that the caller asked for. A Domain that it does not lie in would make browsers refuse
    the cookie: it is left out, and the cookie is for our own name alone.
    """
    first, *attributes = value.split(b";")
    name, equals, content = first.strip(b" \t").partition(b"=")
    name = name.rstrip(b" \t")
    if not equals or not name or _is_marked(name):
        return None
    lines = [b"%b=%b" % (OF_THE_BACKUP + name if backup else name, content.lstrip(b" \t"))]
    for attribute in attributes:
        key, _, given = attribute.strip(b" \t").partition(b"=")
        what = key.strip(b" \t").lower()
        if what == b"domain" and not _lies_in(host, given.strip(b' \t"').lstrip(b".").lower()):
            continue
        if what == b"path" and paths is not None:
            lines.append(b"Path=%b" % (paths.apply(given.strip(b" \t")) or b"/"))
        else:
            lines.append(attribute.strip(b" \t"))
    return b"; ".join(lines)


def ends(value: bytes) -> bool:
    """Whether the `Set-Cookie` field `value` takes a cookie away, as a logout does."""
    first, *attributes = value.split(b";")
    if not first.partition(b"=")[2].strip(b' \t"'):
        return True
    for attribute in attributes:
        key, _, given = (piece.strip(b" \t").lower() for piece in attribute.partition(b"="))
        if key == b"max-age" and (given.startswith(b"-") or given.strip(b"0") == b""):
            return True
        if key == b"expires" and b"1970" in given:
            return True
    return False


def _lies_in(host: bytes | None, domain: bytes) -> bool:
    if host is None or not domain:
        return False
    name = host.lower()
    if not name.startswith(b"["):
        name = name.partition(b":")[0]
    return name == domain or name.endswith(b"." + domain)
