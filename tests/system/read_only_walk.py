"""A whole site whose `state_dir` became read-only; `test_read_only_state` runs it on its own mount."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.peers.process import wait_for
from tests.system.site import Site, request


class _Pacs(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"pacs")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""


def walk(state_dir: Path) -> None:
    pacs = ThreadingHTTPServer(("127.0.0.1", 0), _Pacs)
    threading.Thread(target=pacs.serve_forever, daemon=True).start()
    primary: dict[str, Any] = {
        "web": {"url": f"http://127.0.0.1:{pacs.server_port}"},
        "dicomweb": {"path": None},
    }
    site = Site(primary)
    site.configuration["state_dir"] = str(state_dir)
    with site:
        site.wait_until(lambda s: s["troubles"] == [], "nothing is the matter")
    subprocess.run(["mount", "-o", "remount,ro", str(state_dir)], check=True)
    with site:
        answer = request(site.web_port, "GET", "/")
        assert (answer.status, answer.body, answer.upstream) == (200, b"pacs", "primary")
        site.wait_until(
            lambda s: [one["code"] for one in s["troubles"]] == ["state_not_written"],
            "it says so",
            timeout_s=60,
        )
        site.wait_until(lambda s: s["replication"]["lag_objects"] == 0, "the archive is heard", timeout_s=60)
        assert "state not persisted" in " ".join(site.cli("status").stdout.split())
        answer = site.admin("PUT", "/api/route", {"mode": "forced", "upstream": "backup", "reason": "a try"})
        assert answer.status == 200, answer.body
        site.wait_until(lambda s: s["services"]["web"]["active"] == "backup", "it still moves", timeout_s=60)
        codes = [event["code"] for event in site.admin("GET", "/api/events").json()]
        assert {"state_not_written", "state_not_persisted"} <= set(codes), codes
        subprocess.run(["mount", "-o", "remount,rw", str(state_dir)], check=True)
        site.wait_until(lambda s: s["troubles"] == [], "it is written later", timeout_s=60)
        wait_for(
            lambda: "forced" in (state_dir / "route.json").read_text(), "the state is on disk", timeout_s=60
        )
    pacs.shutdown()


if __name__ == "__main__":
    walk(Path(sys.argv[1]))
