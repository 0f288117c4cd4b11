"""A question as SQL over the index, and what SQL cannot decide of it. Pure.

The columns hold the normal form in which `dicom.query_keys` compares. Keys of attributes that the index shows
but has no column for are left as `residual`, decided row by row on the JSON. Values reach SQL only as
parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from failover.archive.matches import as_text
from failover.archive.queries import (
    MODALITIES_IN_STUDY,
    SOP_CLASSES_IN_STUDY,
    Level,
    Query,
    level_of,
    vr_of,
)
from failover.dicom.fuzzy_names import Fuzzy
from failover.dicom.query_keys import (
    AnyOf,
    AnyWild,
    Name,
    Range,
    Universal,
    Wanted,
    Wild,
    matches,
    normal,
)

_COLUMNS: Final[Mapping[int, str]] = {
    0x00100020: "t.patient_id", 0x00100021: "t.issuer", 0x00100030: "t.birth_date", 0x00100040: "t.sex",
    0x0020000D: "t.uid", 0x00080020: "t.date", 0x00080030: "t.time", 0x00080050: "t.accession",
    0x00200010: "t.study_id", 0x00081030: "t.description",
    0x0020000E: "s.uid", 0x00080060: "s.modality", 0x0008103E: "s.description", 0x00080021: "s.date",
    0x00080018: "i.uid", 0x00080016: "i.sop_class",
}  # fmt: skip
_HIGHEST: Final = "\U0010ffff"  # ends the range of all that begins with a prefix
_WHOLE_NUMBER: Final = re.compile("-?[0-9]{1,15}")  # of those SQLite's integers hold all
_PATIENT_NAME: Final = 0x00100010
_STUDY_DATE: Final = 0x00080020

_SELECT: Final[Mapping[Level, str]] = {
    Level.PATIENT: (
        "SELECT NULL, NULL, NULL, t.attributes, NULL, NULL, count(*), sum(t.series), sum(t.instances),"
        " max(t.last_arrival)"
    ),
    # As bytes: they go out as they are, and their mark would make wide text of each.
    Level.STUDY: "SELECT t.uid, NULL, NULL, CAST(t.json AS BLOB)",
    Level.SERIES: "SELECT t.uid, s.uid, NULL, CAST(s.json AS BLOB), CAST(t.json AS BLOB)",
    Level.IMAGE: (
        "SELECT t.uid, s.uid, i.uid, CAST(i.json AS BLOB), CAST(s.json AS BLOB), CAST(t.json AS BLOB)"
    ),
}
_FROM: Final[Mapping[Level, str]] = {
    Level.PATIENT: "FROM studies t",
    Level.STUDY: "FROM studies t",
    Level.SERIES: "FROM series s JOIN studies t ON t.id = s.study",
    Level.IMAGE: "FROM instances i JOIN series s ON s.id = i.series JOIN studies t ON t.id = s.study",
}
# Where the attributes of a level stand.
_ATTRIBUTES: Final[Mapping[Level | None, str]] = {
    Level.PATIENT: "t.attributes", Level.STUDY: "t.attributes", Level.SERIES: "s.attributes",
    Level.IMAGE: "i.json",
}  # fmt: skip
# The studies with SOP Classes in Study.
_SELECT_SOP_CLASSES: Final = (
    "SELECT t.uid, NULL, NULL, CAST(json_set(t.json, '$.00080062', json_object('vr', 'UI', 'Value',"
    " (SELECT json_group_array(sop_class) FROM (SELECT DISTINCT c.sop_class FROM instances c"
    " WHERE c.study = t.id AND c.hidden = 0 ORDER BY c.sop_class)))) AS BLOB)"
)
_ORDER: Final[Mapping[Level, str]] = {
    Level.PATIENT: (
        "GROUP BY t.patient_key, CASE WHEN t.patient_id = '' THEN t.id END ORDER BY t.name_1, t.patient_key"
    ),
    Level.STUDY: "ORDER BY t.date DESC, t.time DESC, t.id DESC",
    Level.SERIES: "ORDER BY t.date DESC, t.time DESC, t.id DESC, s.number, s.id",
    Level.IMAGE: "ORDER BY t.date DESC, t.time DESC, t.id DESC, s.number, s.id, i.number, i.id",
}
_SHOWN: Final[Mapping[Level, str]] = {
    Level.PATIENT: "t.instances > 0",
    Level.STUDY: "t.instances > 0",
    Level.SERIES: "s.instances > 0",
    Level.IMAGE: "i.hidden = 0",
}


# So many names that begin alike are sorted; of more the first ones are looked for in the order of the answer.
_FEW_NAMES: Final = 500
# A day has more studies only where dates are not real: the event loop reads 1000 in 10 ms.
_FEW_OF_A_DAY: Final = 1000


_IF_MANY_OF_A_DAY: Final = "SELECT 1 FROM studies WHERE date = ? LIMIT 1 OFFSET ?"


@dataclass(frozen=True, slots=True)
class Sql:
    """The statement, its parameters, and the keys that are left to decide row by row: their values stand
    last in the row, in the same order."""

    text: str
    parameters: tuple[str | int, ...]
    residual: Mapping[int, Wanted]
    scans: bool  # may look at every row: not for the event loop's thread
    # Finds a row where more than a few have the day, or begin with the name, that is asked for: then `many`
    # is the better way.
    if_many: tuple[str, tuple[str | int, ...]] | None = None
    # Of a study that matches one of these columns holds the text beside it: a way to few of all rows.
    holding: Sequence[tuple[str, str]] = ()


def to_sql(query: Query, *, many: bool = False, among: Sequence[int] | None = None) -> Sql:
    """Return `query` as SQL. Limit and offset are in it only where nothing is left to decide.

    `many`: the name that is asked for begins as those of many do, or many are of the day. `among`: the rows
    of the studies among which all matches are.
    """
    if among is not None:
        return _made(query, many=many, among=among)
    known: Sql | None = query.made.get(many)
    if known is None:
        known = query.made[many] = _made(query, many=many, among=None)
    return known


def _made(query: Query, *, many: bool, among: Sequence[int] | None) -> Sql:
    conditions = [_SHOWN[query.level]]
    parameters: list[str | int] = []
    residual: dict[int, Wanted] = {}
    pinned, if_many, day = False, None, None
    holding: Sequence[tuple[str, str]] = ()
    for tag, wanted in query.keys.items():
        if tag == _PATIENT_NAME and isinstance(wanted, Name) and _pins(tag, wanted):
            if_many = _if_many(wanted)
            if many:
                # `+`: not by the name's own index, which would have all of them sorted.
                conditions.append(_name_condition(wanted, parameters, "+t."))
                continue
        holding = holding or _holding(tag, wanted)
        condition = _condition(tag, wanted, parameters)
        if condition is None:
            residual[tag] = wanted
            continue
        conditions.append(condition)
        pinned = pinned or _pins(tag, wanted)
        if query.level is Level.STUDY and tag == _STUDY_DATE and isinstance(wanted, Range):
            day = wanted.low if wanted.low == wanted.high else None
    for tag, text in query.exact.items():
        column = {0x00100020: "t.patient_id"}[tag]
        conditions.append(f"{column} = ? AND json_extract(t.attributes, '$.00100020.Value[0]') = ?")
        parameters += [normal(text), text]
        pinned = True
    if day is not None and not pinned:
        if_many = if_many or (_IF_MANY_OF_A_DAY, (day, _FEW_OF_A_DAY))
        pinned = not many
    if among is not None:
        conditions.append("t.id IN (SELECT value FROM json_each(?))")
        parameters.append(json.dumps(among))
        pinned = True
    with_sop_classes = query.with_sop_classes and query.level is Level.STUDY
    select = _SELECT_SOP_CLASSES if with_sop_classes else _SELECT[query.level]
    # SQL gives the values of what is left to decide: their rows are many, and parsed by it they cost less.
    for tag in residual:
        select += f", json_extract({_ATTRIBUTES[level_of(tag)]}, '$.{tag:08X}.Value')"
    text = f"{select} {_FROM[query.level]} WHERE {' AND '.join(conditions)} {_ORDER[query.level]}"
    # Few rows are left over, or the order's own index yields the first ones at once.
    plain = not residual and not query.keys and query.level == Level.STUDY and query.limit is not None
    if not residual and (query.limit is not None or query.offset):
        text += " LIMIT ? OFFSET ?"
        parameters += [-1 if query.limit is None else query.limit, query.offset]
    scans = with_sop_classes or not (pinned or (plain and query.offset < 10_000))
    return Sql(text, tuple(parameters), residual, scans, if_many, holding)


def is_left_over(held: Sequence[str | None], residual: Mapping[int, Wanted]) -> bool:
    """Return whether a row also satisfies the keys that SQL could not decide; `held`: its last columns."""
    for values, (tag, wanted) in zip(held, residual.items(), strict=True):
        texts = [] if values is None else [as_text(value) for value in json.loads(values)]
        if not matches(wanted, vr_of(tag) or "UN", texts):
            return False
    return True


# Exact or prefixed matching on these finds its few rows by an index.
_INDEXED: Final = frozenset({0x00100010, 0x00100020, 0x0020000D, 0x00080050, 0x0020000E, 0x00080018})


# Columns of studies whose text is looked through in memory where the beginning is not known.
HELD_COLUMNS: Final = ("name_1", "name_2", "name_3", "name_words", "patient_id", "accession", "description")


def _holding(tag: int, wanted: Wanted) -> Sequence[tuple[str, str]]:
    """Return `Sql.holding` for one key; nothing where it does not say what text a match holds."""
    if isinstance(wanted, Fuzzy):
        words = wanted.patterns() if tag == _PATIENT_NAME else []
        longest = max(words, key=lambda spellings: min(map(len, spellings)), default=[])
        return _each_holds(("name_words",), [Wild(pattern) for pattern in longest])
    if isinstance(wanted, Name):
        if len(wanted.groups) == 1:
            return _each_holds(HELD_COLUMNS[:3], [wanted.groups[0]]) if tag == _PATIENT_NAME else ()
        groups = enumerate(wanted.groups if tag == _PATIENT_NAME else ())
        return next((held for n, one in groups if (held := _each_holds((HELD_COLUMNS[n],), [one]))), ())
    column = _COLUMNS.get(tag, "").removeprefix("t.")
    return _each_holds((column,), [wanted]) if column in HELD_COLUMNS else ()


def _each_holds(columns: Sequence[str], wanted: Sequence[Wanted]) -> Sequence[tuple[str, str]]:
    """Return what stands in one of `columns` where one of `wanted` matches; none where one says nothing."""
    found: list[tuple[str, str]] = []
    for one in wanted:
        for pattern in one.patterns if isinstance(one, AnyWild) else (one,):
            texts: Sequence[str] = pattern.values if isinstance(pattern, AnyOf) else ()
            if isinstance(pattern, Wild):
                texts = [max(re.split(r"[*?]+", pattern.pattern), key=len)]
            if not texts or not all(texts):
                return ()
            found += [(column, text) for column in columns for text in texts]
    return found


def _pins(tag: int, wanted: Wanted) -> bool:
    if tag not in _INDEXED:
        return False
    if isinstance(wanted, Name):
        first = wanted.groups[0]
        parts = first.patterns if isinstance(first, AnyWild) else (first,)
        return all(
            isinstance(p, AnyOf) or (isinstance(p, Wild) and len(_prefix(p.pattern)) >= 3) for p in parts
        )
    if isinstance(wanted, Wild):
        return len(_prefix(wanted.pattern)) >= 3
    return isinstance(wanted, AnyOf) and len(wanted.values) <= 1000


def _condition(tag: int, wanted: Wanted, parameters: list[str | int]) -> str | None:
    """Return the condition and add its parameters; None where no column holds the attribute."""
    if tag == _PATIENT_NAME and isinstance(wanted, Name):
        return _name_condition(wanted, parameters)
    if isinstance(wanted, Fuzzy):
        return _fuzzy_condition(wanted, parameters) if tag == _PATIENT_NAME else None
    if tag == MODALITIES_IN_STUDY:
        inner = _text_condition("m.modality", wanted, parameters)
        return f"EXISTS (SELECT 1 FROM series m WHERE m.study = t.id AND m.instances > 0 AND {inner})"
    if tag == SOP_CLASSES_IN_STUDY:
        inner = _text_condition("c.sop_class", wanted, parameters)
        return f"EXISTS (SELECT 1 FROM instances c WHERE c.study = t.id AND c.hidden = 0 AND {inner})"
    if tag == 0x00200011 and isinstance(wanted, AnyOf):
        return _number_condition("s.number", wanted, parameters)
    if tag == 0x00200013 and isinstance(wanted, AnyOf):
        return _number_condition("i.number", wanted, parameters)
    column = _COLUMNS.get(tag)
    return None if column is None else _text_condition(column, wanted, parameters)


def _if_many(wanted: Name) -> tuple[str, tuple[str | int, ...]] | None:
    """Return `Sql.if_many` for a name with a prefix."""
    group = wanted.groups[0]
    patterns = group.patterns if isinstance(group, AnyWild) else (group,)
    prefixes = [_prefix(one.pattern) for one in patterns if isinstance(one, Wild)]
    if not prefixes:
        return None
    text = "SELECT 1 FROM studies WHERE name_1 >= ? AND name_1 < ? LIMIT 1 OFFSET ?"
    return text, (prefixes[0], prefixes[0] + _HIGHEST, _FEW_NAMES)


def _name_condition(wanted: Name, parameters: list[str | int], table: str = "t.") -> str:
    if len(wanted.groups) == 1:
        columns = (f"{table}name_1", f"{table}name_2", f"{table}name_3")
        # `!= ''` lets the partial indexes be used, and an empty group is matched by nothing.
        parts = [f"({c} != '' AND {_text_condition(c, wanted.groups[0], parameters)})" for c in columns]
        return "(" + " OR ".join(parts) + ")"
    parts = [
        _text_condition(f"{table}name_{n}", group, parameters)
        for n, group in enumerate(wanted.groups, 1)
        if not isinstance(group, Universal)
    ]
    return "(" + " AND ".join(parts) + ")"


def _fuzzy_condition(wanted: Fuzzy, parameters: list[str | int]) -> str:
    parts = []
    for patterns in wanted.patterns():
        parts.append("(" + " OR ".join(["t.name_words GLOB ?"] * len(patterns)) + ")")
        parameters += [_glob(pattern) for pattern in patterns]
    return "(" + " AND ".join(parts or ["1"]) + ")"


def _text_condition(column: str, wanted: Wanted, parameters: list[str | int]) -> str:
    if isinstance(wanted, AnyOf):
        if len(wanted.values) == 1:
            parameters.append(wanted.values[0])
            return f"({column} = ? AND {column} != '')"
        # One parameter however long the list is: SQLite takes 32,766 of them.
        parameters.append(json.dumps(wanted.values))
        return f"{column} IN (SELECT value FROM json_each(?))"
    if isinstance(wanted, Wild):
        return _wild_condition(column, wanted, parameters)
    if isinstance(wanted, AnyWild):
        return "(" + " OR ".join(_text_condition(column, p, parameters) for p in wanted.patterns) + ")"
    if isinstance(wanted, Range):
        parts = [f"{column} != ''"]
        for operator, end in ((">=", wanted.low), ("<=", wanted.high)):
            if end is not None:
                parts.append(f"{column} {operator} ?")
                parameters.append(end)
        return "(" + " AND ".join(parts) + ")"
    raise AssertionError(f"no condition for {type(wanted).__name__}")


def _wild_condition(column: str, wanted: Wild, parameters: list[str | int]) -> str:
    prefix = _prefix(wanted.pattern)
    if not prefix:
        parameters.append(_glob(wanted.pattern))
        return f"({column} != '' AND {column} GLOB ?)"
    # The range finds the rows by the index; GLOB decides, where the pattern says more than the range.
    parameters += [prefix, prefix + _HIGHEST]
    in_range = f"{column} >= ? AND {column} < ?"
    if wanted.pattern == f"{prefix}*":
        return f"({in_range})"
    parameters.append(_glob(wanted.pattern))
    return f"({in_range} AND {column} GLOB ?)"


def _glob(pattern: str) -> str:
    # In GLOB only `[` besides `*` and `?` means something; `[[]` is a plain one.
    return pattern.replace("[", "[[]")


def _prefix(pattern: str) -> str:
    for position, character in enumerate(pattern):
        if character in "*?":
            return pattern[:position]
    return pattern


def _number_condition(column: str, wanted: AnyOf, parameters: list[str | int]) -> str | None:
    if not all(_WHOLE_NUMBER.fullmatch(value) for value in wanted.values):
        return None
    parameters.append(json.dumps([int(value) for value in wanted.values]))
    return f"{column} IN (SELECT value FROM json_each(?))"
