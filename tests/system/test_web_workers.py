"""`listen.web.workers`: several processes answer on one port, and behave as one."""

from __future__ import annotations

import http.client
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.orthanc import Orthanc
from tests.peers.process import slowness, wait_for
from tests.system.callers import Browser
from tests.system.conftest import primary_block
from tests.system.site import Answer, Site

OTHERS = ("web-2", "web-3")
WORKERS = ("router", *OTHERS)
ASKED = re.compile(
    rb'^failover_http_requests_total\{code="200",route="qido",upstream="\w+"\} ([0-9.]+)', re.M
)
UP = re.compile(rb'^failover_component_up\{component="(web-\d)"\} ([0-9.]+)', re.M)


@pytest.fixture
def workers(orthanc: Orthanc) -> Iterator[Site]:
    site = Site(primary_block(orthanc))
    site.configuration["listen"]["web"]["workers"] = len(WORKERS)
    with site:
        site.wait_until(lambda _: joined(site) == set(OTHERS), "both have joined")
        yield site


def metrics(site: Site) -> bytes:
    return site.admin("GET", "/metrics").body


def joined(site: Site) -> set[str]:
    return {name.decode() for name, up in UP.findall(metrics(site)) if float(up) == 1}


def answered(site: Site) -> int:
    return sum(int(float(count)) for count in ASKED.findall(metrics(site)))


def by_component(site: Site) -> Counter[str]:
    return Counter(re.findall(r"component=(\S+) event=request", site.log()))


class Connections:
    """Many kept connections, as many at each worker: it takes them while the others stand still."""

    def __init__(self, site: Site, at_each: int) -> None:
        self.all: list[http.client.HTTPConnection] = []
        for worker in WORKERS:
            with site.alone(worker, WORKERS):
                for _ in range(at_each):
                    one = http.client.HTTPConnection("127.0.0.1", site.web_port, timeout=30)
                    self.all.append(one)
                    assert self._ask(one).status == 200

    def ask(self) -> list[Answer]:
        return [self._ask(one) for one in self.all]

    @staticmethod
    def _ask(one: http.client.HTTPConnection) -> Answer:
        one.request("GET", "/dicom-web/studies?limit=1")
        got = one.getresponse()
        headers = {name.lower(): value for name, value in got.getheaders()}
        return Answer(got.status, headers, got.read())

    def close(self) -> None:
        for one in self.all:
            one.close()


def test_they_go_by_one_route_and_count_as_one(workers: Site, orthanc: Orthanc) -> None:
    site = workers
    site.wait_until(lambda status: status["replication"]["coverage_ratio"] == 1.0, "all is replicated")
    before = answered(site)
    callers = Connections(site, 16)
    assert {one.upstream for one in callers.ask()} == {"primary"}
    wait_for(lambda: answered(site) - before >= 96, "all have told what they counted")
    assert answered(site) - before == 96
    wait_for(lambda: by_component(site) == dict.fromkeys(WORKERS, 32), "each has answered its own")

    # A decision reaches all of them: from the operator's answer on, nobody asks the primary.
    assert (
        site.admin("PUT", "/api/route", {"mode": "drain", "upstream": "primary", "reason": "t"}).status == 200
    )
    site.wait_until(lambda status: status["in_flight"]["primary"]["web"] == 0, "the primary is empty")
    assert {one.upstream for one in callers.ask()} == {"backup"}
    assert site.admin("PUT", "/api/route", {"mode": "auto"}).status == 200
    site.wait_until(lambda status: status["phase"] == "on_primary", "failback")

    # The router dies: the others go on, also when the primary dies meanwhile.
    os.kill(site.children()["router"]["pid"], signal.SIGKILL)
    orthanc.kill()
    good = 0
    for one in callers.all:
        try:
            one.request("GET", "/dicom-web/studies?limit=1")
            good += one.getresponse().read() != b""
        except (OSError, http.client.HTTPException):
            one.close()  # it was the router's own
    assert good > 0
    wait_for(site.ready, "the router is back")
    site.wait_until(lambda status: status["phase"] == "on_backup", "failover")
    assert {one.upstream for one in callers.ask()} == {"backup"}
    callers.close()


def test_a_killed_worker_is_back_nobody_is_refused_and_sigterm_ends_all(workers: Site) -> None:
    site = workers
    with Browser(site) as browser:
        wait_for(lambda: len(browser.asked) > 5, "some requests before")
        before = answered(site)
        slow = slowness()
        killed = site.kill("web-2")
        killed_at = time.monotonic()
        wait_for(lambda: site.children()["web-2"]["pid"] not in (None, killed), "it is back")
        wait_for(lambda: "web-2" in joined(site), "and has joined", timeout_s=30)
        took_s = time.monotonic() - killed_at
        slow = max(slow, slowness())
        seen = len(browser.asked)
        wait_for(lambda: len(browser.asked) > seen + 10, "requests afterwards")
        # What the dead had counted is not taken back: Prometheus would read it as a restart.
        assert answered(site) >= before
    assert took_s < 3.0 * slow
    assert not [entry for entry in browser.asked if entry.error and "ConnectionRefused" in entry.error]

    pids = [child["pid"] for child in site.children().values()]
    assert len(pids) == 2 + len(WORKERS)
    assert site.stop() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
