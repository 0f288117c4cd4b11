"""Where the URLs in an answer lead: back through the router."""

from __future__ import annotations

import json

import pytest

from failover.http.head import parse_answer
from failover.model import UpstreamName
from failover.proxy.classify import Asked, WebRoute
from failover.proxy.leads import JsonUrls, Place, lead_back, rewriter
from failover.proxy.upstreams import WebUpstream
from failover.routing.selection import Kind

PRIMARY = WebUpstream(UpstreamName.PRIMARY, "10.0.0.1", 8042, names=("pacs.internal", "pacs.internal:8443"))
BACKUP = WebUpstream(UpstreamName.BACKUP, "10.0.0.2", 80, dicomweb_path="/rs/")
PLACE = Place(b"https", b"pacs.example", b"/dicom-web")


@pytest.mark.parametrize(("url", "expected"), [
    (b"http://10.0.0.1:8042/app/login?to=/x", b"https://pacs.example/app/login?to=/x"),
    (b"HTTP://PACS.internal/", b"https://pacs.example/"),
    (b"http://pacs.internal:80/a", b"https://pacs.example/a"),
    (b"https://pacs.internal:8443", b"https://pacs.example"),
    (b"//10.0.0.1:8042/a", b"https://pacs.example/a"),
    (b"http://10.0.0.1:8042?x", b"https://pacs.example?x"),
    # not its own: another port, another host that begins alike, a user in front, the caller's own name
    (b"http://10.0.0.1:9000/a", b"http://10.0.0.1:9000/a"),
    (b"http://10.0.0.1/a", b"http://10.0.0.1/a"),
    (b"http://10.0.0.1:8042.evil.example/a", b"http://10.0.0.1:8042.evil.example/a"),
    (b"http://10.0.0.1:8042@evil.example/a", b"http://10.0.0.1:8042@evil.example/a"),
    (b"http://pacs.example/a", b"http://pacs.example/a"),
    (b"/app", b"/app"), (b"app?x", b"app?x"), (b"", b""), (b"mailto:a@b", b"mailto:a@b"),
])  # fmt: skip
def test_urls_of_the_primary(url: bytes, expected: bytes) -> None:
    assert lead_back(url, PRIMARY, PLACE) == expected


@pytest.mark.parametrize(("url", "expected"), [
    (b"http://10.0.0.2/rs/studies/1", b"https://pacs.example/dicom-web/studies/1"),
    (b"http://10.0.0.2/rsx/1", b"https://pacs.example/rsx/1"),
    (b"/rs/studies/1", b"/dicom-web/studies/1"),
    (b"https://PACS.example/rs/studies/1", b"https://PACS.example/dicom-web/studies/1"),
    (b"https://other.example/rs/studies/1", b"https://other.example/rs/studies/1"),
    (b"../bulk/1", b"../bulk/1"),
])  # fmt: skip
def test_urls_of_a_backup_with_another_prefix(url: bytes, expected: bytes) -> None:
    assert lead_back(url, BACKUP, PLACE) == expected


def test_a_caller_without_a_host_gets_a_path() -> None:
    assert lead_back(b"http://10.0.0.1:8042/a", PRIMARY, Place(b"http", None, None)) == b"/a"
    assert lead_back(b"http://10.0.0.1:8042", PRIMARY, Place(b"http", None, None)) == b"/"


OWN = "http://10.0.0.1:8042/dicom-web/studies/1"
BACK = "https://pacs.example/dicom-web/studies/1"
STUDY = {
    "00081190": {"vr": "UR", "Value": [OWN]},
    "0020000D": {"vr": "UI", "Value": ["1"]},
    # Text that speaks of the same URL, and of the same names, stays as it is.
    "00081030": {"vr": "LO", "Value": [OWN, f'"BulkDataURI":"{OWN}"', f'"00081190":{{"Value":["{OWN}"']},
    "7FE00010": {"vr": "OW", "BulkDataURI": OWN + "/bulk"},
    "00089999": {"vr": "SQ", "Value": [{"0040E010": {"vr": "UR", "Value": [OWN]}}]},
}


def corrected(study: dict[str, object]) -> dict[str, object]:
    return {
        **study,
        "00081190": {"vr": "UR", "Value": [BACK]},
        "7FE00010": {"vr": "OW", "BulkDataURI": BACK + "/bulk"},
        "00089999": {"vr": "SQ", "Value": [{"0040E010": {"vr": "UR", "Value": [BACK]}}]},
    }


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("step", [1, 7, 64, 1000, 10**6])
def test_json_is_corrected_wherever_it_is_cut(step: int, indent: int | None) -> None:
    text = json.dumps([STUDY, STUDY], indent=indent).encode()
    urls = JsonUrls(PRIMARY, PLACE)
    out = b"".join(urls.feed(text[at : at + step]) for at in range(0, len(text), step)) + urls.end()
    assert json.loads(out) == [corrected(STUDY)] * 2
    assert JsonUrls(PRIMARY, PLACE).whole(text) == out


def test_escaped_slashes_are_read_and_what_needs_nothing_stays_byte_for_byte() -> None:
    escaped = json.dumps([STUDY]).replace("/", "\\/").encode()
    assert json.loads(JsonUrls(PRIMARY, PLACE).whole(escaped)) == [corrected(STUDY)]
    other = json.dumps([STUDY]).replace("10.0.0.1", "10.0.0.9").replace("/", "\\/").encode()
    assert JsonUrls(PRIMARY, PLACE).whole(other) == other


def test_little_is_kept_back_of_a_long_body() -> None:
    urls = JsonUrls(PRIMARY, PLACE)
    data = b'[{"7FE00010":{"vr":"OW","InlineBinary":"' + b"A" * 100_000
    assert len(urls.feed(data)) == len(data)
    assert len(urls.feed(b'"}, "x": {"BulkDataURI":"' + b"u" * 10_000)) > 5_000


ELSEWHERE = Asked(WebRoute.QIDO, Kind.READ, b"/dicom-web/studies")
QIDO = Asked(WebRoute.QIDO, Kind.READ, b"/dicom-web/studies", b"/studies")


@pytest.mark.parametrize(("lines", "asked", "upstream", "reads"), [
    ("Content-Type: application/dicom+json", QIDO, PRIMARY, True),
    ("Content-Type: application/json; charset=utf-8", QIDO, BACKUP, True),
    ("Content-Type: application/dicom+json\r\nContent-Encoding: gzip", QIDO, PRIMARY, False),
    ("Content-Type: text/html", QIDO, PRIMARY, False),
    ("Content-Type: application/json", ELSEWHERE, PRIMARY, False),
    ("Content-Type: application/json", QIDO,
     WebUpstream(UpstreamName.BACKUP, "127.0.0.1", 1, is_archive=True), False),
])  # fmt: skip
def test_which_bodies_are_read(lines: str, asked: Asked, upstream: WebUpstream, reads: bool) -> None:
    head = parse_answer(f"HTTP/1.1 200 OK\r\n{lines}\r\n\r\n".encode())
    assert (rewriter(asked, head, upstream, PLACE) is not None) is reads
