"""TLS before the proxy, beside HAProxy with TLS and the product without: CPU per request, byte and handshake.

Both have one ECDSA P-256 certificate, TLS 1.3 and 1.2, session tickets; wrk speaks what they agree on. The
rest is as in `web`.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.measure import cpu_s, resident_bytes
from tests.bench.report import Row, Suite
from tests.bench.web import Contestant, haproxy, load, origin, product
from tests.peers.authority import Authority
from tests.system.site import Site

PLAIN = "failover without TLS"


def run(quick: bool) -> Suite:
    seconds, rounds = (1, 1) if quick else (4, 3)
    rows: list[Row] = []
    notes: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-tls-")))
        issued = Authority(folder / "authority").issue("router")
        both = folder / "haproxy.pem"
        both.write_bytes(issued.cert.read_bytes() + issued.key.read_bytes())
        upstream = stack.enter_context(origin(folder))
        site = Site({"web": {"url": f"http://127.0.0.1:{upstream}"}})
        site.configuration["listen"]["web"]["tls"] = {
            "cert_file": str(issued.cert),
            "key_file": str(issued.key),
        }
        stack.enter_context(site)
        plain = stack.enter_context(product(upstream))
        contestants = [
            stack.enter_context(haproxy(folder, upstream, bind=f"ssl crt {both} ssl-min-ver TLSv1.2")),
            Contestant("failover", site.web_port, site.supervisor_pid),
            Contestant(PLAIN, plain.port, plain.pid),
        ]

        def measure(
            row: Row, path: str, connections: int, *, keep_alive: bool = True, by_bytes: bool = False
        ) -> None:
            rows.append(row)
            for _ in range(rounds):
                for contestant in contestants:
                    before = cpu_s(contestant.pid)
                    seen = load(
                        contestant.port, path, connections=connections, seconds=seconds, folder=folder,
                        scheme="http" if contestant.name == PLAIN else "https", keep_alive=keep_alive,
                    )  # fmt: skip
                    spent_s = cpu_s(contestant.pid) - before
                    row.add(
                        contestant.name,
                        1e3 * spent_s / (seen.bytes / 1e9) if by_bytes else 1e6 * spent_s / seen.requests,
                    )
                    if seen.errors:
                        notes.append(f"{contestant.name}, {row.work}: {seen.errors} errors")

        for contestant in contestants:  # warm up
            scheme = "http" if contestant.name == PLAIN else "https"
            load(contestant.port, "/200", connections=32, seconds=1, folder=folder, scheme=scheme)
        for size, connections in (("200", 32), ("30k", 32), ("200", 256)):
            measure(
                Row(f"{size} answers, {connections} connections", "µs CPU/request", "haproxy"),
                f"/{size}",
                connections,
            )
        measure(Row("512k answers, 32 connections", "ms CPU/GB", "haproxy"), "/512k", 32, by_bytes=True)
        measure(
            Row("200 B, a new connection each", "µs CPU/request", "haproxy"), "/200", 32, keep_alive=False
        )
        memory = Row("after all that, all processes", "MB resident (PSS)", "haproxy")
        rows.append(memory)
        for contestant in contestants:
            memory.add(contestant.name, resident_bytes(contestant.pid) / 1e6)
    return Suite("tls", rows, notes)
