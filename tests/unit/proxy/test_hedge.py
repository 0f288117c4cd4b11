"""When a slow read is asked of the backup too: for what, for whom, after how long, how often."""

from __future__ import annotations

import pytest

from failover.config.schema import Hedge
from failover.http.head import RequestHead, parse_answer, parse_request
from failover.proxy.classify import classify
from failover.proxy.hedge import (
    BURST,
    KNOWN,
    MOST_SERVED,
    ONE_IN,
    SERVED_S,
    Hedging,
    Item,
    ItemKind,
    Served,
    item_of,
    serves,
)

INSTANCE = "/dicom-web/studies/1.2/series/1.2.3/instances/1.2.3.4"


def head_of(target: str, *lines: str, method: str = "GET") -> RequestHead:
    return parse_request("\r\n".join([f"{method} {target} HTTP/1.1", "Host: p", *lines, "", ""]).encode())


def item(target: str, *lines: str, method: str = "GET") -> Item | None:
    head = head_of(target, *lines, method=method)
    return item_of(classify(head, b"/dicom-web"), head)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (INSTANCE, ItemKind.INSTANCE),
        (INSTANCE + "/", ItemKind.INSTANCE),
        (INSTANCE + "/frames/3", ItemKind.FRAME),
        (INSTANCE + "/bulk/00420011", ItemKind.OTHER),
        (INSTANCE + "/metadata?x=1", ItemKind.OTHER),
    ],
)
def test_a_named_instance_and_what_is_in_it_may_be_asked_twice(target: str, kind: ItemKind) -> None:
    assert item(target, "Accept: */*") == Item(kind, b"1.2")


@pytest.mark.parametrize(
    "target",
    [
        "/dicom-web/studies?PatientID=1",
        "/dicom-web/studies/1.2/series",
        "/dicom-web/studies/1.2/series/1.2.3/instances",
        "/dicom-web/studies/1.2",
        "/dicom-web/studies/1.2/series/1.2.3",
        "/dicom-web/studies/1.2/metadata",
        "/dicom-web/studies/1.2/series/1.2.3/metadata",
        INSTANCE + "/rendered",
        INSTANCE + "/frames/1/rendered",
        "/dicom-web/studies//series/1.2.3/instances/1.2.3.4",
        "/dicom-web/studies/1.2/x/1.2.3/instances/1.2.3.4",
        "/wado?studyUID=1.2",
        "/.failover/",
    ],
)
def test_searches_series_studies_and_pictures_never(target: str) -> None:
    assert item(target) is None


@pytest.mark.parametrize(
    "line", ["Range: bytes=0-9", "If-None-Match: \"a\"", "Authorization: NTLM TlRMTVNTUAAB"]
)  # fmt: skip
def test_parts_conditions_and_logins_of_a_connection_never(line: str) -> None:
    assert item(INSTANCE, line) is None
    assert item(INSTANCE, method="HEAD") is None


def test_who_asks_is_all_that_is_shown_and_from_where_and_for_which_study() -> None:
    served = Served(b"secret")
    mine = Item(ItemKind.FRAME, b"1.2")

    def key(*lines: str, address: str = "10.0.0.1", query: str = "", item: Item = mine) -> bytes:
        return served.key(head_of(f"{INSTANCE}{query}", *lines), address, item)

    known = key("Cookie: session=1", "Accept: */*")
    assert key("Accept: image/jls", "Cookie: session=1", "User-Agent: x") == known
    for other in (
        key("Cookie: session=2"),
        key(),
        key("Cookie: session=1", "Authorization: Bearer a"),
        key("Cookie: session=1", "X-Api-Key: a"),
        key("Cookie: session=1", query="?token=1"),
        key("Cookie: session=1", address="10.0.0.2"),
        key("Cookie: session=1", item=Item(ItemKind.FRAME, b"1.3")),
    ):
        assert other != known
    served.learn(known, 0.0, served=True)
    assert served.holds(known, SERVED_S - 1)
    assert not served.holds(known, SERVED_S)
    assert not served.holds(key(), 0.0)
    served.learn(known, 1.0, served=False)
    assert not served.holds(known, 1.0)
    served.learn(known, 1.0, served=True)
    for number in range(MOST_SERVED):
        served.learn(b"%d" % number, 2.0, served=True)
    assert not served.holds(known, 2.0)


@pytest.mark.parametrize("status", [204, 206, 301, 302, 304, 400, 401, 403, 404, 410, 500, 503, 507])
def test_an_answer_that_is_not_whole_never_wins(status: int) -> None:
    assert not serves(parse_answer(b"HTTP/1.1 %d Said\r\n\r\n" % status))


def test_a_login_page_serves_nobody() -> None:
    assert serves(parse_answer(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/related\r\n\r\n"))
    assert not serves(parse_answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/HTML; charset=x\r\n\r\n"))
    assert not serves(parse_answer(b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n"))


def test_the_delay_follows_what_is_usual_between_its_bounds() -> None:
    hedging = Hedging(Hedge(after_min=0.1, after_max=1.0), b"k")
    assert hedging.after_s(ItemKind.FRAME) == 1.0  # nothing is known
    for _ in range(KNOWN):
        hedging.learn(ItemKind.FRAME, 0.01)
    assert hedging.after_s(ItemKind.FRAME) == 0.1
    assert hedging.after_s(ItemKind.INSTANCE) == 1.0  # of another kind nothing is known yet
    for _ in range(KNOWN):
        hedging.learn(ItemKind.FRAME, 0.3)
    assert 0.3 <= hedging.after_s(ItemKind.FRAME) <= 0.4
    for _ in range(100):
        hedging.learn(ItemKind.FRAME, 20.0)
    assert hedging.after_s(ItemKind.FRAME) == 1.0
    for _ in range(10_000):  # a slow morning is forgotten
        hedging.learn(ItemKind.FRAME, 0.01)
    assert hedging.after_s(ItemKind.FRAME) == 0.1


def test_however_slow_the_primary_is_few_are_asked_twice() -> None:
    hedging = Hedging(Hedge(), b"k")
    asked_twice = 0
    for _ in range(10_000):
        hedging.earn()
        asked_twice += hedging.spend()
    assert 10_000 / ONE_IN - 1 <= asked_twice <= 10_000 / ONE_IN + BURST
