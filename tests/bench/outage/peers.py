"""HAProxy, nginx and Caddy in front of the same primary and the same backup, each set up for failover.

HAProxy twice: as its manual's first pages have it, and tuned (checks as fast as ours, retries on everything
retryable, redispatch, passive observation).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.outage.stage import PORT, THEIRS
from tests.bench.web import nginx_user, program
from tests.peers.process import find_program, free_port

PRIMARY: Final = f"{THEIRS}:{PORT}"


@contextmanager
def haproxy(folder: Path, backup: int, *, tuned: bool) -> Iterator[int]:
    port = free_port()
    if tuned:
        defaults = "  retries 3\n  option redispatch 1\n  retry-on all-retryable-errors\n"
        check = (
            "check inter 250ms fastinter 100ms rise 3 fall 2 observe layer7 error-limit 10 on-error mark-down"
        )
        timeouts = "  timeout connect 400ms\n  timeout check 400ms\n  timeout server 2s\n"
    else:
        defaults = "  retries 3\n  option redispatch\n"
        check = "check inter 2s rise 3 fall 3"
        timeouts = "  timeout connect 5s\n  timeout server 60s\n"
    (folder / "haproxy.cfg").write_text(
        f"""global
  nbthread 1
  tune.bufsize 65536
defaults
  mode http
  timeout client 60s
{timeouts}{defaults}
frontend f
  bind 127.0.0.1:{port} backlog 4096
  default_backend b
backend b
  option httpchk GET /
  server primary {PRIMARY} {check}
  server backup 127.0.0.1:{backup} backup
"""
    )
    with program([str(find_program("haproxy")), "-db", "-f", str(folder / "haproxy.cfg")], port):
        yield port


@contextmanager
def nginx(folder: Path, backup: int) -> Iterator[int]:
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""{nginx_user()}daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; client_max_body_size 0;
  client_body_temp_path {folder}/n1; proxy_temp_path {folder}/n2; fastcgi_temp_path {folder}/n3;
  uwsgi_temp_path {folder}/n4; scgi_temp_path {folder}/n5;
  upstream both {{ server {PRIMARY} max_fails=2 fail_timeout=5s;
    server 127.0.0.1:{backup} backup; keepalive 64; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://both; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_connect_timeout 1s; proxy_read_timeout 5s;
      proxy_next_upstream error timeout http_500 http_502 http_503 http_504; }} }} }}
"""
    )
    with program([str(find_program("nginx")), "-c", str(configuration), "-p", str(folder)], port):
        yield port


@contextmanager
def caddy(folder: Path, backup: int) -> Iterator[int]:
    port = free_port()
    (folder / "Caddyfile").write_text(
        f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  reverse_proxy {PRIMARY} 127.0.0.1:{backup} {{
    lb_policy first
    lb_try_duration 5s
    lb_try_interval 100ms
    fail_duration 5s
    max_fails 2
    health_uri /
    health_interval 1s
    health_timeout 400ms
    transport http {{
      dial_timeout 1s
      response_header_timeout 5s
    }}
  }}
}}
"""
    )
    command = [
        str(find_program("caddy")),
        "run",
        "--config",
        str(folder / "Caddyfile"),
        "--adapter",
        "caddyfile",
    ]
    with program(command, port, environment={"HOME": str(folder), "XDG_DATA_HOME": str(folder)}):
        yield port


def have(name: str) -> bool:
    return subprocess.run(["which", name], capture_output=True, check=False).returncode == 0
