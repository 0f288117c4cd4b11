"""Memory of the router: at 256 connections, and while 2 GB come down or go up as one store.

The origin makes its bytes up and keeps none, so that all memory seen is the router's. Peaks, looked at ten
times a second; less is better, and the distance from idle is what counts.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil

from tests.bench.report import Row, Suite
from tests.system.site import Site

_BLOCK = bytes(2**20)
_STORED = b'{"00081199":{"vr":"SQ","Value":[{"00081155":{"vr":"UI","Value":["1.2.3"]}}]}}'


class _Origin(BaseHTTPRequestHandler):
    """`/big/N` is an answer of N blocks; everything else is small; bodies are read and dropped."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        if not self.path.startswith("/big/"):
            self._answer(b"[]")
            return
        blocks = int(self.path.rpartition("/")[2])
        self.send_response(200)
        self.send_header("Content-Length", str(blocks * len(_BLOCK)))
        self.end_headers()
        for _ in range(blocks):
            self.wfile.write(_BLOCK)

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, len(_BLOCK))))
        self._answer(_STORED)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a router that has closed: callers that vanish are what some benchmarks are about."""


@contextmanager
def origin() -> Iterator[int]:
    """Run the origin; yield its port."""
    server = _Server(("127.0.0.1", 0), _Origin)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _peak_mb(router: psutil.Process, work: Callable[[], None]) -> float:
    """Do `work`; return the most that the router took meanwhile."""
    over = threading.Event()
    seen = [0.0]

    def look() -> None:
        while not over.wait(0.1):
            seen.append(router.memory_full_info().pss / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        work()
    finally:
        over.set()
        thread.join()
    return max(*seen, router.memory_full_info().pss / 1e6)


def _connections(port: int) -> None:
    callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(256)]
    for _ in range(20):
        for caller in callers:
            caller.sendall(b"GET /small HTTP/1.1\r\nHost: a\r\nAccept: application/dicom+json\r\n\r\n")
        for caller in callers:
            if not caller.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError("a caller was not answered")
    for caller in callers:
        caller.close()


def _download(port: int, blocks: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/big/{blocks}")
    answer = connection.getresponse()
    buffer, total = bytearray(2**20), 0
    while count := answer.readinto(buffer):
        total += count
    connection.close()
    if total != blocks * len(_BLOCK):
        raise RuntimeError(f"{total} bytes came")


def _store(port: int, blocks: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.putrequest("POST", "/dicom-web/studies")
    connection.putheader("Content-Length", str(blocks * len(_BLOCK)))
    connection.putheader("Content-Type", 'multipart/related; type="application/dicom"; boundary=x')
    connection.endheaders()
    for _ in range(blocks):
        connection.send(_BLOCK)
    answer = connection.getresponse()
    if (answer.status, answer.read()) != (200, _STORED):
        raise RuntimeError(f"the store was answered {answer.status}")
    connection.close()


def run(quick: bool) -> Suite:
    blocks = 64 if quick else 2048
    with origin() as port, Site({"web": {"url": f"http://127.0.0.1:{port}"}}) as site:
        router = psutil.Process(site.children()["router"]["pid"])
        works: list[tuple[str, Callable[[], None]]] = [
            ("idle", lambda: None),
            ("256 connections", lambda: _connections(site.web_port)),
            (f"{blocks} MiB download", lambda: _download(site.web_port, blocks)),
            (f"{blocks} MiB STOW", lambda: _store(site.web_port, blocks)),
        ]
        rows = []
        for name, work in works:
            row = Row(f"router, {name}", "MB resident (PSS), peak", "failover")
            row.add("failover", _peak_mb(router, work))
            rows.append(row)
    return Suite("memory", rows)
