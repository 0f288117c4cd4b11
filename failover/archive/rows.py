"""What changes in the tables when an instance comes, is replaced or goes.

Runs within a transaction of the writer thread and knows nothing of files or time. Counts and finished JSON of
the levels above follow at the end of the transaction: `summaries`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from failover.archive import summaries
from failover.archive.attributes import Attributes, Described
from failover.archive.matches import BASE_URL_MARK, as_text, dump
from failover.archive.writer import Counted, Transaction
from failover.dicom.fuzzy_names import name_words
from failover.dicom.query_keys import comparable_value, normal_name
from failover.model import DebtState, Origin


@dataclass(frozen=True, slots=True)
class NewInstance:
    """An instance whose file is in place, or about to be, at `path` (relative to data_dir)."""

    described: Described
    transfer_syntax_uid: str
    path: str
    size_bytes: int
    data_set_offset: int
    pixel_offset: int | None
    pixel_length: int | None
    digest: bytes
    origin: Origin
    state: DebtState
    arrived_at: float

    @property
    def from_primary(self) -> bool:
        return self.origin in (Origin.REPLICATED, Origin.COPIED)


def add_instance(transaction: Transaction, new: NewInstance) -> None:
    """Insert an instance whose SOP instance UID is not there, with its series and study if they are new."""
    connection = transaction.connection
    study = _study(transaction, new)
    series = _series(transaction, study, new)
    attributes = _instance_attributes(new)
    connection.execute(
        "INSERT INTO instances (uid, study, series, sop_class, number, transfer_syntax, path, bytes,"
        " data_set_offset, pixel_offset, pixel_length, digest, patient_id, origin, state, arrived_at,"
        " proven_at, json) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            new.described.key.sop_instance_uid, study.id, series.id, new.described.sop_class_uid,
            _number(attributes, "00200013"), new.transfer_syntax_uid, new.path, new.size_bytes,
            new.data_set_offset, new.pixel_offset, new.pixel_length, new.digest,
            text(new.described.study, "00100020"), new.origin.value, new.state.value, new.arrived_at,
            # What was fetched from the primary was there: a proof with a date (DESIGN 4.4).
            new.arrived_at if new.origin is Origin.REPLICATED else None,
            dump(attributes),
        ),
    )  # fmt: skip
    transaction.counted.append(Counted(study.id, series.id, 1, new.size_bytes, new.arrived_at))


def remove_instance(transaction: Transaction, row: sqlite3.Row) -> None:
    """Delete the row of an instance, and its series and study with the last one. The file is the caller's."""
    transaction.connection.execute("DELETE FROM instances WHERE id = ?", (row["id"],))
    counts = 0 if row["hidden"] else -1
    transaction.counted.append(Counted(row["study"], row["series"], counts, counts * row["bytes"]))
    summaries.look_anew(transaction, row["study"], row["series"])


def hide_instance(transaction: Transaction, row: sqlite3.Row, *, hidden: bool) -> None:
    """Take an instance out of all answers, or show it again; its file and its debt stay."""
    if bool(row["hidden"]) == hidden:
        return
    transaction.connection.execute("UPDATE instances SET hidden = ? WHERE id = ?", (int(hidden), row["id"]))
    sign = -1 if hidden else 1
    transaction.counted.append(Counted(row["study"], row["series"], sign, sign * row["bytes"]))
    summaries.look_anew(transaction, row["study"], row["series"])


@dataclass(frozen=True, slots=True)
class File:
    """The file that an instance's row names; see `tables`."""

    transfer_syntax_uid: str
    path: str
    size_bytes: int
    data_set_offset: int
    pixel_offset: int | None
    pixel_length: int | None
    digest: bytes


def change_file(transaction: Transaction, row: sqlite3.Row, new: File) -> None:
    """Let an instance's row name another file of the same content; the old one is the caller's."""
    attributes = json.loads(row["json"]) | {"00083002": {"vr": "UI", "Value": [new.transfer_syntax_uid]}}
    transaction.connection.execute(
        "UPDATE instances SET transfer_syntax = ?, path = ?, bytes = ?, data_set_offset = ?,"
        " pixel_offset = ?, pixel_length = ?, digest = ?, json = ? WHERE id = ?",
        (new.transfer_syntax_uid, new.path, new.size_bytes, new.data_set_offset, new.pixel_offset,
         new.pixel_length, new.digest, dump(attributes), row["id"]),
    )  # fmt: skip
    if not row["hidden"]:
        more = new.size_bytes - row["bytes"]
        transaction.counted.append(Counted(row["study"], row["series"], 0, more))


# -- one level each ---------------------------------------------------------------------------------


