"""CPU and memory of a process with all its children, read from /proc; running a command to its end."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_s(pid: int) -> float:
    """Return the CPU seconds (user and system) of `pid` and its living children.

    From the scheduler, in nanoseconds: the ticks of /proc/PID/stat are 10 ms, too coarse for short rounds.
    """
    total_ns = 0
    for member in family(pid):
        for thread in Path(f"/proc/{member.pid}/task").iterdir():
            with suppress(OSError):  # it ended meanwhile
                total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def resident_bytes(pid: int) -> int:
    """Return the proportional set size of `pid` and its children, so that shared pages count once."""
    return sum(member.memory_full_info().pss for member in family(pid))


def output_of(command: Sequence[str], *, timeout_s: float = 300) -> str:
    run = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {run.returncode}: {run.stderr[-500:]}")
    return run.stdout
