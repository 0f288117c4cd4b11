"""The proxy beside HAProxy and nginx: CPU per small request, per byte of large ones, added latency, memory.

The origin is one nginx worker with static files; the load is wrk with one thread. All contestants have
keep-alive to the origin, one worker, checks and an access log. The product runs as `failover run` has it; the
CPU of all its processes counts.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from failover.compiled import is_compiled
from tests.bench.measure import cpu_s, output_of, resident_bytes
from tests.bench.report import Row, Suite
from tests.peers.process import find_program, free_port, listens, wait_for
from tests.system.site import Site

SIZES = {"200": 200, "30k": 30_000, "512k": 512 * 1024, "64m": 64 * 2**20}


@dataclass
class Contestant:
    name: str
    port: int
    pid: int


@dataclass
class Load:
    """What wrk saw."""

    requests: int
    errors: int
    bytes: float
    p50_us: float
    p99_us: float


_WRK = """
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("%d %d %d %d %d\\n", summary.requests,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout, summary.bytes,
    latency:percentile(50), latency:percentile(99)))
end
"""


# A head that is another one each time cannot be remembered by anyone.
_VARIED = """
local count = 0
request = function()
  count = count + 1
  wrk.headers["X-Request-Id"] = string.format("%016d", count)
  return wrk.format()
end
"""


def load(
    port: int,
    path: str,
    *,
    connections: int,
    seconds: int,
    folder: Path,
    varied: bool = False,
    accept: str = "application/dicom+json",
    script: str = "",
    scheme: str = "http",
    keep_alive: bool = True,
) -> Load:
    """Return what wrk saw. `script` may choose the path of each request, in Lua."""
    file = folder / "wrk.lua"
    file.write_text(_WRK + (_VARIED if varied else "") + script)
    headers = [
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64)", f"Accept: {accept}",
        "Accept-Language: de,en",
        "Accept-Encoding: identity", "Cache-Control: no-cache", "Pragma: no-cache",
        "Cookie: session=0123456789abcdef",
        "Referer: http://pacs.example.org/viewer", "Sec-Fetch-Mode: cors", "Sec-Fetch-Site: same-origin",
        "X-Requested-With: XMLHttpRequest",
    ]  # fmt: skip
    command = [
        str(find_program("wrk")),
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "-s",
        str(file),
        "--timeout",
        "20s",
    ]
    for header in headers + ([] if keep_alive else ["Connection: close"]):
        command += ["-H", header]
    out = output_of([*command, f"{scheme}://127.0.0.1:{port}{path}"], timeout_s=seconds + 120)
    found = re.search(r"^(\d+) (\d+) (\d+) (\d+) (\d+)$", out, re.M)
    if found is None:
        raise RuntimeError(f"wrk said nothing readable: {out[-500:]}")
    return Load(int(found[1]), int(found[2]), float(found[3]), float(found[4]), float(found[5]))


@contextmanager
def program(command: list[str], port: int, *, environment: dict[str, str] | None = None) -> Iterator[int]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
    try:
        wait_for(lambda: listens(port), f"{command[0]} listens")
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def nginx_user() -> str:
    """As root nginx would run its worker as nobody, who may not read our folder: 403 for all."""
    return "user root; " if os.getuid() == 0 else ""


@contextmanager
def origin(folder: Path) -> Iterator[int]:
    port = free_port()
    root = folder / "root"
    (root / "dicom-web").mkdir(parents=True)
    for name, size in SIZES.items():
        (root / name).write_bytes(os.urandom(size))
    (root / "dicom-web" / "studies").write_text("[]")
    configuration = folder / "origin.conf"
    configuration.write_text(
        f"""{nginx_user()}daemon off; worker_processes 1; pid {folder}/origin.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  default_type application/octet-stream;
  client_body_temp_path {folder}/o1; proxy_temp_path {folder}/o2; fastcgi_temp_path {folder}/o3;
  uwsgi_temp_path {folder}/o4; scgi_temp_path {folder}/o5;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {root};
    location = / {{ return 200 "ok"; }}
    location /dicom-web/ {{ default_type application/dicom+json; }} }} }}
"""
    )
    with program([str(find_program("nginx")), "-c", str(configuration), "-p", str(folder)], port):
        yield port


@contextmanager
def haproxy(folder: Path, upstream: int, *, bind: str = "") -> Iterator[Contestant]:
    """`bind`: more options of the listener, such as TLS."""
    port = free_port()
    configuration = folder / "haproxy.cfg"
    configuration.write_text(
        f"""global
  nbthread 1
  maxconn 8000
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend f
  bind 127.0.0.1:{port} backlog 4096 {bind}
  option forwardfor
  default_backend b
