"""What a request is."""

from __future__ import annotations

import pytest

from failover.http.head import parse_request
from failover.proxy.classify import Asked, WebRoute, classify
from failover.routing.selection import Kind


def asked(method: str, target: str, *lines: str, prefix: bytes | None = b"/dicom-web") -> Asked:
    raw = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *lines, "", ""])
    return classify(parse_request(raw.encode()), prefix)


@pytest.mark.parametrize(("method", "path", "route", "kind"), [
    ("GET", "/studies?PatientName=A%5EB", "qido", "read"),
    ("HEAD", "/studies", "qido", "read"),
    ("GET", "/series", "qido", "read"),
    ("GET", "/instances", "qido", "read"),
    ("GET", "/studies/1/series", "qido", "read"),
    ("GET", "/studies/1/instances", "qido", "read"),
    ("GET", "/studies/1/series/2/instances?x", "qido", "read"),
    ("GET", "/studies/1", "wado", "read"),
    ("GET", "/studies/1/metadata", "wado", "read"),
    ("GET", "/studies/1/series/2", "wado", "read"),
    ("GET", "/studies/1/series/2/metadata", "wado", "read"),
    ("GET", "/studies/1/series/2/instances/3", "wado", "read"),
    ("GET", "/studies/1/series/2/instances/3/frames/1,2", "wado", "read"),
    ("GET", "/studies/1/series/2/instances/3/bulkdata/7FE00010", "wado", "read"),
    ("GET", "/studies/1/series/2/instances/3/rendered", "rendered", "read"),
    ("GET", "/studies/1/thumbnail", "rendered", "read"),
    ("POST", "/studies", "stow", "store"),
    ("POST", "/studies/1", "stow", "store"),
    ("POST", "/studies/1/series", "other", "other"),
    ("DELETE", "/studies/1", "other", "other"),
    ("GET", "/workitems", "other", "read"),
    ("OPTIONS", "/studies", "other", "read"),
])  # fmt: skip
def test_dicomweb(method: str, path: str, route: str, kind: str) -> None:
    one = asked(method, "/dicom-web" + path)
    assert (one.route.value, one.kind.value, one.below_prefix) == (route, kind, path.encode())


def test_wado_uri_says_itself_what_it_is() -> None:
    query = "requestType=WADO&studyUID=1&seriesUID=2&objectUID=3"
    for target in (f"/wado?{query}", f"/any/where?x=1&{query}", f"/dicom-web/wado?{query}"):
        one = asked("GET", target, "Accept: text/html")
        assert (one.route, one.kind, one.below_prefix) == (WebRoute.WADO, Kind.READ, None)
        assert one.wado_uri == target.partition("?")[2].encode()
    for target in ("/wado", "/wado?requestType=WADO", "/wado?requestType=WADOX&objectUID=3",
                   f"/x/../wado?{query}", f"/dicom-web/studies?{query}"):  # fmt: skip
        assert asked("GET", target).wado_uri is None, target
    assert asked("POST", f"/wado?{query}").wado_uri is None


def test_what_only_looks_like_dicomweb_is_not() -> None:
    for target in ("/dicom-webs/studies", "/dicom-web/../admin", "/dicom-web/%2e%2E/admin",
                   "/x/dicom-web/studies", "/dicom-web/studies%2F1", "/dicom-web/.", "/dicom-web/a\\b"):  # fmt: skip  # noqa: E501
        assert asked("GET", target).below_prefix is None


def test_pages_and_others() -> None:
    assert asked("GET", "/app", "Accept: text/html,*/*").route is WebRoute.PAGE
    assert asked("GET", "/app.js", "Accept: */*").route is WebRoute.OTHER
    assert asked("POST", "/app", "Accept: text/html").route is WebRoute.OTHER
    assert asked("GET", "/dicom-web/studies", "Accept: text/html").route is WebRoute.QIDO


def test_ours() -> None:
    assert asked("GET", "/.failover/x").ours
    assert not asked("GET", "/.failover/../x").ours
    assert not asked("GET", "/.failover").ours


def test_a_websocket_cannot_be_repeated() -> None:
    one = asked("GET", "/ws", "Connection: Upgrade", "Upgrade: websocket")
    assert (one.kind, one.upgrade) == (Kind.OTHER, True)


def test_prefix_at_the_root_and_none() -> None:
    assert asked("GET", "/studies", prefix=b"").route is WebRoute.QIDO
    assert asked("GET", "/dicom-web/studies", prefix=None).below_prefix is None
