"""The configuration: `schema` types and documents it, `load` reads a file and tells all problems."""

from __future__ import annotations

from failover.config.load import load
from failover.config.schema import Configuration

__all__ = ["Configuration", "load"]
