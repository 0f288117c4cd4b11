"""Logins at the identity provider with whole processes: two web workers, a dead primary, reload and kill."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.fakes.identity_provider import FakeProvider
from tests.peers.process import free_port, wait_for
from tests.system.site import Site, request

WORKERS = ("router", "web-2")
TAKEN = re.compile(r'component=(\S+) event="configuration taken"')


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    loop, made = asyncio.new_event_loop(), FakeProvider()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(made.start(), loop).result(30)
    yield made
    asyncio.run_coroutine_threadsafe(made.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture
def site(provider: FakeProvider) -> Iterator[Site]:
    dead = {"web": {"url": f"http://127.0.0.1:{free_port()}"}}
    made = Site(dead)
    made.configuration["listen"]["web"]["workers"] = 2
    made.configuration["access"] = {"web": {
        "addresses": ["10.9.9.9"],
        "oidc": {
            "issuer": provider.issuer, "client_id": "failover", "groups": ["radiology"],
            "public_url": f"http://127.0.0.1:{made.web_port}",
        },
    }}  # fmt: skip
    with made:
        made.wait_until(
            lambda status: status["services"]["web"]["active"] == "backup", "it is in backup mode"
        )
        wait_for(lambda: b'component_up{component="web-2"} 1' in metrics(made), "the worker has joined")
        yield made


def metrics(site: Site) -> bytes:
    return site.admin("GET", "/metrics").body


def log_in(site: Site, provider: FakeProvider) -> tuple[int, str | None]:
    """All the way round, each step on a connection of its own; return status and session of the return."""
    asked = site.web("GET", "/.failover/", accept="text/html")
    assert asked.status == 302, asked.body
    there = site.web("GET", asked.headers["location"], accept="text/html")
    assert there.status == 303, there.body
    way = urlsplit(there.headers["location"])
    back = request(provider.port, "GET", f"{way.path}?{way.query}")
    home = back.headers["location"].removeprefix(f"http://127.0.0.1:{site.web_port}")
    caller = http.client.HTTPConnection("127.0.0.1", site.web_port, timeout=30)
    caller.request("GET", home, headers={"Cookie": there.headers["set-cookie"].partition(";")[0]})
    got = caller.getresponse()
    got.read()
    caller.close()
    given = [line.partition(";")[0] for line in got.headers.get_all("set-cookie", [])]
    return got.status, next((cookie for cookie in given if cookie.startswith("failover-session=")), None)


def at_each_worker(site: Site, **headers: str) -> set[int]:
    """The statuses of the viewer at both processes: at each while the other one stands still."""
    statuses: set[int] = set()
    for worker in WORKERS:
        with site.alone(worker, WORKERS):
            statuses.add(request(site.web_port, "GET", "/.failover/", headers=headers).status)
    return statuses


def test_a_login_counts_at_both_workers_over_a_reload_and_a_killed_router(
    site: Site, provider: FakeProvider
) -> None:
    assert at_each_worker(site) == {401}
    provider.groups = ["porters"]
    assert log_in(site, provider) == (403, None)
    provider.groups = ["radiology"]
    status, session = log_in(site, provider)
    assert status == 303
    assert session is not None
    assert at_each_worker(site, Cookie=session) == {200}

    os.kill(site.supervisor_pid, signal.SIGHUP)
    wait_for(lambda: {*WORKERS} <= {*TAKEN.findall(site.log())}, "both have read the file again")
    assert at_each_worker(site, Cookie=session) == {200}
    assert log_in(site, provider)[0] == 303

    site.kill("router")
    wait_for(site.ready, "the router is back")
    wait_for(lambda: b'component_up{component="web-2"} 1' in metrics(site), "the worker has joined it")
    assert at_each_worker(site, Cookie=session) == {200}
    assert log_in(site, provider)[0] == 303
