"""HAProxy and nginx in TCP mode in front of the same DICOM primary and backup, set up for failover.

HAProxy checks by a real A-ASSOCIATE-RQ and wants an A-ASSOCIATE-AC, as fast as our fast probes; it closes the
sessions of what it marks down. nginx has no check in its free version: it leaves what refuses connections.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from failover.dicom.encoding import encode
from failover.dicom.negotiation import IMPLEMENTATION_CLASS_UID, VERIFICATION, propose
from failover.dicom.units import AssociateRq, UserInformation, padded_ae
from tests.bench.outage.dicom_stage import PRIMARY
from tests.bench.outage.stage import AE_TITLE
from tests.bench.web import nginx_user, program
from tests.peers.process import find_program, free_port


def _echo_association() -> str:
    user = UserInformation(65536, IMPLEMENTATION_CLASS_UID, "HAPROXY")
    rq = AssociateRq(padded_ae(AE_TITLE), padded_ae("HAPROXY"), propose([VERIFICATION]), user=user)
    return encode(rq).hex()


@contextmanager
def haproxy(folder: Path, backup: int) -> Iterator[int]:
    port = free_port()
    (folder / "haproxy-dicom.cfg").write_text(
        f"""global
  nbthread 1
defaults
  mode tcp
  retries 3
  option redispatch 1
  timeout connect 400ms
  timeout check 3s
  timeout client 600s
  timeout server 600s
listen dicom
  bind 127.0.0.1:{port} backlog 4096
  option tcp-check
  tcp-check connect
  tcp-check send-binary {_echo_association()}
  tcp-check expect binary 02
  tcp-check send-binary 07000000000400000000
  default-server inter 1s fastinter 200ms rise 3 fall 2 on-marked-down shutdown-sessions
  server primary {PRIMARY} check
  server backup 127.0.0.1:{backup} check backup
"""
    )
    with program([str(find_program("haproxy")), "-db", "-f", str(folder / "haproxy-dicom.cfg")], port):
        yield port


@contextmanager
def nginx(folder: Path, backup: int) -> Iterator[int]:
    port = free_port()
    configuration = folder / "nginx-dicom.conf"
    configuration.write_text(
        f"""{nginx_user()}load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 1; pid {folder}/nginx-dicom.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
stream {{
  upstream both {{ server {PRIMARY} max_fails=2 fail_timeout=5s; server 127.0.0.1:{backup} backup; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass both; tcp_nodelay on;
    proxy_connect_timeout 1s; proxy_timeout 600s; proxy_next_upstream on; }} }}
"""
    )
    with program([str(find_program("nginx")), "-c", str(configuration), "-p", str(folder)], port):
        yield port
