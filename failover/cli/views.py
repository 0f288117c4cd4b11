"""How the router's facts look in a terminal. Pure: JSON in, renderables out; nothing by colour alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from failover.clock import parse_rfc3339

Json = Mapping[str, Any]

_VERDICTS: Final = {
    "up": ("●", "up", "green"),
    "suspect": ("◐", "suspect", "yellow"),
    "down": ("✕", "down", "bold red"),
    None: ("·", "not known", "dim"),
}
_PHASES: Final = {
    "on_primary": ("on primary", "green"),
    "on_backup": ("ON BACKUP", "bold red"),
    "failing_back": ("FAILING BACK", "bold yellow"),
}
_LEVELS: Final = {
    "calm": ("✓", "bold green"),
    "attention": ("!", "bold yellow"),
    "alarm": ("‼", "bold red"),
}
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_UPSTREAMS: Final = ("primary", "backup")
_SERVICES: Final = ("web", "dicom")


def status_view(status: Json) -> RenderableType:
    """The whole of GET /api/status on one small screen."""
    return Group(
        *_first_lines(status),
        _headline(status),
        Text(),
        _upstream_table(status),
        Text(),
        _facts(status),
    )


def mode_sentence(status: Json) -> str:
    """The operator's intent in words: `auto`, `forced to the backup until …: reason (actor)`."""
    mode = str(status["mode"])
    intent = status["intent"]
    words = {
        "auto": "auto",
        "forced": f"forced to the {intent['upstream']}",
        "drain": f"draining the {intent['upstream'] or 'primary'}",
        "paused": "paused",
    }.get(mode, mode)
    if intent.get("until"):
        words += f" until {clock_time(intent['until'])}"
    if mode == "auto":
        return words
    if intent.get("reason"):
        words += f": {intent['reason']}"
    if intent.get("actor"):
        words += f" ({intent['actor']})"
    return words


def event_line(event: Json) -> Text:
    """One audit event on one line."""
    text = Text(overflow="fold")
    text.append(clock_time(str(event["time"])), "dim")
    text.append(f"  {event['kind']}", "bold")
    whose = str(event.get("code") or "").split("_")[0]
    if event["kind"] == "verdict" and whose in _UPSTREAMS:
        text.append(f" {whose}")
    if event.get("service"):
        text.append(f" {event['service']}")
    if event.get("from") or event.get("to"):
        text.append(f"  {_plain(event.get('from'))} → {_plain(event.get('to'))}", "cyan")
    if event.get("reason"):
        text.append(f"  {event['reason']}")
    if event.get("actor"):
        text.append(f"  by {event['actor']}", "dim")
    return text


def consequences(sentences: Iterable[str]) -> Text:
    """The sentences of a dry run, one each line."""
    text = Text("Dry run. Nothing was changed. This would happen:\n", "bold")
    text.append("\n".join(f"  • {sentence}" for sentence in sentences), "not bold")
    return text


def clock_time(rfc3339: str) -> str:
    """`2026-01-02T03:04:05.678Z` in local time, with its zone: `2026-01-02 04:04:05 CET`."""
    return f"{parse_rfc3339(rfc3339).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def in_local_time(sentence: str) -> str:
    """A sentence of the router with its moments in local time."""
    return _MOMENT.sub(lambda moment: clock_time(moment[0]), sentence)


def in_flight(status: Json, upstream: str) -> int:
    """How much is in flight at one upstream, of all services."""
    return sum(int(n or 0) for n in status["in_flight"].get(upstream, {}).values())


def in_flight_words(status: Json, upstream: str) -> str:
    """`3 web requests, 1 dicom association`."""
    counts = status["in_flight"].get(upstream, {})
    nouns = {"web": ("web request", "web requests"), "dicom": ("association", "associations")}
    return ", ".join(
        f"{counts[service]} {nouns[service][counts[service] != 1]}"
        for service in _SERVICES
        if counts.get(service) is not None
    )


