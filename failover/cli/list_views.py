"""How lists of objects look in a terminal. Pure: JSON in, renderables out; nothing by colour alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from failover.cli.views import clock_time

Json = Mapping[str, Any]
_REASONS: Final = {
    "patient": "another patient",
    "content": "other content",
    "damaged": "damaged on our own disk",
    "replaced_by_primary": "the primary's version replaced it before it was paid back",
}


def owed_view(answer: Json, state: str | None) -> RenderableType:
    """GET /api/owed: the sums, then a line for each object."""
    objects = answer["objects"]
    lines: list[RenderableType] = [_sums(answer["counts"])]
    if objects:
        table = _table("state", "since", "sent", "last status", "next attempt", "study / SOP instance UID")
        for one in objects:
            table.add_row(
                one["state"],
                _time(one["since"]),
                "–" if one["times_sent"] is None else f"{one['times_sent']} x",
                one["last_status"] or "–",
                _time(one["next_attempt"]),
                f"{one['study_instance_uid']}\n{one['sop_instance_uid']}",
            )
        lines += [Text(), table]
    elif state is not None:
        lines.append(Text(f"no object is {state}"))
    if answer["next"]:
        lines += [Text(), Text(f"the first {len(objects)}; all of them: --limit 0", "dim")]
    if answer.get("sending") not in (None, "allowed"):
        lines += [Text(), Text(f"nothing is sent now: {answer['sending']}", "yellow")]
    return Group(*lines)


def split_view(answer: Json) -> RenderableType:
    """GET /api/split: a line for each study."""
    studies = answer["studies"]
    if not studies:
        return Text(
            "no study is split: of each, all is proven on the primary or nothing was seen there", "green"
        )
    table = _table(
        "since", "owed", "sent", "refused", "on the primary", "still to fetch", "study instance UID"
    )
    for one in studies:
        counts = (one["owed"], one["sent"], one["refused"], one["on_primary"], one["to_fetch"])
        numbers = ("?" if count is None else str(count) for count in counts)
        table.add_row(_time(one["since"]), *numbers, one["study_instance_uid"])
    lines: list[RenderableType] = [table]
    if answer["next"]:
        lines += [Text(), Text(f"the first {len(studies)}; all of them: --limit 0", "dim")]
    return Group(*lines)


def plan_view(answer: Json) -> RenderableType:
    """GET /api/archive/plan: the limits, then a line for each study that goes next."""
    lines: list[RenderableType] = [
        Text(f"after {answer['days']} days; {_share(answer)}"),
        Text(
            f"protected: {answer['protected_studies']} studies,"
            f" {answer['protected_patients']} patients with all of theirs"
        ),
    ]
    if answer["window_from"]:
        lines.append(Text(f"searches here are complete from {answer['window_from']} on"))
    if answer["clock_doubted"]:
        lines.append(Text(answer["clock_doubted"], "bold red"))
    if not answer["studies"]:
        return Group(*lines, Text("nothing is held"))
    table = _table("goes", "why", "study date", "objects", "size", "waits for", "study instance UID")
    for one in answer["studies"]:
        table.add_row(
            _time(one["goes_at"]) if one["goes_at"] else "never",
            one["why"] or "–",
            one["study_date"] or "–",
            str(one["objects"]),
            _size(one["bytes"]),
            one["waits_for"] or "",
            one["study_instance_uid"],
        )
    return Group(*lines, Text(), table)


def _share(answer: Json) -> str:
    wanted = answer["space_wanted_bytes"]
    words = f"{_size(answer['held_bytes'])} of {_size(answer['max_bytes'])} held"
    words += f", {_size(answer['free_bytes'])} free on the disk"
    return words + (f"; {_size(wanted)} must go for space now" if wanted else "; nothing must go for space")


def _size(count: int) -> str:
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} TB"


def quarantine_view(answer: Json) -> RenderableType:
    """GET /api/quarantine: both versions of each object, by what differs."""
    if not answer["objects"]:
        return Text("nothing is in quarantine")
    lines: list[RenderableType] = []
    for one in answer["objects"]:
        served, other = one["served"], one["quarantined"]
        lines += [
            Text(f"{one['id']}  {_REASONS.get(one['reason'], one['reason'])}", "bold"),
            Text(f"  SOP instance  {one['sop_instance_uid']}"),
            Text(f"  came          {clock_time(one['arrived_at'])} from {other['caller'] or 'ourselves'}"),
            Text(f"  served now    {_version(served)}"),
            Text(f"  quarantined   {_version(other)}"),
        ]
        if one["differs"] is None:
            lines.append(Text("  the two cannot be compared: one is gone, or cannot be read"))
        elif not one["differs"]:
            lines.append(Text("  every element is the same; the files differ in how they are encoded"))
        else:
            table = _table("  element", "served", "quarantined")
            for element in one["differs"]:
                name = element["keyword"] or element["tag"]
                table.add_row(f"  {name}", _value(element["served"]), _value(element["quarantined"]))
            lines.append(table)
        lines.append(Text())
    if answer["next"]:
        lines.append(Text(f"the newest {len(answer['objects'])}; all of them: --limit 0", "dim"))
    return Group(*lines)


def _sums(counts: Json) -> Text:
    lost = counts.get("lost") or 0
    shown = {
        "owed": counts["owed"],
        "sent": counts["sent"],
        "refused": counts["refused"] - lost,
        "lost in the archive": lost,
        "vanished": counts["vanished"],
    }
    open_ = {word: count for word, count in shown.items() if count}
    if counts["vanished"] is None:
        return Text(
            f"{_words(open_) or 'nothing is owed'}; what vanished is not known: no replicator answers",
            "yellow",
        )
    if not open_:
        return Text("nothing is owed: all that the archive received is proven on the primary", "green")
    return Text(_words(open_), "bold")


def _words(counts: Json) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _version(version: Json | None) -> str:
    if version is None:
        return "none: it has gone"
    return f"{version['bytes']} bytes, {version['origin']}, study {version['study_instance_uid']}"


def _value(word: str | None) -> str:
    return "(not there)" if word is None else word or "(empty)"


def _time(moment: str | None) -> str:
    return "–" if moment is None else clock_time(moment)


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), show_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
