"""Query keys: SQL and the plain reading agree on every value, and matching obeys PS3.4 C.2.2.2."""

from __future__ import annotations

import re
import sqlite3
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from failover.archive import rows, summaries, tables
from failover.archive.attributes import Described
from failover.archive.queries import Level, make_query
from failover.archive.statements import is_left_over, to_sql
from failover.archive.writer import Transaction
from failover.dicom.json_model import person_name
from failover.dicom.query_keys import (
    KeyUnreadable,
    Universal,
    matches,
    normal,
    normal_name,
    normal_time,
    parse_key,
    wild_matches,
)
from failover.model import DebtState, InstanceKey, Origin, Uid

# Few letters, so that they meet; with case, marks that compose, wild cards, delimiters, and what SQL knows.
ALPHABET = "aAbBäÄßſıİσςΣ山田 ^=*?[]-_%'\"\u0308"
TEXT = st.text(ALPHABET, max_size=8)
PLAIN = st.text("aAbBäÄσς山^ []", max_size=8)


def _database(values: list[tuple[str, str]]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    connection.executescript(tables.TABLES)
    transaction = Transaction(connection)
    for number, (name, patient_id) in enumerate(values, 1):
        study = {"0020000D": {"vr": "UI", "Value": [f"1.{number}"]}}
        if person_name(name):
            study["00100010"] = {"vr": "PN", "Value": [person_name(name)]}  # type: ignore[list-item]
        if patient_id.strip():
            study["00100020"] = {"vr": "LO", "Value": [patient_id.strip()]}
        key = InstanceKey(Uid(f"1.{number}"), Uid(f"1.{number}.1"), Uid(f"1.{number}.1.1"))
        described = Described(key, Uid("1.2"), study, {}, {})
        rows.add_instance(
            transaction,
            rows.NewInstance(
                described, "1.2", str(number), 1, 1, None, None, b"", Origin.CALLER, DebtState.NONE, 0.0
            ),
        )
    summaries.finish(transaction)
    return connection


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TEXT, PLAIN), min_size=1, max_size=5), TEXT, TEXT)
def test_sql_finds_exactly_what_the_plain_reading_finds(
    values: list[tuple[str, str]], name: str, patient_id: str
) -> None:
    connection = _database(values)
    for tag, vr, key in ((0x00100010, "PN", name), (0x00100020, "LO", patient_id)):
        query = make_query(Level.STUDY, {tag: key})
        sql = to_sql(query)
        found = set()
        for row in connection.execute(sql.text, sql.parameters):
            if is_left_over(row[4:], sql.residual):
                found.add(row[0])
        for uid in found if sql.holding else ():
            held_row = connection.execute("SELECT * FROM studies WHERE uid = ?", (uid,)).fetchone()
            assert any(piece in held_row[column] for column, piece in sql.holding)
        wanted = parse_key(vr, key)
        expected = set()
        for number, (held_name, held_id) in enumerate(values, 1):
            held = person_name(held_name) if vr == "PN" else held_id.strip()
            text = (
                "=".join(held.get(g, "") for g in ("Alphabetic", "Ideographic", "Phonetic"))
                if isinstance(held, dict)
                else held
            )
            if matches(wanted, vr, [text] if text.strip("=") else []):
                expected.add(f"1.{number}")
        assert found == expected, (key, wanted)


@given(TEXT)
def test_normal_form_is_a_fixed_point(text: str) -> None:
    once = normal(text)
    assert normal(once) == once
    assert unicodedata.is_normalized("NFC", once)


@given(PLAIN)
def test_a_name_finds_itself_however_it_is_written(name: str) -> None:
    if "=" in name or not normal_name(name)[0]:
        return
    for written in (name, name.upper(), name.lower(), unicodedata.normalize("NFD", name), name + "^^"):
        if normal_name(written) == normal_name(name):
            assert matches(parse_key("PN", name), "PN", [written])
    assert matches(parse_key("PN", name.strip() + "*"), "PN", [name])


@given(st.text("ab*?", max_size=12), st.text("ab", max_size=12))
def test_wild_cards_are_what_a_regular_expression_says(pattern: str, value: str) -> None:
    expression = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in re.sub(r"\*+", "*", pattern))
    assert wild_matches(pattern, value) == (re.fullmatch(expression, value) is not None)


@given(
    st.sampled_from(["PN", "LO", "SH", "CS", "DA", "TM", "DT", "UI", "IS", "DS", "US", "LT", "XX"]),
    st.text(max_size=40),
)
def test_every_key_has_a_reading_or_is_refused(vr: str, text: str) -> None:
    try:
        wanted = parse_key(vr, text)
    except KeyUnreadable:
        return
    assert matches(wanted, vr, []) == isinstance(wanted, Universal)
    matches(wanted, vr, [text, ""])


DATES = st.dates().map(lambda d: d.strftime("%Y%m%d").zfill(8))


@given(DATES, DATES, DATES)
def test_a_range_of_dates_holds_its_ends_and_what_lies_between(low: str, high: str, held: str) -> None:
    assert matches(parse_key("DA", f"{low}-{high}"), "DA", [held]) == (low <= held <= high)
    assert matches(parse_key("DA", f"{low}-"), "DA", [held]) == (low <= held)
    assert matches(parse_key("DA", f"-{high}"), "DA", [held]) == (held <= high)
    assert matches(parse_key("DA", low), "DA", [held]) == (low == held)


@given(st.times(), st.integers(1, 6))
def test_a_time_matches_itself_with_less_precision(time: object, digits: int) -> None:
    held = time.strftime("%H%M%S.%f")  # type: ignore[attr-defined]
    for key in (held[:2], held[:4], held[:6], held[: 7 + digits]):
        assert matches(parse_key("TM", key), "TM", [held])
    assert normal_time(held) == held