def _first_lines(status: Json) -> list[Text]:
    """The same first sentence as on the page, and what to do; none when the router is older than that."""
    if "headline" not in status:
        return []
    sign, style = _LEVELS.get(str(status["level"]), ("!", "bold"))
    first = Text(f"{sign} {in_local_time(str(status['headline']))}", style, overflow="fold")
    return [first, Text(f"  {in_local_time(str(status['advice']))}", overflow="fold"), Text()]


def _headline(status: Json) -> Text:
    phase, style = _PHASES.get(str(status["phase"]), (str(status["phase"]), "bold"))
    text = Text(overflow="fold")
    text.append(f"{status['site']}", "bold")
    text.append("   ")
    text.append(phase, style)
    text.append("   mode ")
    text.append(mode_sentence(status), "" if status["mode"] == "auto" else "bold yellow")
    return text


def _upstream_table(status: Json) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), show_edge=False, header_style="dim")
    for heading in ("", "reads go to", *_UPSTREAMS):
        table.add_column(heading, overflow="fold")
    for service in _SERVICES:
        route = status["services"].get(service)
        if not route or route.get("active") is None:
            continue
        active = str(route["active"])
        cells: list[RenderableType] = [Text(service, "bold")]
        cell = Text(active, "green" if active == "primary" else "bold red")
        if route.get("phase") == "failing_back":
            cell.append(" (stores: primary)", "yellow")
        cells.append(cell)
        cells += [_verdict_cell(status["upstreams"].get(name, {}).get(service)) for name in _UPSTREAMS]
        table.add_row(*cells)
    return table


def _verdict_cell(health: Json | None) -> Text:
    if not health or health.get("reason") == "not configured":
        return Text("– none", "dim")
    sign, word, style = _VERDICTS.get(health.get("verdict"), _VERDICTS[None])
    text = Text(f"{sign} {word}", style)
    if health.get("verdict") != "up" and health.get("reason"):
        text.append(f"\n{health['reason']}", "not bold default")
    return text


def _facts(status: Json) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False, show_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for upstream in _UPSTREAMS:
        words = in_flight_words(status, upstream)
        if words:
            table.add_row(f"at the {upstream}", words)
    for trouble in status.get("troubles") or ():
        table.add_row(Text("trouble", "bold red"), str(trouble["sentence"]))
    table.add_row("way back", _failback_words(status))
    table.add_row("owed", _owed_words(status["replication"]))
    table.add_row("replication", _replication_words(status["replication"]))
    return table


def _failback_words(status: Json) -> str:
    failback = status["failback"]
    if status["phase"] == "on_primary":
        return "not needed"
    words = str(failback.get("reason") or ("open" if failback.get("allowed") else "closed"))
    left = failback.get("hold_down_left_s")
    return f"{words} (hold-down: {duration(left)} left)" if left and "stay up" not in words else words


def _owed_words(replication: Json) -> str:
    lag = replication.get("lag_objects")
    if lag is None:
        return "not known: nobody has reported it for 5 s"
    if lag == 0:
        words = "nothing: all that the archive received is proven on the primary"
    else:
        words = (
            f"{lag} objects not proven on the primary, the oldest for {duration(replication['lag_s'] or 0)}"
        )
    lost = replication.get("lost") or 0
    refused = (replication.get("refused") or 0) - lost
    words += f"; {refused} refused by the primary" if refused else ""
    words += f"; {lost} lost in the archive before they were sent" if lost else ""
    return words


def _replication_words(replication: Json) -> str:
    words = []
    for key, towards in (("pending_to_backup", "backup"), ("pending_to_primary", "primary")):
        count = replication.get(key)
        words.append(f"{'?' if count is None else count} to be sent to the {towards}")
    ratio = replication.get("coverage_ratio")
    words.append("coverage not known yet" if ratio is None else f"coverage {percent(ratio)}")
    return ", ".join(words)


def percent(ratio: float) -> str:
    """Rounded down: 100 % is said only when all is there."""
    return "100 %" if ratio >= 1 else f"{int(ratio * 1000) / 10:.1f} %"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _plain(word: object) -> str:
    return "–" if word is None else str(word).replace("_", " ")
