"""Who may talk to the admin listener: Host, Origin, content type, and whose name goes into the trail."""

from __future__ import annotations

import pytest

from failover.admin.guards import actor_of, bearer_token, deny, is_json, is_our_host, is_same_origin

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:9470",
        "[::1]:9470",
        "::1".join("[]"),
        "localhost",
        "LOCALHOST:1",
        "10.1.2.3:80",
    ],
)
def test_an_address_or_localhost_is_ours(host: str) -> None:
    assert is_our_host(host, [])


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:9470", "localhost.evil.example", "127.0.0.1.evil.example", "1", "a b",
     "127.0.0.1:9470:1", "user@127.0.0.1", "127.0.0.1/x", "[::1", "2130706433", "0x7f.1"],
)  # fmt: skip
def test_any_other_name_could_be_rebound_to_us(host: str) -> None:
    assert not is_our_host(host, [])
    denial = deny("GET", "/api/status", {"Host": host}, [])
    assert denial is not None
    assert denial.status == 421


def test_configured_names_are_ours() -> None:
    assert is_our_host("Failover.Hospital.Example:9470", ["failover.hospital.example"])
    assert is_our_host("failover.hospital.example.", ["failover.hospital.example"])
    assert not is_our_host("x.failover.hospital.example", ["failover.hospital.example"])


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://127.0.0.1:9470", "127.0.0.1:9470", True),
        ("http://[::1]:9470", "[::1]:9470", True),
        ("https://failover.example", "failover.example", True),  # TLS ended before us
        ("http://localhost:80", "localhost", True),
        ("http://127.0.0.1:8080", "127.0.0.1:9470", False),
        ("http://localhost:9470", "127.0.0.1:9470", False),
        ("https://evil.example", "127.0.0.1:9470", False),
        ("null", "127.0.0.1:9470", False),
        ("", "127.0.0.1:9470", False),
        ("http://127.0.0.1:notaport", "127.0.0.1", False),
        ("file://", "127.0.0.1", False),
    ],
)
def test_only_our_own_page_has_our_origin(origin: str, host: str, same: bool) -> None:
    assert is_same_origin(origin, host) is same
    denial = deny("PUT", "/api/route", {"Host": host, "Origin": origin, **JSON}, ["failover.example"])
    assert (denial is None) is same
    assert denial is None or denial.status == 403


def test_a_cross_site_request_is_refused_but_a_link_to_the_page_works() -> None:
    host = {"Host": "127.0.0.1:9470", "Sec-Fetch-Site": "cross-site"}
    link = {**host, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for path in ("/", "/api/status", "/-/healthy"):
        denial = deny("GET", path, host, [])
        assert denial is not None
        assert denial.status == 403
    assert deny("GET", "/", link, []) is None
    assert deny("GET", "/api/status", link, []) is not None
    assert deny("POST", "/", {**link, **JSON}, []) is not None
    assert deny("GET", "/", {**link, "Sec-Fetch-Dest": "iframe"}, []) is not None
    assert deny("GET", "/", {"Host": "127.0.0.1", "Sec-Fetch-Site": "same-origin"}, []) is None


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
def test_a_write_that_a_form_could_send_is_refused(method: str) -> None:
    for content_type in (
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "text/plain;application/json",
    ):
        denial = deny(method, "/api/route", {"Host": "localhost", "Content-Type": content_type}, [])
        assert denial is not None
        assert denial.status == 415
    assert deny(method, "/api/route", {"Host": "localhost", **JSON}, []) is None


def test_json_may_say_its_charset() -> None:
    assert is_json("application/json; charset=utf-8")
    assert is_json('Application/JSON;charset="UTF-8"')
    assert not is_json("application/json; charset=latin-1")
    assert not is_json("application/json-patch+json")


def test_the_token_of_a_bearer() -> None:
    assert bearer_token("Bearer abc") == "abc"
    assert bearer_token("bearer  abc ") == "abc"
    for nothing in (None, "", "Bearer", "Bearer ", "Basic YTpi", "abc"):
        assert bearer_token(nothing) is None


def test_who_acts() -> None:
    assert actor_of("alice", "bob") == "alice"
    assert actor_of(None, "J%C3%BCrgen%0AX") == "Jürgen X"
    assert actor_of(None, "a\x00b") == "ab"
    assert actor_of(None, None) == "unknown"
    assert len(actor_of(None, "x" * 500)) == 64
