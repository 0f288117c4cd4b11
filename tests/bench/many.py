"""An index of many studies, made through the archive's own writer: rows as a store makes them, but with the
length and digest of one content. All their files are links to it, because what is measured on it are
searches; the scrubber, which reads files meanwhile, finds them sound.

    python -m tests.bench.many DATA_DIR STUDIES
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from failover.archive.arrival import Arrived, Examined, examine
from failover.archive.index import Index
from failover.archive.paths import object_path
from failover.archive.rows import NewInstance, add_instance
from failover.archive.writer import Transaction
from failover.clock import SystemClock
from failover.model import DebtState, Origin
from tests.bench.archive_load import Template

_AT_ONCE: Final = 1000
_MOST_LINKS: Final = 30_000  # ext4 gives a file 65,000 names


def make(data_dir: Path, studies: int) -> None:
    """Add studies 0 to `studies` of one instance each to the index in `data_dir`; no archive runs on it."""
    index, template, arrived_at = Index(data_dir, has_primary=False), Template(32), SystemClock().wall()
    content = template.part10(0, 0)
    digest = _examined(content).digest

    def add(first: int, transaction: Transaction) -> None:
        for study in range(first, min(studies, first + _AT_ONCE)):
            made = _instance(template.part10(study, study), arrived_at.timestamp())
            add_instance(transaction, replace(made, size_bytes=len(content), digest=digest))

    try:
        for first in range(0, studies, _AT_ONCE):
            index.write_now(partial(add, first))
        _link_files(index, data_dir, content)
    finally:
        index.close()


def _instance(part10: bytes, arrived_at: float) -> NewInstance:
    it = _examined(part10)
    return NewInstance(
        it.described, it.meta.transfer_syntax_uid, object_path(it.described.key.sop_instance_uid, it.digest),
        it.size_bytes, it.meta.data_set_offset, it.pixel_offset, it.pixel_length, it.digest,
        Origin.CALLER, DebtState.NONE, arrived_at,
    )  # fmt: skip


def _examined(part10: bytes) -> Examined:
    return examine(Arrived(Path(), [part10]))


def _link_files(index: Index, data_dir: Path, content: bytes) -> None:
    for number, (path,) in enumerate(index.reader().execute("SELECT path FROM instances")):
        file = data_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if number % _MOST_LINKS == 0:
            file.write_bytes(content)
            known = file
        else:
            os.link(known, file)


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
