"""The relay beside HAProxy and nginx in TCP mode: C-STORE of 520 KB, set-up of associations, memory.

The upstream is an SCP that throws away, the load an SCU that stores as fast as it is answered; both are ours
and processes of their own. The product runs as `failover run` has it; the CPU of all its processes counts.
HAProxy and nginx pass bytes on; the relay knows messages. It makes no copy on the way here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.measure import cpu_s, output_of, resident_bytes
from tests.bench.report import Row, Suite
from tests.bench.web import Contestant, program
from tests.peers.process import find_program, free_port
from tests.system.site import Site

SIZE = 520 * 1024
ENDS = [sys.executable, "-m", "tests.bench.dicom_ends"]


@contextmanager
def haproxy(folder: Path, upstream: int) -> Iterator[Contestant]:
    port = free_port()
    configuration = folder / "haproxy-tcp.cfg"
    configuration.write_text(
        f"""global
  nbthread 1
  log stdout format raw local0
defaults
  mode tcp
  log global
  option tcplog
  timeout connect 5s
  timeout client 600s
  timeout server 600s
listen dicom
  bind 127.0.0.1:{port}
  server primary 127.0.0.1:{upstream} check inter 5s
"""
    )
    with program([str(find_program("haproxy")), "-db", "-f", str(configuration)], port) as pid:
        yield Contestant("haproxy", port, pid)


@contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[Contestant]:
    port = free_port()
    configuration = folder / "nginx-stream.conf"
    configuration.write_text(
        f"""load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 1; pid {folder}/nginx-stream.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{upstream}; tcp_nodelay on; }} }}
"""
    )
    with program([str(find_program("nginx")), "-c", str(configuration), "-p", str(folder)], port) as pid:
        yield Contestant("nginx", port, pid)


@contextmanager
def product(upstream: int) -> Iterator[Contestant]:
    primary = {"dicom": {"host": "127.0.0.1", "port": upstream, "ae_title": "SINK"}}
    blocks = {"health": {"search": "false", "frame": "false"}, "replication": {"tee": "false"}}
    with Site(primary, **blocks) as site:
        yield Contestant("failover", site.dicom_port, site.supervisor_pid)


def ends(*arguments: object) -> dict[str, float]:
    found: dict[str, float] = json.loads(output_of([*ENDS, *map(str, arguments)]))
    return found


def run(quick: bool) -> Suite:
    seconds, rounds = (1, 1) if quick else (2, 3)
    rows: list[Row] = []
    notes: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-dicom-")))
        upstream = free_port()
        sink = stack.enter_context(program([*ENDS, "sink", str(upstream)], upstream))
        contestants = [
            Contestant("direct", upstream, sink),
            stack.enter_context(haproxy(folder, upstream)),
            stack.enter_context(nginx(folder, upstream)),
            stack.enter_context(product(upstream)),
        ]
        for associations in (1, 4):
            work = f"C-STORE 520 KB, {associations} association{'s' if associations > 1 else ''}"
            rate = Row(work, "MB/s", "haproxy", less_is_better=False)
            cost = Row(work, "s CPU/GB", "haproxy")
            rows += [rate, cost]
            for _ in range(rounds):
                for contestant in contestants:
                    before = cpu_s(contestant.pid)
                    seen = ends("load", contestant.port, "PACS", associations, seconds, SIZE)
                    gigabytes = seen["stores"] * SIZE / 1e9
                    rate.add(contestant.name, 1e3 * gigabytes / seen["seconds"])
                    if contestant.name != "direct":
                        cost.add(contestant.name, (cpu_s(contestant.pid) - before) / gigabytes)
                    if seen["failed"]:
                        notes.append(f"{contestant.name}, {work}: {seen['failed']:g} failed")
        setup = Row("association with one C-ECHO", "ms CPU", "haproxy")
        rows.append(setup)
        for _ in range(rounds):
            for contestant in contestants[1:]:
                before = cpu_s(contestant.pid)
                seen = ends("open", contestant.port, "PACS", seconds)
                setup.add(contestant.name, 1e3 * (cpu_s(contestant.pid) - before) / seen["associations"])
        memory = Row("after all that, all processes", "MB resident (PSS)", "haproxy")
        rows.append(memory)
        for contestant in contestants[1:]:
            memory.add(contestant.name, resident_bytes(contestant.pid) / 1e6)
    return Suite("dicom", rows, notes)
