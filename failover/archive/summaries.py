"""Counts and finished JSON of series and studies: brought up to date once at the end of each transaction.

Runs in the writer thread. What was read of a series or study is remembered from one transaction to the next,
because nobody else writes: a stream of objects of one series then costs one UPDATE a level. Invariants after
each transaction: counts of series, studies and totals are those of their instances that are not hidden; no
series or study without an instance; `json` of each says what its columns say.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from failover.archive.attributes import Attributes
from failover.archive.matches import BASE_URL_MARK, dump
from failover.archive.writer import Transaction

# Series and studies remembered; beyond it all are forgotten, and read again as they come.
_MOST_REMEMBERED: Final = 4096
# Stands where a count goes. The mark of the base URL is never alone in a value: `/studies` follows it.
_COUNT_MARK: Final = f'"{BASE_URL_MARK}"'


@dataclass(slots=True)
class Study:
    """What is known of the row of a study. `instances` is the count before this transaction."""

    id: int
    uid: str
    attributes: Attributes
    from_primary: bool
    instances: int
    is_in_totals: bool
    shape: tuple[tuple[str, ...], int] | None = None  # modalities and number of series that are shown
    around: tuple[str, str] | None = None  # the finished JSON before and after the count

    def change(self, attributes: Attributes, *, from_primary: bool) -> None:
        self.attributes, self.from_primary, self.around = attributes, from_primary, None

    def reshape(self) -> None:
        """Its series are not those they were."""
        self.shape = self.around = None


@dataclass(slots=True)
class Series:
    """What is known of the row of a series, as `Study`."""

    id: int
    uid: str
    study: Study
    attributes: Attributes
    instances: int
    around: tuple[str, str] | None = None

    def change(self, attributes: Attributes) -> None:
        self.attributes, self.around = attributes, None


def study(transaction: Transaction, uid: str) -> Study | None:
    """Return the study with this UID, None when there is none."""
    known: Study | None = transaction.remembered.get(("study", uid))
    if known is None:
        row = transaction.connection.execute(
            "SELECT id, attributes, from_primary, instances, json != '' AS shown FROM studies WHERE uid = ?",
            (uid,),
        ).fetchone()
        if row is None:
            return None
        known = Study(
            row["id"], uid, json.loads(row["attributes"]), bool(row["from_primary"]), row["instances"],
            bool(row["shown"]),
        )  # fmt: skip
        _remember_study(transaction, known)
    return known


def new_study(
    transaction: Transaction, id_: int, uid: str, attributes: Attributes, *, from_primary: bool
) -> Study:
    """Return a study whose row was just inserted, without instances."""
    made = Study(id_, uid, attributes, from_primary, 0, is_in_totals=False)
    _remember_study(transaction, made)
    return made


def series(transaction: Transaction, of: Study, uid: str) -> Series | None:
    """Return the series with this UID in study `of`, None when there is none."""
    known: Series | None = transaction.remembered.get(("series", of.id, uid))
    if known is None:
        row = transaction.connection.execute(
            "SELECT id, attributes, instances FROM series WHERE study = ? AND uid = ?", (of.id, uid)
        ).fetchone()
        if row is None:
            return None
        known = Series(row["id"], uid, of, json.loads(row["attributes"]), row["instances"])
        _remember_series(transaction, known)
    return known


def new_series(transaction: Transaction, id_: int, of: Study, uid: str, attributes: Attributes) -> Series:
    """Return a series whose row was just inserted, without instances."""
    made = Series(id_, uid, of, attributes, 0)
    of.reshape()
    _remember_series(transaction, made)
    return made


def look_anew(transaction: Transaction, study_id: int, series_id: int) -> None:
    """Something went, or was hidden or shown: both may be empty now, or other than they were remembered."""
    transaction.touched_series.add(series_id)
    transaction.touched_studies.add(study_id)
    transaction.remembered.clear()


def finish(transaction: Transaction) -> None:
    """Write counts and finished JSON of what was touched, and drop what is empty."""
    counted = transaction.counted
    if not counted:
        return
    connection = transaction.connection
    of_series: dict[int, list[int]] = {}
    of_study: dict[int, list[int]] = {}
    arrived: dict[int, float] = {}
    for one in counted:
        for sums, key in ((of_series, one.series), (of_study, one.study)):
            both = sums.setdefault(key, [0, 0])
            both[0] += one.instances
            both[1] += one.size_bytes
        arrived[one.study] = max(arrived.get(one.study, 0.0), one.arrived_at)
    for series_id, (instances, size_bytes) in of_series.items():
        known = transaction.remembered.get(("series", series_id))
        if known is None or series_id in transaction.touched_series:
            _count(connection, "series", series_id, instances, size_bytes)
            _finish_series(connection, series_id)
        else:
            _add_to_series(connection, known, instances, size_bytes)
    for study_id, (instances, size_bytes) in of_study.items():
        found = transaction.remembered.get(("study", study_id))
        if found is None or study_id in transaction.touched_studies:
            _count(connection, "studies", study_id, instances, size_bytes)
            connection.execute(
                "UPDATE studies SET last_arrival = max(last_arrival, ?) WHERE id = ?",
                (arrived[study_id], study_id),
            )
            _finish_study(connection, study_id)
        else:
            _add_to_study(connection, found, instances, size_bytes, arrived[study_id])
    connection.execute(
        "UPDATE totals SET instances = instances + ?, bytes = bytes + ?",
        (sum(one.instances for one in counted), sum(one.size_bytes for one in counted)),
    )
    if transaction.touched_studies or len(transaction.remembered) > _MOST_REMEMBERED:
        transaction.remembered.clear()


# -- what is remembered -----------------------------------------------------------------------------


def _remember_study(transaction: Transaction, known: Study) -> None:
    transaction.remembered["study", known.uid] = transaction.remembered["study", known.id] = known


def _remember_series(transaction: Transaction, known: Series) -> None:
    transaction.remembered["series", known.study.id, known.uid] = known
    transaction.remembered["series", known.id] = known


def _add_to_series(connection: sqlite3.Connection, known: Series, instances: int, size_bytes: int) -> None:
    if known.instances == 0:
        known.study.reshape()  # it is shown from now on
    known.instances += instances
    if known.around is None:
        whole = _series_json(known.attributes, known.uid, known.study.uid, BASE_URL_MARK)
        before, _, after = whole.partition(_COUNT_MARK)
        known.around = before, after
    connection.execute(
        "UPDATE series SET instances = instances + ?, bytes = bytes + ?, json = ? WHERE id = ?",
        (instances, size_bytes, f"{known.around[0]}{known.instances}{known.around[1]}", known.id),
    )


def _add_to_study(
    connection: sqlite3.Connection, known: Study, instances: int, size_bytes: int, arrived_at: float
) -> None:
    known.instances += instances
    if not known.is_in_totals:
        connection.execute("UPDATE totals SET studies = studies + 1")
        known.is_in_totals = True
    if known.shape is None:
        known.shape, known.around = _shape(connection, known.id), None
    modalities, shown = known.shape
    if known.around is None:
        whole = _study_json(known.attributes, known.uid, modalities, shown, BASE_URL_MARK)
        before, _, after = whole.partition(_COUNT_MARK)
        known.around = before, after
    connection.execute(
        "UPDATE studies SET instances = instances + ?, bytes = bytes + ?, series = ?, json = ?,"
        " last_arrival = max(last_arrival, ?) WHERE id = ?",
        (
            instances, size_bytes, shown, f"{known.around[0]}{known.instances}{known.around[1]}", arrived_at,
            known.id,
        ),
    )  # fmt: skip


# -- what is not ------------------------------------------------------------------------------------


def _count(connection: sqlite3.Connection, table: str, key: int, instances: int, size_bytes: int) -> None:
    connection.execute(
        f"UPDATE {table} SET instances = instances + ?, bytes = bytes + ? WHERE id = ?",
        (instances, size_bytes, key),
    )


def _finish_series(connection: sqlite3.Connection, series_id: int) -> None:
    row = connection.execute(
        "SELECT s.uid, s.study, s.instances, s.attributes, t.uid AS study_uid FROM series s"
        " JOIN studies t ON t.id = s.study WHERE s.id = ?",
        (series_id,),
    ).fetchone()
    if row is None:
        return
    if row["instances"] == 0 and not _exists(connection, "series", series_id):
        connection.execute("DELETE FROM series WHERE id = ?", (series_id,))
        return
    text = _series_json(json.loads(row["attributes"]), row["uid"], row["study_uid"], row["instances"])
    connection.execute("UPDATE series SET json = ? WHERE id = ?", (text, series_id))


def _finish_study(connection: sqlite3.Connection, study_id: int) -> None:
    row = connection.execute(
        "SELECT uid, instances, attributes, json FROM studies WHERE id = ?", (study_id,)
    ).fetchone()
    if row is None:
        return
    if row["instances"] == 0 and not _exists(connection, "study", study_id):
        connection.execute("DELETE FROM series WHERE study = ?", (study_id,))
        connection.execute("DELETE FROM studies WHERE id = ?", (study_id,))
        if row["json"]:
            connection.execute("UPDATE totals SET studies = studies - 1")
        return
    if not row["json"]:
        connection.execute("UPDATE totals SET studies = studies + 1")
    modalities, shown = _shape(connection, study_id)
    text = _study_json(json.loads(row["attributes"]), row["uid"], modalities, shown, row["instances"])
    connection.execute("UPDATE studies SET json = ?, series = ? WHERE id = ?", (text, shown, study_id))


def _exists(connection: sqlite3.Connection, column: str, key: int) -> bool:
    found = connection.execute(f"SELECT 1 FROM instances WHERE {column} = ? LIMIT 1", (key,)).fetchone()
    return found is not None


def _shape(connection: sqlite3.Connection, study_id: int) -> tuple[tuple[str, ...], int]:
    """Return the modalities of a study and how many series of it are shown."""
    shown = connection.execute(
        "SELECT json_extract(attributes, '$.00080060.Value[0]') FROM series"
        " WHERE study = ? AND instances > 0 ORDER BY id",
        (study_id,),
    ).fetchall()
    return tuple(sorted({str(one[0]) for one in shown})), len(shown)


def _series_json(attributes: Attributes, uid: str, study_uid: str, count: int | str) -> str:
    whole: dict[str, Any] = attributes | {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "0020000D": {"vr": "UI", "Value": [study_uid]},
        "00201209": {"vr": "IS", "Value": [count]},
        "00081190": {"vr": "UR", "Value": [f"{BASE_URL_MARK}/studies/{study_uid}/series/{uid}"]},
    }
    return dump(whole)


def _study_json(
    attributes: Attributes, uid: str, modalities: tuple[str, ...], shown: int, count: int | str
) -> str:
    whole: dict[str, Any] = attributes | {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00081190": {"vr": "UR", "Value": [f"{BASE_URL_MARK}/studies/{uid}"]},
        "00201206": {"vr": "IS", "Value": [shown]},
        "00201208": {"vr": "IS", "Value": [count]},
    }
    if modalities:
        whole["00080061"] = {"vr": "CS", "Value": list(modalities)}
    return dump(whole)
