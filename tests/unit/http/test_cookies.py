"""Cookies of two systems behind one name, and our own."""

from __future__ import annotations

import pytest

from failover.http.cookies import PathMap, ends, of_the_backup, of_the_primary, pairs, set_cookie

BOTH = b"sid=p; failover-backup-sid=b; failover-session=t; lang=de; __Host-failover-session=u"


def test_each_system_gets_its_own() -> None:
    assert of_the_primary(BOTH) == b"sid=p; lang=de"
    assert of_the_backup(BOTH, others=False) == b"sid=b"
    assert of_the_backup(BOTH, others=True) == b"sid=b; lang=de"


def test_without_cookies_of_ours_the_field_stays_as_it_is() -> None:
    odd = b'a="x y";b=1;  c'
    assert of_the_primary(odd) is odd
    assert of_the_backup(odd, others=True) is odd
    assert of_the_backup(odd, others=False) == b""


def test_a_name_that_is_only_alike_stays_with_the_primary() -> None:
    assert of_the_primary(b"failover-sessions=1; xfailover-backup-a=2") == (
        b"failover-sessions=1; xfailover-backup-a=2"
    )


def test_pairs() -> None:
    assert pairs([b"a=1; b = 2=3", b"c=; d; =e"]) == [(b"a", b"1"), (b"b", b"2=3"), (b"c", b"")]


@pytest.mark.parametrize(("value", "backup", "expected"), [
    (b"sid=1; Path=/; HttpOnly", False, b"sid=1; Path=/; HttpOnly"),
    (b"sid=1; Path=/app; HttpOnly", True, b"failover-backup-sid=1; Path=/app; HttpOnly"),
    (b"sid=1; Path=/rs", True, b"failover-backup-sid=1; Path=/dicom-web"),
    (b"sid=1;path=/rs/studies", True, b"failover-backup-sid=1; Path=/dicom-web/studies"),
    (b"sid=1; Path=/rsx", True, b"failover-backup-sid=1; Path=/rsx"),
    (b"sid=1; Domain=10.0.0.1", False, b"sid=1"),
    (b"sid=1; Domain=.example", False, b"sid=1; Domain=.example"),
    (b"sid=1; Domain=cs.example; Secure", False, b"sid=1; Secure"),
    (b"failover-session=x", False, None),
    (b"__Host-failover-session=x", True, None),
    (b"failover-backup-sid=x", False, None),  # the primary does not set the backup's
    (b"failover-backup-sid=x", True, None),
    (b"=x", False, None), (b"x", False, None),
])  # fmt: skip
def test_set_cookie(value: bytes, backup: bool, expected: bytes | None) -> None:
    paths = PathMap(b"/rs", b"/dicom-web") if backup else None
    assert set_cookie(value, b"PACS.example:8080", backup=backup, paths=paths) == expected


@pytest.mark.parametrize(("value", "expected"), [
    (b"sid=1; Path=/", False), (b"sid=; Path=/", True), (b"sid=1; Max-Age=0", True),
    (b"sid=1; Max-Age=-1", True), (b"sid=1; max-age=3600", False),
    (b"sid=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", True), (b'sid=""', True),
])  # fmt: skip
def test_a_cookie_that_is_taken_away(value: bytes, expected: bool) -> None:
    assert ends(value) is expected
