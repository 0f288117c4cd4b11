"""One instance as the archive holds it, read from a row of the index."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from failover.model import DebtState, InstanceKey, Origin

_FROM_ALL_LEVELS: Final = (
    " FROM instances i JOIN series s ON s.id = i.series JOIN studies t ON t.id = i.study WHERE"
)
# Both end with WHERE; the rows of the second one are for `as_held`.
SELECT_ROW: Final = f"SELECT i.*, t.uid AS study_uid, s.uid AS series_uid{_FROM_ALL_LEVELS}"
SELECT_HELD: Final = (
    "SELECT t.uid, s.uid, i.uid, i.sop_class, i.transfer_syntax, i.path, i.bytes, i.data_set_offset,"
    f" i.pixel_offset, i.pixel_length, i.digest, i.origin, i.state, i.json{_FROM_ALL_LEVELS}"
)
# A call of an Enum costs as much as the rest of a row.
_ORIGINS: Final = {origin.value: origin for origin in Origin}
_STATES: Final = {state.value: state for state in DebtState}


@dataclass(frozen=True, slots=True)
class Held:
    """One instance as the archive holds it. Offsets are from the start of the file.

    `pixel_offset` is where the value of Pixel Data begins: its bytes when `pixel_length` is known, the item
    tag of the basic offset table when it is None (encapsulated). None: no pixel data, or a deflated data set.
    `json` is the finished DICOM JSON of the instance level, with the base-URL mark (see `Match.template`).
    """

    key: InstanceKey
    sop_class_uid: str
    transfer_syntax_uid: str
    file: str  # where it lies; `path` as a path
    size_bytes: int
    data_set_offset: int
    pixel_offset: int | None
    pixel_length: int | None
    digest: bytes
    origin: Origin
    state: DebtState
    json: str

    @property
    def path(self) -> Path:
        return Path(self.file)

    def attributes(self) -> dict[str, dict[str, Any]]:
        """Return the DICOM JSON of the instance level: rows, columns, number of frames, instance number …"""
        found: dict[str, dict[str, Any]] = json.loads(self.json)
        return found


def as_held(folder: str, row: tuple[Any, ...]) -> Held:
    """Return a row of `SELECT_HELD`; its file lies below `folder`."""
    (
        study, series, instance, sop_class, syntax, path, size, data_set, pixels, length, digest, origin,
        state, text,
    ) = row  # fmt: skip
    return Held(
        InstanceKey(study, series, instance), sop_class, syntax, f"{folder}/{path}", size, data_set,
        pixels, length, digest, _ORIGINS[origin], _STATES[state], text,
    )  # fmt: skip
