"""The first sentence of page and command line: what is the matter, and what to do about it. Pure.

One status in, one `Headline` out, so that page, command line and whoever reads the API say the same. Moments
stand in the sentence as RFC 3339 in UTC, as everywhere in the API; who shows it to people puts them into
their local time. Numbers that change each second are left out: a sentence is read aloud when it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from failover.admin.facts import SERVICES, UPSTREAMS, Facts, Json

# An old debt on a quiet day: the primary is up, and yet does not take what it is owed.
OLD_DEBT_S: Final = 900.0
# Below this share of the primary in the archive a failover would be felt.
ENOUGH_COVERAGE: Final = 0.99

CALM: Final = "calm"  # nothing to do
ATTENTION: Final = "attention"  # callers are served, but look at it
ALARM: Final = "alarm"  # callers feel it, or the next failure would hit them
_OTHER: Final = {"primary": "backup", "backup": "primary"}
_BACK_BY_ITSELF: Final = "Nothing to do here"
_REPAIR_PRIMARY: Final = (
    "Repair the primary; traffic returns by itself when it stays up and nothing is owed to it."
)

# What wants a person though all callers are served; `advice` is the trouble's own sentence.
_TROUBLES: Final = {
    "no_room": "the archive's disk is full: it takes no stores",
    "index_damaged": "the archive's index is damaged: it takes no stores",
    "index_not_written": "the archive's disk failed: it takes no stores",
    "clock_doubted": "the archive's clock leapt ahead: nothing is evicted by age",
    "objects_damaged": "objects of the archive were damaged on its disk",
    "state_not_written": "the router cannot write its state: a restart would forget it",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """`level` is calm, attention or alarm; `sentence` what is the matter; `advice` what to do."""

    level: str
    sentence: str
    advice: str


_UNREPORTED: Final = Headline(
    ATTENTION,
    "The primary answers; archive and replicator have not reported for 5 seconds.",
    "See whether they run: failover_component_up in the metrics, and their logs.",
)


def with_headline(status: Json) -> dict[str, Any]:
    """Return the status with `level`, `headline` and `advice` beside its facts."""
    told = headline(status)
    return {**status, "level": told.level, "headline": told.sentence, "advice": told.advice}


def headline(status: Json) -> Headline:
    """Return the one thing to know. What hurts callers first, then what an operator wants."""
    told = _of_routing(Facts(status))
    troubles = status.get("troubles") or ()
    if told is _UNREPORTED:
        troubles = [one for one in troubles if one["component"] == "archive"]  # then it has reported
    if troubles and (told.level == CALM or told is _UNREPORTED):
        return Headline(ATTENTION, _trouble(troubles[0]), _capital(f"{troubles[0]['sentence']}."))
    return told


def _trouble(trouble: Json) -> str:
    what = _TROUBLES.get(str(trouble["code"]), f"the {trouble['component']} wants you")
    return f"The primary answers, but {what}."


def _of_routing(facts: Facts) -> Headline:
    return (
        _nobody_serves(facts)
        or _starting(facts)
        or _as_intended(facts)
        or _on_the_way_back(facts)
        or _apart(facts)
        or _on_primary(facts)
    )


def _starting(facts: Facts) -> Headline | None:
    for upstream, service in _pairs(facts):
        if facts.exists(upstream, service) and facts.verdict(upstream, service) is None:
            return Headline(
                ATTENTION,
                f"Starting: no verdict yet on {SERVICES[service]} of the {upstream}.",
                "Wait; it is known within 30 seconds.",
            )
    return None


def _nobody_serves(facts: Facts) -> Headline | None:
    """One that should answer is down, and nothing takes its place."""
    dead = [
        service
        for service, active in facts.active.items()
        if facts.verdict(active, service) == "down" and not facts.may_help(_OTHER[active], service)
    ]
    if dead:
        names = " and ".join(SERVICES[service] for service in dead)
        if all(facts.exists(name, dead[0]) for name in UPSTREAMS):
            what = "Primary and backup are both down"
            what += "" if len(dead) == len(facts.active) else f" for {names}"
            advice = "Start either of them: each request is tried at both, and answered as soon as one can."
        else:
            what = f"{_capital(names)} of the {facts.active[dead[0]]} is down, and the other has none"
            advice = f"Repair the {facts.active[dead[0]]}: nothing can take over."
        return Headline(ALARM, f"{what}: callers get errors.", advice)
    return None


def _as_intended(facts: Facts) -> Headline | None:
    """An operator has decided."""
    if facts.mode == "auto":
        return None
    until = f" until {facts.intent['until']}" if facts.intent.get("until") else ""
    if facts.mode == "drain":
        return _drained(facts, until)
    if facts.mode == "forced":
        upstream = str(facts.intent["upstream"])
        down = facts.whose(upstream, "down")
        if down is not None:
            helps = "rescued by the backup where that can be" if upstream == "primary" else "not answered"
            return Headline(
                ALARM,
                f"Traffic is forced to the {upstream}{until}, but {down} is down: requests are {helps}.",
                f"Say `failover auto` to let health decide again, or repair the {upstream}.",
            )
        if upstream == "primary":
            left = _objects(facts.owed, "owed to it") if facts.owed else ""
            return Headline(
                ATTENTION,
                f"Traffic is forced to the primary{until}{f', though {left}' if left else ''}.",
                "Say `failover auto` when health may decide again.",
            )
        return Headline(
            ATTENTION,
            f"Traffic is forced to the backup{until}; the primary {_untouched(facts)}.",
            "Say `failover auto` when the primary may serve again.",
        )
    lost = [whose for name in UPSTREAMS if name in facts.serving and (whose := facts.whose(name, "down"))]
    if lost:
        return Headline(
            ALARM,
            f"Routing is paused{until} while {lost[0]} is down: only single requests are rescued.",
            "Say `failover auto`, and traffic moves at once.",
        )
    return Headline(
        ATTENTION,
        f"Routing is paused{until}: the {_who(facts)} answers, and nothing moves by itself.",
        "Say `failover auto` when the router may decide again.",
    )


def _drained(facts: Facts, until: str) -> Headline:
    down = facts.whose("backup", "down")
    if down is not None:
        return Headline(
            ALARM,
            f"The primary is drained{until}, but {down}, which should answer, is down: callers get errors.",
            "Say `failover auto` to let the primary serve again, or repair the backup.",
        )
    if facts.intent.get("drain") == "under_way" or facts.at_primary:
        left = facts.at_primary
        noun = "request or association is" if left == 1 else "requests and associations are"
        return Headline(
            ATTENTION,
            f"The primary is being drained{until}: {left} {noun} still there.",
            "Wait until it is empty; then it can be serviced.",
        )
    return Headline(
        ATTENTION,
        f"The primary is drained{until} and can be serviced; the backup answers.",
        "Say `failover auto` when the service is done.",
    )


def _on_the_way_back(facts: Facts) -> Headline | None:
    """The backup answers everything, by the router's own decision."""
    if facts.phase == "on_primary" or facts.serving != {"backup"}:
        return None
    since = f" since {facts.since}"
    broken = facts.whose("backup", "down")
    if broken is not None:
        return Headline(
            ALARM,
            f"{_capital(broken)} is down, which answers{since}; the primary is asked in its place.",
            "Start the backup: what it took is owed to the primary and lies there.",
        )
    down = facts.whose("primary", "down")
    if down is not None:
        return Headline(
            ATTENTION,
            f"{_capital(down)} is down; the backup answers{since}.",
            f"{_BACK_BY_ITSELF}. {_REPAIR_PRIMARY}",
        )
    shaky = facts.whose("primary", "suspect")
    if shaky is not None:
        return Headline(
            ATTENTION,
            f"{_capital(shaky)} is suspect; the backup answers{since}.",
            f"{_BACK_BY_ITSELF}: the hold-down begins anew when it is steady.",
        )
    return _primary_is_back(facts, since)


