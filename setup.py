"""Compiles the modules that each web request and each PDU passes, for who wants it.

Everything else is in pyproject.toml.

    python setup.py compile [FOLDER]                       beside the sources (make compile), or below FOLDER
    FAILOVER_COMPILE=1 pip install --no-build-isolation .  as part of an installation

It needs mypy (mypyc is part of it), a C compiler and Python's headers. Without either command nothing is
compiled and the same modules run as they are (docs/adr/0007).
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
# They call each other for every request and PDU: a border between compiled and plain costs what it saves.
MODULES = (
    "dicom.acceptor", "dicom.association", "dicom.connection", "dicom.decoding", "dicom.derived",
    "dicom.dimse", "dicom.encoding", "dicom.exchange", "dicom.inbox", "dicom.messages",
    "dicom.negotiation", "dicom.pdu", "dicom.reading", "dicom.requestor", "dicom.sockets", "dicom.units",
    "health.passive", "health.slowness", "http.framing", "http.head", "http.known", "proxy.access",
    "proxy.answer", "proxy.answering", "proxy.attempt", "proxy.caller", "proxy.classify",
    "proxy.connection", "proxy.exchange", "proxy.gate", "proxy.hedge", "proxy.hedging", "proxy.hold",
    "proxy.leads", "proxy.phase", "proxy.pool", "proxy.response", "proxy.retry", "proxy.rewrite",
    "proxy.server", "proxy.side", "proxy.stage", "proxy.upstream", "proxy.upstreams", "relay.carrying",
    "relay.flight", "relay.legs", "relay.matches", "relay.object_statuses", "relay.offer",
    "relay.operations", "relay.retrieve", "relay.search", "relay.server", "relay.serving", "relay.session",
    "relay.store", "routing.board", "routing.selection", "tallies",
)  # fmt: skip


def sources() -> list[Path]:
    return [ROOT / "failover" / f"{module.replace('.', '/')}.py" for module in MODULES]


def extensions(work: Path) -> list[Extension]:
    """Translate the modules to C, below `work`."""
    from mypyc.build import mypycify

    os.environ["MYPYPATH"] = str(ROOT)
    options = [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={work / 'mypy'}"]
    found: list[Extension] = mypycify(
        options + [str(source) for source in sources()], debug_level="0", target_dir=str(work)
    )
    return found


def compile_into(folder: Path) -> None:
    """Leave the compiled modules below `folder`, where Python finds them before the sources beside them."""
    with tempfile.TemporaryDirectory(prefix="failover-compile-") as work:
        os.chdir(work)  # an old setuptools must not read our pyproject.toml: it knows no SPDX licence
        setup(
            name="pacs-failover",
            ext_modules=extensions(Path()),
            script_args=["-q", "build_ext", f"--build-lib={folder}", f"--build-temp={work}"],
        )


if sys.argv[1:2] == ["compile"]:
    compile_into(Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else ROOT)
elif os.environ.get("FAILOVER_COMPILE") == "1":
    setup(ext_modules=extensions(Path("build/compile")))  # setuptools wants it relative
elif __name__ == "__main__":
    setup()
