"""What changes in the tables when an instance comes, is replaced or goes; counts and finished JSON with it.

Runs within a transaction of the writer thread and knows nothing of files or time. Invariants after each
transaction: counts of series, studies and totals are those of their instances that are not hidden; no series
or study without an instance; `json` of each says what its columns say.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from failover.archive.attributes import Attributes, Described
from failover.archive.queries import BASE_URL_MARK, as_text, dump
from failover.archive.writer import Transaction
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
            new.described.key.sop_instance_uid, study, series, new.described.sop_class_uid,
            _number(attributes, "00200013"), new.transfer_syntax_uid, new.path, new.size_bytes,
            new.data_set_offset, new.pixel_offset, new.pixel_length, new.digest,
            text(new.described.study, "00100020"), new.origin.value, new.state.value, new.arrived_at,
            # What was fetched from the primary was there: a proof with a date (DESIGN 4.4).
            new.arrived_at if new.origin is Origin.REPLICATED else None,
            dump(attributes),
        ),
    )  # fmt: skip
    _count(transaction, study, series, 1, new.size_bytes)


def remove_instance(transaction: Transaction, row: sqlite3.Row) -> None:
    """Delete the row of an instance, and its series and study with the last one. The file is the caller's."""
    transaction.connection.execute("DELETE FROM instances WHERE id = ?", (row["id"],))
    if row["hidden"]:
        transaction.touched_series.add(row["series"])
        transaction.touched_studies.add(row["study"])
    else:
        _count(transaction, row["study"], row["series"], -1, -row["bytes"])


def hide_instance(transaction: Transaction, row: sqlite3.Row, *, hidden: bool) -> None:
    """Take an instance out of all answers, or show it again; its file and its debt stay."""
    if bool(row["hidden"]) == hidden:
        return
    transaction.connection.execute("UPDATE instances SET hidden = ? WHERE id = ?", (int(hidden), row["id"]))
    sign = -1 if hidden else 1
    _count(transaction, row["study"], row["series"], sign, sign * row["bytes"])


def finish(transaction: Transaction) -> None:
    """Write the finished JSON of what was touched, and drop what is empty. Once in each transaction."""
    connection = transaction.connection
    for series in transaction.touched_series:
        _finish_series(connection, series)
    for study in transaction.touched_studies:
        _finish_study(connection, study)


# -- one level each ---------------------------------------------------------------------------------


def _study(transaction: Transaction, new: NewInstance) -> int:
    connection, described = transaction.connection, new.described
    row = connection.execute(
        "SELECT id, attributes, from_primary, last_arrival FROM studies WHERE uid = ?",
        (described.key.study_instance_uid,),
    ).fetchone()
    if row is None:
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
        return cursor.lastrowid
    study = int(row["id"])
    held: Attributes = json.loads(row["attributes"])
    merged = _merge(held, described.study, held_is_primary=bool(row["from_primary"]), new=new)
    if merged != held or (new.from_primary and not row["from_primary"]):
        columns = _study_columns(merged)
        connection.execute(
            f"UPDATE studies SET {', '.join(f'{c} = ?' for c in columns)}, attributes = ?,"
            " from_primary = max(from_primary, ?) WHERE id = ?",
            (*columns.values(), dump(merged), int(new.from_primary), study),
        )
    if new.arrived_at > row["last_arrival"]:
        connection.execute("UPDATE studies SET last_arrival = ? WHERE id = ?", (new.arrived_at, study))
    return study


def _series(transaction: Transaction, study: int, new: NewInstance) -> int:
    connection, described = transaction.connection, new.described
    row = connection.execute(
        "SELECT id, attributes FROM series WHERE study = ? AND uid = ?",
        (study, described.key.series_instance_uid),
    ).fetchone()
    attributes = dict(described.series)
    # Modality is type 1; a summary without one breaks lists of studies (OHIF). OT: PS3.3 C.7.3.1.1.1.
    attributes.setdefault("00080060", {"vr": "CS", "Value": ["OT"]})
    if row is None:
        columns = _series_columns(attributes)
        cursor = connection.execute(
            f"INSERT INTO series (uid, study, {', '.join(columns)}, instances, bytes, attributes, json)"
            f" VALUES (?, ?, {', '.join('?' * len(columns))}, 0, 0, ?, '')",
            (described.key.series_instance_uid, study, *columns.values(), dump(attributes)),
        )
        connection.execute("UPDATE studies SET series = series + 1 WHERE id = ?", (study,))
        assert cursor.lastrowid is not None
        return cursor.lastrowid
    series = int(row["id"])
    held: Attributes = json.loads(row["attributes"])
    merged = {**held, **attributes} if new.from_primary else {**attributes, **held}
    if merged != held:
        columns = _series_columns(merged)
        connection.execute(
            f"UPDATE series SET {', '.join(f'{c} = ?' for c in columns)}, attributes = ? WHERE id = ?",
            (*columns.values(), dump(merged), series),
        )
    return series