def _study(transaction: Transaction, new: NewInstance) -> summaries.Study:
    connection, described = transaction.connection, new.described
    study = summaries.study(transaction, described.key.study_instance_uid)
    if study is None:
        columns = _study_columns(described.study)
        cursor = connection.execute(
            f"INSERT INTO studies (uid, {', '.join(columns)}, from_primary, series, instances, bytes,"
            f" last_arrival, attributes, json) VALUES (?, {', '.join('?' * len(columns))},"
            " ?, 0, 0, 0, ?, ?, '')",
            (
                described.key.study_instance_uid,
                *columns.values(),
                int(new.from_primary),
                new.arrived_at,
                dump(described.study),
            ),
        )
        assert cursor.lastrowid is not None
        transaction.described.add(cursor.lastrowid)
        return summaries.new_study(
            transaction,
            cursor.lastrowid,
            described.key.study_instance_uid,
            described.study,
            from_primary=new.from_primary,
        )
    merged = _merge(study.attributes, described.study, held_is_primary=study.from_primary, new=new)
    if merged != study.attributes or (new.from_primary and not study.from_primary):
        columns = _study_columns(merged)
        connection.execute(
            f"UPDATE studies SET {', '.join(f'{c} = ?' for c in columns)}, attributes = ?,"
            " from_primary = max(from_primary, ?) WHERE id = ?",
            (*columns.values(), dump(merged), int(new.from_primary), study.id),
        )
        transaction.described.add(study.id)
        study.change(merged, from_primary=study.from_primary or new.from_primary)
    return study


def _series(transaction: Transaction, study: summaries.Study, new: NewInstance) -> summaries.Series:
    connection, described = transaction.connection, new.described
    uid = described.key.series_instance_uid
    series = summaries.series(transaction, study, uid)
    attributes = dict(described.series)
    # Modality is type 1; a summary without one breaks lists of studies (OHIF). OT: PS3.3 C.7.3.1.1.1.
    attributes.setdefault("00080060", {"vr": "CS", "Value": ["OT"]})
    if series is None:
        columns = _series_columns(attributes)
        cursor = connection.execute(
            f"INSERT INTO series (uid, study, {', '.join(columns)}, instances, bytes, attributes, json)"
            f" VALUES (?, ?, {', '.join('?' * len(columns))}, 0, 0, ?, '')",
            (uid, study.id, *columns.values(), dump(attributes)),
        )
        assert cursor.lastrowid is not None
        return summaries.new_series(transaction, cursor.lastrowid, study, uid, attributes)
    held = series.attributes
    merged = {**held, **attributes} if new.from_primary else {**attributes, **held}
    if merged != held:
        columns = _series_columns(merged)
        connection.execute(
            f"UPDATE series SET {', '.join(f'{c} = ?' for c in columns)}, attributes = ? WHERE id = ?",
            (*columns.values(), dump(merged), series.id),
        )
        series.change(merged)
        study.reshape()
    return series


def _merge(held: Attributes, new_ones: Attributes, *, held_is_primary: bool, new: NewInstance) -> Attributes:
    if new.from_primary:
        # DESIGN 4.4: the primary is right about patient and study.
        return {**held, **new_ones}
    if held_is_primary or text(held, "00100020") != text(new_ones, "00100020"):
        return held
    return {**new_ones, **held}  # a caller's later instance fills gaps, it corrects nothing


# -- columns ----------------------------------------------------------------------------------------


def text(attributes: Mapping[str, Mapping[str, Any]], tag: str) -> str:
    """Return the first value of `tag` as text; "" where there is none."""
    held = attributes.get(tag, {}).get("Value") or []
    return as_text(held[0]) if held else ""


def _instance_attributes(new: NewInstance) -> dict[str, Any]:
    key = new.described.key
    url = (
        f"{BASE_URL_MARK}/studies/{key.study_instance_uid}/series/{key.series_instance_uid}"
        f"/instances/{key.sop_instance_uid}"
    )
    return new.described.instance | {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "0020000D": {"vr": "UI", "Value": [key.study_instance_uid]},
        "0020000E": {"vr": "UI", "Value": [key.series_instance_uid]},
        "00081190": {"vr": "UR", "Value": [url]},
        "00083002": {"vr": "UI", "Value": [new.transfer_syntax_uid]},
    }


def words_of(attributes: Attributes) -> str:
    """Return the column `name_words` of a study."""
    return name_words([text(attributes, "00100010")])


def _study_columns(attributes: Attributes) -> dict[str, str]:
    name_1, name_2, name_3 = normal_name(text(attributes, "00100010"))
    return {
        "patient_key": f"{text(attributes, '00100020')}\n{text(attributes, '00100021')}",
        "patient_id": _column(attributes, "00100020", "LO"),
        "issuer": _column(attributes, "00100021", "LO"),
        "name_1": name_1,
        "name_2": name_2,
        "name_3": name_3,
        "name_words": words_of(attributes),
        "birth_date": _column(attributes, "00100030", "DA"),
        "sex": _column(attributes, "00100040", "CS"),
        "date": _column(attributes, "00080020", "DA"),
        "time": _column(attributes, "00080030", "TM"),
        "accession": _column(attributes, "00080050", "SH"),
        "study_id": _column(attributes, "00200010", "SH"),
        "description": _column(attributes, "00081030", "LO"),
    }


def _series_columns(attributes: Attributes) -> dict[str, str | int | None]:
    return {
        "modality": _column(attributes, "00080060", "CS"),
        "number": _number(attributes, "00200011"),
        "description": _column(attributes, "0008103E", "LO"),
        "date": _column(attributes, "00080021", "DA"),
    }


def _column(attributes: Attributes, tag: str, vr: str) -> str:
    return comparable_value(vr, text(attributes, tag))


def _number(attributes: Mapping[str, Mapping[str, Any]], tag: str) -> int | None:
    held = attributes.get(tag, {}).get("Value") or [None]
    return held[0] if isinstance(held[0], int) and abs(held[0]) < 2**62 else None
