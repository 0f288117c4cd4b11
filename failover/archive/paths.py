"""Where things lie below the archive's `data_dir`. Names come from hashes, never from a UID or a name. Pure.

index.sqlite        instances, studies, ledger, quarantine: one SQLite file (with -wal and -shm)
objects/abc/….dcm   Part 10 files, by SHA-256 of SOP instance UID and content; 4096 folders
journal-0, -1       what was stored last, until file, folder and row are synced: `journal`
metadata.sqlite     finished DICOM JSON of objects, kept; can be made again
incoming/           objects that arrive and are not yet durable; emptied at each start
handover/           files that other processes of ours hand over (`take`)
quarantine/         what came under a known SOP instance UID with other content
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

INDEX: Final = "index.sqlite"
OBJECTS: Final = "objects"
INCOMING: Final = "incoming"
HANDOVER: Final = "handover"
QUARANTINE: Final = "quarantine"


def object_path(sop_instance_uid: str, digest: bytes) -> str:
    """Return the path of an object relative to `data_dir`.

    `digest` is that of its content: another content under the same UID lies elsewhere, so a replacement
    never writes over what is being read.
    """
    name = _hash(sop_instance_uid, digest)
    return f"{OBJECTS}/{name[:3]}/{name[3:]}.dcm"


def quarantine_path(sop_instance_uid: str, digest: bytes) -> str:
    """Return the path of a quarantined object relative to `data_dir`, each time the same."""
    return f"{QUARANTINE}/{_hash(sop_instance_uid, digest)}.dcm"


def is_handover(path: Path, data_dir: Path) -> bool:
    """Return whether `path`, resolved by the caller, is a file directly or deeper below `handover/`."""
    folder = data_dir / HANDOVER
    return path != folder and path.is_relative_to(folder)


def _hash(sop_instance_uid: str, digest: bytes) -> str:
    return hashlib.sha256(sop_instance_uid.encode("ascii", "replace") + b"\0" + digest).hexdigest()[:40]