def _primary_is_back(facts: Facts, since: str) -> Headline:
    if "failback" in facts.decisions and "manual" in str(facts.failback.get("reason")):
        return Headline(
            ATTENTION,
            f"The primary is up and the way back waits for you; the backup answers{since}.",
            "Say `failover decide failback --reason …`.",
        )
    if facts.phase == "on_backup" and (facts.failback.get("hold_down_left_s") or 0) > 0:
        return Headline(
            ATTENTION,
            f"The primary is up; the backup answers{since} until the hold-down is over.",
            f"{_BACK_BY_ITSELF}.",
        )
    if facts.by_hand:
        return Headline(
            ATTENTION,
            "The primary is up and the way back waits for you: what it lacks of the backup is not known.",
            "Bring that over, then say `failover force primary --reason …` and `failover auto`.",
        )
    if facts.owed is None:
        return Headline(
            ATTENTION,
            "The primary is up, but how many objects are owed to it is not known; the way back waits.",
            "See whether archive and replicator run: they have not reported for 5 seconds.",
        )
    if "refused" in facts.decisions and not facts.owed:
        return Headline(
            ATTENTION,
            f"The primary is up, but {_not_taken(facts)}; the way back waits.",
            "`failover owed --state refused` lists them; then say `failover decide refused --reason …`.",
        )
    vanished = [name for name in facts.decisions if name.startswith("vanished")]
    if vanished:
        return Headline(
            ALARM,
            "The primary is up, but many studies have vanished from it; the way back waits for you.",
            "Ask its administrator: `failover decide vanished-owed` sends them again, "
            "`vanished-deleted` lets them go.",
        )
    if facts.owed:
        return Headline(
            ATTENTION,
            f"The primary is up; {_objects(facts.owed, 'owed to it')}, and the way back waits for "
            f"{'it' if facts.owed == 1 else 'them'}.",
            f"{_BACK_BY_ITSELF}: new objects go to the primary."
            if facts.phase == "failing_back"
            else f"{_BACK_BY_ITSELF}.",
        )
    return Headline(ATTENTION, "The primary is up; traffic is about to return.", f"{_BACK_BY_ITSELF}.")


