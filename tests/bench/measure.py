"""CPU and memory of a process with all its children, read from /proc; running a command to its end."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import psutil


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_s(pid: int) -> float:
    """Return the CPU seconds (user and system) of `pid` and its living children."""
    total = 0.0
    for member in family(pid):
        times = member.cpu_times()
        total += times.user + times.system
    return total


def resident_bytes(pid: int) -> int:
    """Return the proportional set size of `pid` and its children, so that shared pages count once."""
    return sum(member.memory_full_info().pss for member in family(pid))


def output_of(command: Sequence[str], *, timeout_s: float = 300) -> str:
    run = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {run.returncode}: {run.stderr[-500:]}")
    return run.stdout
