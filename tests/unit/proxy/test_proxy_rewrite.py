"""How a request looks to an upstream and an answer to the caller."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover.http.head import parse_answer, parse_request
from failover.model import UpstreamName
from failover.proxy import rewrite
from failover.proxy.classify import classify
from failover.proxy.leads import Place
from failover.proxy.rewrite import Reach
from failover.proxy.upstreams import WebUpstream

PRIMARY = WebUpstream(UpstreamName.PRIMARY, "10.0.0.1", 8042, dicomweb_path="/dicom-web")
ARCHIVE = WebUpstream(
    UpstreamName.BACKUP,
    "127.0.0.1",
    8043,
    dicomweb_path="/rs",
    takes_unsafe=False,
    has_viewer=True,
    is_archive=True,
)
FOREIGN = WebUpstream(UpstreamName.BACKUP, "10.0.0.2", 80, dicomweb_path="/pacs/rs")
PLACE = Place(b"https", b"pacs.example", b"/dicom-web")
FORWARDED = b"Forwarded: for=1.2.3.4\r\n"


def sent(upstream: WebUpstream, method: str, path: str, *lines: str) -> list[bytes]:
    head = parse_request("\r\n".join([f"{method} {path} HTTP/1.1", "Host: pacs", *lines, "", ""]).encode())
    asked = classify(head, b"/dicom-web")
    whole = rewrite.request_head(head, asked, upstream, FORWARDED, b"/dicom-web", b"")
    assert whole.endswith(b"\r\n\r\n")
    return whole[:-4].split(b"\r\n")


@pytest.mark.parametrize(("method", "path", "accept", "primary", "archive", "foreign"), [
    ("GET", "/dicom-web/studies", "*/*", "ask", "ask", "ask"),
    ("POST", "/dicom-web/studies", "*/*", "ask", "ask", "ask"),
    ("DELETE", "/dicom-web/studies/1", "*/*", "ask", "never", "ask"),
    ("GET", "/wado?requestType=WADO&objectUID=1", "text/html", "ask", "ask", "ask"),
    ("GET", "/app", "text/html", "ask", "viewer", "ask"),
    ("GET", "/app.js", "*/*", "ask", "never", "ask"),
    ("POST", "/api", "*/*", "ask", "never", "ask"),
    ("GET", "/.failover/x", "text/html", "never", "ask", "never"),
    ("POST", "/.failover/x", "*/*", "never", "ask", "never"),
])  # fmt: skip
def test_reach(method: str, path: str, accept: str, primary: str, archive: str, foreign: str) -> None:
    head = parse_request(f"{method} {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n".encode())
    asked = classify(head, b"/dicom-web")
    found = [rewrite.reach(asked, one).value for one in (PRIMARY, ARCHIVE, FOREIGN)]
    assert found == [primary, archive, foreign]


def test_a_backup_without_dicomweb_never_gets_it() -> None:
    head = parse_request(b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\n\r\n")
    plain = WebUpstream(UpstreamName.BACKUP, "10.0.0.2", 80, dicomweb_path=None)
    assert rewrite.reach(classify(head, b"/dicom-web"), plain) is Reach.NEVER


def test_the_prefix_is_mapped() -> None:
    assert (
        sent(PRIMARY, "GET", "/dicom-web/studies?x=/dicom-web/")[0]
        == b"GET /dicom-web/studies?x=/dicom-web/ HTTP/1.1"
    )
    assert (
        sent(ARCHIVE, "GET", "/dicom-web/studies?x=/dicom-web/")[0]
        == b"GET /rs/studies?x=/dicom-web/ HTTP/1.1"
    )
    assert sent(FOREIGN, "GET", "/dicom-web/studies")[0] == b"GET /pacs/rs/studies HTTP/1.1"
    assert sent(ARCHIVE, "GET", "/.failover/a?b")[0] == b"GET /.failover/a?b HTTP/1.1"


def test_wado_uri_has_its_place_in_the_archive_and_the_callers_path_elsewhere() -> None:
    query = "requestType=WADO&objectUID=1.2"
    assert sent(ARCHIVE, "GET", f"/pacs/wado?{query}")[0] == f"GET /wado?{query} HTTP/1.1".encode()
    for upstream in (PRIMARY, FOREIGN):
        assert sent(upstream, "GET", f"/pacs/wado?{query}")[0] == f"GET /pacs/wado?{query} HTTP/1.1".encode()


def test_what_never_passes() -> None:
    lines = sent(
        PRIMARY, "GET", "/x", "Connection: X-Mine, close", "X-Mine: 1", "Keep-Alive: 5", "TE: trailers",
        "Upgrade: h2c", "Proxy-Connection: x", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Port: 1",
        "X_Forwarded_Proto: https", "X-Failover-Via: router", "Content_Length: 5", "HOST_: a",
        "X-Real-IP: 6.6.6.6",
        "Cookie: a=b", "Range: bytes=0-1", "Good_Name: kept",
    )  # fmt: skip
    assert lines[1:] == [b"Host: pacs", b"HOST_: a", b"Cookie: a=b", b"Range: bytes=0-1", b"Good_Name: kept",
                         b"Forwarded: for=1.2.3.4"]  # fmt: skip


ENDS = (
    "Cookie: a=b", "Authorization: Basic x", "Accept: */*", "Content-Type: x", "If-None-Match: y",
    "User-Agent: z", "Sec-Fetch-Site: same-origin", "Origin: https://pacs",
)  # fmt: skip


def test_connection_takes_away_no_field_that_is_meant_for_the_upstream() -> None:
    names = ", ".join(["HOST", "X-Mine", *(line.partition(":")[0].lower() for line in ENDS), "close"])
    lines = sent(PRIMARY, "GET", "/x", f"Connection: {names}", "X-Mine: 1", *ENDS)
    assert lines[1:] == [b"Host: pacs", *(line.encode() for line in ENDS), FORWARDED[:-2]]


def test_nor_one_of_an_answer_that_is_meant_for_the_caller() -> None:
    fields = b"Content-Type: x\r\nSet-Cookie: a=b\r\nCache-Control: no-store\r\nX-Inner: 1\r\n"
    names = b"Connection: content-type, set-cookie, cache-control, x-inner\r\n"
    head = parse_answer(b"HTTP/1.1 200 OK\r\n" + fields + names + b"\r\n")
    lines = rewrite.answer_head(head, PRIMARY, PLACE, b"").split(b"\r\n")
    assert lines[1:4] == [b"Content-Type: x", b"Set-Cookie: a=b", b"Cache-Control: no-store"]
    assert not [line for line in lines if line.lower().startswith((b"x-inner", b"connection"))]


def test_ranges_and_validators_of_one_system_never_reach_the_other() -> None:
    lines = sent(
        ARCHIVE, "GET", "/dicom-web/studies/1", "Range: bytes=0-1", "If-None-Match: x", "Cookie: a=b"
    )
    assert lines[1:] == [b"Host: pacs", b"Forwarded: for=1.2.3.4", b"X-Failover-Via: router",
                         b"X-Failover-Prefix: /dicom-web"]  # fmt: skip


SECRETS = (
    "Cookie: a=b; failover-backup-a=c; failover-session=t; __Host-failover-session=t",
    "Authorization: Basic x",
)


@pytest.mark.parametrize(("upstream", "cookie", "authorization"), [
    (PRIMARY, b"Cookie: a=b", True),
    (FOREIGN, b"Cookie: a=c", False),
    (ARCHIVE, b"Cookie: a=c", False),
    (replace(FOREIGN, pass_credentials=True), b"Cookie: a=c", True),
])  # fmt: skip
def test_secrets_stay_apart(upstream: WebUpstream, cookie: bytes, authorization: bool) -> None:
    lines = sent(upstream, "GET", "/dicom-web/studies", *SECRETS)
    assert [line for line in lines if line.startswith(b"Cookie")] == [cookie]
    assert (b"Authorization: Basic x" in lines) is authorization
    assert not [line for line in lines if b"session" in line]


def test_with_pass_credentials_the_primarys_cookies_go_too() -> None:
    trusted = replace(FOREIGN, pass_credentials=True)
    assert b"Cookie: a=c; p=1" in sent(trusted, "GET", "/x", "Cookie: p=1; failover-backup-a=c; a=b")
    assert not [line for line in sent(FOREIGN, "GET", "/x", "Cookie: p=1") if line.startswith(b"Cookie")]


def test_cookies_of_the_backup_are_renamed_and_its_challenge_is_not_shown() -> None:
    head = parse_answer(
        b"HTTP/1.1 401 No\r\nSet-Cookie: a=b; Path=/pacs/rs\r\nWWW-Authenticate: Basic\r\n\r\n"
    )
    lines = rewrite.answer_head(head, FOREIGN, PLACE, b"").split(b"\r\n")
    assert lines[1:-2] == [
        b"Set-Cookie: failover-backup-a=b; Path=/dicom-web",
        b"X-Failover-Upstream: backup",
    ]
    lines = rewrite.answer_head(head, replace(FOREIGN, pass_credentials=True), PLACE, b"").split(b"\r\n")
    assert b"WWW-Authenticate: Basic" in lines
    lines = rewrite.answer_head(head, PRIMARY, PLACE, b"").split(b"\r\n")
    assert lines[1:3] == [b"Set-Cookie: a=b; Path=/pacs/rs", b"WWW-Authenticate: Basic"]


def test_answers() -> None:
    head = parse_answer(
        b"HTTP/1.1 200 Fine\r\nContent-Type: x\r\nConnection: X-Inner\r\nX-Inner: 1\r\n"
        b"Transfer-Encoding: chunked\r\n"
        b"X-Failover-Upstream: forged\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nAlt-Svc: h3\r\n\r\n"
    )
    assert rewrite.answer_head(head, PRIMARY, PLACE, b"Content-Length: 1\r\n") == (
        b"HTTP/1.1 200 Fine\r\nContent-Type: x\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n"
        b"X-Failover-Upstream: primary\r\nContent-Length: 1\r\n\r\n"
    )


@pytest.mark.parametrize(("line", "binds"), [
    ("Authorization: NTLM abc", True), ("Authorization: negotiate abc", True),
    ("Authorization: Basic x", False),
    ("X-Auth: NTLM", False),
])  # fmt: skip
def test_connection_bound_authentication(line: str, binds: bool) -> None:
    head = parse_request(f"GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n".encode())
    assert rewrite.binds_connection(head) is binds


def test_own_answers() -> None:
    whole = rewrite.own_answer(503, "not now", close=True, head_only=False, location=None)
    assert whole == (
        b"HTTP/1.1 503 Service Unavailable\r\nX-Failover-Upstream: none\r\nCache-Control: no-store\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 8\r\n"
        b"Retry-After: 5\r\nConnection: close\r\n\r\n"
        b"not now\n"
    )


def test_what_is_remembered_of_a_line_is_no_secret_and_serves_each_upstream_its_own() -> None:
    lines = [
        "Authorization: Basic c2VjcmV0", "Proxy-Authorization: Basic c2VjcmV0", "Cookie: session=c2VjcmV0",
        "X-Forwarded-For: 6.6.6.6", "X_Forwarded_For: 6.6.6.6", "Range: bytes=0-1", "X-Plain: once more",
    ]  # fmt: skip
    secrets = {b"Authorization: Basic c2VjcmV0", b"Cookie: session=c2VjcmV0"}
    for _ in range(2):  # the second time from memory
        primary = sent(PRIMARY, "GET", "/dicom-web/studies", *lines)
        assert secrets | {b"Range: bytes=0-1", b"X-Plain: once more"} <= set(primary)
        assert not any(b"6.6.6.6" in line or line.startswith(b"Proxy-") for line in primary)
        foreign = sent(FOREIGN, "GET", "/dicom-web/studies", *lines)
        assert b"X-Plain: once more" in foreign
        assert not any(b"c2VjcmV0" in line or b"Range" in line for line in foreign)
        named = sent(PRIMARY, "GET", "/dicom-web/studies", "Connection: x-plain", *lines)
        assert b"X-Plain: once more" not in named
    assert not any(b"c2VjcmV0" in header[2] for header in rewrite._upstream_lines)