def _apart(facts: Facts) -> Headline | None:
    """Web and DICOM are answered by different ones."""
    if len(facts.serving) < 2:
        return None
    who = ", ".join(f"{SERVICES[service]} by the {active}" for service, active in facts.active.items())
    down = facts.whose("primary", "down")
    why = f"{_capital(down)} is down; t" if down else "T"
    return Headline(
        ATTENTION,
        f"{why}raffic is answered apart since {facts.since}: {who}.",
        _REPAIR_PRIMARY if down else f"{_BACK_BY_ITSELF}.",
    )


def _on_primary(facts: Facts) -> Headline:
    down = facts.whose("primary", "down")
    if down is not None:
        return Headline(ALARM, f"{_capital(down)} is down; the backup is about to answer.", "Wait a second.")
    shaky = facts.whose("primary", "suspect")
    if shaky is not None:
        return Headline(
            ATTENTION,
            f"{_capital(shaky)} is suspect: what the backup can answer goes there, request by request.",
            f"{_BACK_BY_ITSELF}: when it lasts, all traffic moves.",
        )
    lost = facts.whose("backup", "down")
    if lost is not None:
        return Headline(
            ALARM,
            f"The primary answers, but {lost} is down: nothing would take over.",
            "Repair the backup; its reason stands below.",
        )
    unsteady = facts.whose("backup", "suspect")
    if unsteady is not None:
        return Headline(ATTENTION, f"The primary answers; {unsteady} is suspect.", "Look again in a minute.")
    return _primary_alone_matters(facts)


def _primary_alone_matters(facts: Facts) -> Headline:
    if facts.by_hand:
        return Headline(
            CALM,
            "The primary answers; the backup is up, and what it holds is not compared.",
            "Nothing to do. After a failover reads return only when you say so.",
        )
    if facts.owed is None:
        return _UNREPORTED
    if facts.lost:
        return Headline(
            ATTENTION,
            f"The primary answers, but {_not_taken(facts)}.",
            "`failover owed --state refused` lists them: whoever has what was lost must send it again.",
        )
    if facts.refused:
        return Headline(
            ATTENTION,
            f"The primary answers, but {_not_taken(facts)}; only the archive has "
            f"{'it' if facts.refused == 1 else 'them'}.",
            "Tell the PACS administrator. They are never evicted from the archive.",
        )
    if facts.owed and (facts.numbers.get("lag_s") or 0) > OLD_DEBT_S:
        return Headline(
            ATTENTION,
            f"The primary answers, but {_objects(facts.owed, 'owed to it')} for long.",
            "See why it does not take them: its log, and `store` in the reasons below.",
        )
    coverage = facts.numbers.get("coverage_ratio")
    if coverage is None:
        return Headline(
            CALM,
            "The primary answers; what the backup holds of it is not counted yet.",
            "Nothing to do: the first comparison is under way.",
        )
    if coverage < ENOUGH_COVERAGE:
        return Headline(
            CALM,
            "The primary answers; the backup is still being filled.",
            "Nothing to do: a failover now would miss what is not there yet.",
        )
    return Headline(CALM, "The primary answers and the backup is ready.", "Nothing to do.")


def _not_taken(facts: Facts) -> str:
    """What the primary does not have and will not get: it refused it, or the archive lost it."""
    words = [f"refused {_objects(facts.refused)} for good"] if facts.refused else []
    if facts.lost:
        words.append(f"the archive lost {_objects(facts.lost)} before {_they(facts.lost)} sent")
    return " and ".join(words)


def _they(count: int) -> str:
    return "it was" if count == 1 else "they were"


def _untouched(facts: Facts) -> str:
    if facts.services("primary", "down"):
        return "is down"
    return "is still replicated with" if facts.intent.get("keep_replicating") else "gets probes only"


def _who(facts: Facts) -> str:
    return " and the ".join(name for name in UPSTREAMS if name in facts.serving)


def _pairs(facts: Facts) -> Iterator[tuple[str, str]]:
    return ((upstream, service) for upstream in UPSTREAMS for service in facts.active)


def _objects(count: int | None, more: str = "") -> str:
    number = count or 0
    noun = f"{number:,} object{'' if number == 1 else 's'}"
    return f"{noun} {'is' if number == 1 else 'are'} {more}" if more else noun


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