backend b
  option httpchk HEAD /
  server primary 127.0.0.1:{upstream} check inter 1s
"""
    )
    with program([str(find_program("haproxy")), "-db", "-f", str(configuration)], port) as pid:
        yield Contestant("haproxy", port, pid)


@contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[Contestant]:
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log {folder}/access.log; keepalive_requests 1000000;
  client_body_temp_path {folder}/n1; proxy_temp_path {folder}/n2; fastcgi_temp_path {folder}/n3;
  uwsgi_temp_path {folder}/n4; scgi_temp_path {folder}/n5;
  upstream primary {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://primary; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; }} }} }}
"""
    )
    with program([str(find_program("nginx")), "-c", str(configuration), "-p", str(folder)], port) as pid:
        yield Contestant("nginx", port, pid)


@contextmanager
def product(upstream: int) -> Iterator[Contestant]:
    with Site({"web": {"url": f"http://127.0.0.1:{upstream}"}}) as site:
        yield Contestant("failover", site.web_port, site.supervisor_pid)


def run(quick: bool) -> Suite:
    seconds, rounds = (1, 1) if quick else (2, 3)
    rows: list[Row] = []
    notes = [f"failover: {'compiled' if is_compiled() else 'pure, as without make compile'}"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-web-")))
        upstream = stack.enter_context(origin(folder))
        contestants = [
            stack.enter_context(haproxy(folder, upstream)),
            stack.enter_context(nginx(folder, upstream)),
            stack.enter_context(product(upstream)),
        ]
        for contestant in contestants:  # warm up: connections, caches, learnt durations
            load(contestant.port, "/200", connections=256, seconds=1, folder=folder)
        for size, connections, varied in (
            ("200", 32, False), ("200", 256, False), ("200", 32, True), ("30k", 32, False),
            ("30k", 256, False),
        ):  # fmt: skip
            work = f"{size} answers, {connections} connections{', no two heads alike' if varied else ''}"
            row = Row(work, "µs CPU/request", "haproxy")
            rate = Row(work, "requests/s", "haproxy", less_is_better=False)
            rows += [row, rate]
            for _ in range(rounds):
                for contestant in contestants:
                    before = cpu_s(contestant.pid)
                    seen = load(
                        contestant.port, f"/{size}", connections=connections, seconds=seconds,
                        folder=folder, varied=varied,
                    )  # fmt: skip
                    row.add(contestant.name, 1e6 * (cpu_s(contestant.pid) - before) / seen.requests)
                    rate.add(contestant.name, seen.requests / seconds)
                    if seen.errors:
                        notes.append(f"{contestant.name}, {row.work}: {seen.errors} errors")
        for size, connections in (("512k", 32), ("64m", 4)):
            row = Row(f"{size} answers, {connections} connections", "ms CPU/GB", "haproxy")
            rows.append(row)
            for _ in range(rounds):
                for contestant in contestants:
                    before = cpu_s(contestant.pid)
                    seen = load(
                        contestant.port, f"/{size}", connections=connections, seconds=seconds, folder=folder
                    )
                    row.add(contestant.name, 1e3 * (cpu_s(contestant.pid) - before) / (seen.bytes / 1e9))
                    if seen.errors:
                        notes.append(f"{contestant.name}, {row.work}: {seen.errors} errors")
        p50 = Row("200 B, 1 connection, added latency", "µs p50", "haproxy")
        p99 = Row("200 B, 1 connection, added latency", "µs p99", "haproxy")
        rows += [p50, p99]
        direct = Contestant("origin", upstream, os.getpid())
        for _ in range(rounds):
            base = load(direct.port, "/200", connections=1, seconds=seconds, folder=folder)
            for contestant in contestants:
                seen = load(contestant.port, "/200", connections=1, seconds=seconds, folder=folder)
                p50.add(contestant.name, max(1.0, seen.p50_us - base.p50_us))
                p99.add(contestant.name, max(1.0, seen.p99_us - base.p99_us))
        memory = Row("after all that, all processes", "MB resident (PSS)", "haproxy")
        rows.append(memory)
        for contestant in contestants:
            memory.add(contestant.name, resident_bytes(contestant.pid) / 1e6)
    return Suite("web", rows, notes)