def _merge(held: Attributes, new_ones: Attributes, *, held_is_primary: bool, new: NewInstance) -> Attributes:
    if new.from_primary:
        # DESIGN 4.4: the primary is right about patient and study.
        return {**held, **new_ones}
    if held_is_primary or text(held, "00100020") != text(new_ones, "00100020"):
        return held
    return {**new_ones, **held}  # a caller's later instance fills gaps, it corrects nothing


def _count(transaction: Transaction, study: int, series: int, instances: int, size_bytes: int) -> None:
    connection = transaction.connection
    for table, key in (("series", series), ("studies", study)):
        connection.execute(
            f"UPDATE {table} SET instances = instances + ?, bytes = bytes + ? WHERE id = ?",
            (instances, size_bytes, key),
        )
    connection.execute(
        "UPDATE totals SET instances = instances + ?, bytes = bytes + ?", (instances, size_bytes)
    )
    transaction.touched_series.add(series)
    transaction.touched_studies.add(study)


def _finish_series(connection: sqlite3.Connection, series: int) -> None:
    row = connection.execute(
        "SELECT s.uid, s.study, s.instances, s.attributes, t.uid AS study_uid FROM series s"
        " JOIN studies t ON t.id = s.study WHERE s.id = ?",
        (series,),
    ).fetchone()
    if row is None:
        return
    if row["instances"] == 0 and not _exists(connection, "series", series):
        connection.execute("DELETE FROM series WHERE id = ?", (series,))
        return
    attributes: dict[str, Any] = json.loads(row["attributes"])
    attributes |= {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "0020000D": {"vr": "UI", "Value": [row["study_uid"]]},
        "00201209": {"vr": "IS", "Value": [row["instances"]]},
        "00081190": {
            "vr": "UR",
            "Value": [f"{BASE_URL_MARK}/studies/{row['study_uid']}/series/{row['uid']}"],
        },
    }
    connection.execute("UPDATE series SET json = ? WHERE id = ?", (dump(attributes), series))


def _finish_study(connection: sqlite3.Connection, study: int) -> None:
    row = connection.execute(
        "SELECT uid, instances, attributes, json FROM studies WHERE id = ?", (study,)
    ).fetchone()
    if row is None:
        return
    if row["instances"] == 0 and not _exists(connection, "study", study):
        connection.execute("DELETE FROM series WHERE study = ?", (study,))
        connection.execute("DELETE FROM studies WHERE id = ?", (study,))
        if row["json"]:
            connection.execute("UPDATE totals SET studies = studies - 1")
        return
    if not row["json"]:
        connection.execute("UPDATE totals SET studies = studies + 1")
    shown = connection.execute(
        "SELECT json_extract(attributes, '$.00080060.Value[0]') FROM series"
        " WHERE study = ? AND instances > 0 ORDER BY id",
        (study,),
    ).fetchall()
    modalities = sorted({str(one[0]) for one in shown})
    attributes: dict[str, Any] = json.loads(row["attributes"])
    attributes |= {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00081190": {"vr": "UR", "Value": [f"{BASE_URL_MARK}/studies/{row['uid']}"]},
        "00201206": {"vr": "IS", "Value": [len(shown)]},
        "00201208": {"vr": "IS", "Value": [row["instances"]]},
    }
    if modalities:
        attributes["00080061"] = {"vr": "CS", "Value": modalities}
    connection.execute(
        "UPDATE studies SET json = ?, series = ? WHERE id = ?", (dump(attributes), len(shown), study)
    )


def _exists(connection: sqlite3.Connection, column: str, key: int) -> bool:
    found = connection.execute(f"SELECT 1 FROM instances WHERE {column} = ? LIMIT 1", (key,)).fetchone()
    return found is not None


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


def _study_columns(attributes: Attributes) -> dict[str, str]:
    name_1, name_2, name_3 = normal_name(text(attributes, "00100010"))
    return {
        "patient_key": f"{text(attributes, '00100020')}\n{text(attributes, '00100021')}",
        "patient_id": _column(attributes, "00100020", "LO"),
        "issuer": _column(attributes, "00100021", "LO"),
        "name_1": name_1,
        "name_2": name_2,
        "name_3": name_3,
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
