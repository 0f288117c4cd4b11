"""`make test-compiled`: the tests of the web path and of the relay, and the fuzzing, on the compiled modules,
in a copy.

    python -m tests.compiled [--keep FOLDER]

The copy is made anew in a temporary folder (or in FOLDER, which stays), so that no compiled module is left
beside the sources. Needs what setup.py needs: a C compiler and Python's headers.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "tests/test_compiled.py", "tests/unit/http", "tests/unit/proxy", "tests/unit/health", "tests/properties",
    "tests/unit/dicom", "tests/unit/relay",
    "tests/integration/test_acceptor_malformed.py", "tests/integration/test_malformed_dicom.py",
    "tests/integration/test_relay_dcmtk.py", "tests/integration/test_relay_pynetdicom.py",
    "tests/integration/test_tls_dicom.py",
    "tests/integration/test_proxy_copies.py", "tests/integration/test_proxy_doors.py",
    "tests/integration/proxy/test_compressed.py", "tests/integration/proxy/test_failover.py",
    "tests/integration/proxy/test_framing.py", "tests/integration/proxy/test_hedge.py",
    "tests/integration/proxy/test_hostile.py", "tests/integration/proxy/test_limits.py",
    "tests/integration/proxy/test_pipelining.py", "tests/integration/proxy/test_resume.py",
    "tests/integration/proxy/test_splice.py", "tests/integration/proxy/test_stores.py",
    "tests/integration/proxy/test_strict.py", "tests/integration/proxy/test_tls.py",
    "tests/integration/proxy/test_tunnels.py", "tests/integration/test_live_changes.py",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compiled", description=__doc__)
    parser.add_argument("--keep", type=Path, help="where the copy is made, and left")
    keep: Path | None = parser.parse_args().keep
    if keep is not None:
        return _run(keep)
    with tempfile.TemporaryDirectory(prefix="failover-compiled-") as folder:
        return _run(Path(folder))


def _run(folder: Path) -> int:
    leave_out = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("failover", "tests", "docs", "deploy", "grafana"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out, dirs_exist_ok=True)
    for name in ("setup.py", "pyproject.toml", "Makefile", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder / name)
    steps = (
        ["setup.py", "compile"],
        ["-c", "import failover.compiled as c, sys; sys.exit(not c.is_compiled())"],
        ["-m", "pytest", *TESTS],
        ["-m", "tests.fuzz", "--seconds", "10"],
    )
    for step in steps:
        code = subprocess.run([sys.executable, *step], cwd=folder, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
