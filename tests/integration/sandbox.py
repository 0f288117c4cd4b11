"""Runs a command as deploy/systemd/failover.service would: `python sandbox.py UNIT COMMAND…`.

The unit's system call filter (by libseccomp, of the names that systemd-analyze gives), no new privileges, no
memory both writable and executable. What systemd does with mounts and users is not done here.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_ALLOW, _EPERM = 0x7FFF0000, 0x00050001
_PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN = 38, 65, 1


def system_calls(*groups: str) -> set[str]:
    """Return the names in systemd's groups, such as @system-service."""
    found: set[str] = set()
    for group in groups:
        command = ["systemd-analyze", "--no-pager", "syscall-filter", group]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for line in text.splitlines()[1:]:
            word = line.strip()
            if word.startswith("@"):
                found |= system_calls(word)
            elif word and not word.startswith("#"):
                found.add(word)
    return found


def filters(unit: Path) -> set[str]:
    """Return the system calls that `unit` allows."""
    allowed: set[str] = system_calls("@default")  # systemd always adds it
    for line in unit.read_text(encoding="utf-8").splitlines():
        if line.startswith("SystemCallFilter="):
            words = line.partition("=")[2]
            if words.startswith("~"):
                allowed -= system_calls(*words[1:].split())
            else:
                allowed |= system_calls(*words.split())
    return allowed | {"execve"}


def shut(allowed: set[str]) -> None:
    """Let this process and what it becomes make no other system calls. Raises OSError."""
    libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    seccomp.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
    seccomp.seccomp_load.argtypes = [ctypes.c_void_p]
    context = seccomp.seccomp_init(ctypes.c_uint32(_EPERM))
    for name in allowed:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number != -1:
            seccomp.seccomp_rule_add(context, _ALLOW, number, 0)
    libc.prctl(_PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)  # older kernels do not have it
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if seccomp.seccomp_load(context) != 0:
        raise OSError("the filter was not loaded")


if __name__ == "__main__":
    os.umask(0o077)
    shut(filters(Path(sys.argv[1])))
    os.execv(sys.argv[2], sys.argv[2:])
