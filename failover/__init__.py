"""Keeps radiology working when the PACS fails: router, archive and replicator in one package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pacs-failover")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
