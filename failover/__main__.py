"""`python -m failover` is the command `failover`."""

from __future__ import annotations

from failover.cli import main

main()
