"""The language of the scenario files: one sentence a line, as a radiology administrator would say it.

A file is a row of blocks. A block is what happens, a line `----`, and what follows: first every entry of
the audit trail but verdicts, in order; then what is asked of the machine at that moment (`phase:`,
`gate:`, `web read:` …). The next block goes on where this one ended. `given …` begins with a new router.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from failover.audit.events import EventKind
from failover.model import Mode, Service, UpstreamName, Verdict
from failover.routing.selection import Kind
from failover.routing.state import Audit
from failover.routing.states import Decision, Numbers, Rules, Wish

from .simulation import EVERYTHING, Simulation


@dataclass(frozen=True)
class Block:
    """What happens and what follows, with the line where it begins."""

    line: int
    happens: list[str]
    follows: list[str]


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    happens: list[str] = []
    follows: list[str] | None = None
    began = 1
    for number, raw in enumerate([*text.splitlines(), ""], 1):
        line = raw.split("#", 1)[0].strip()
        if line == "----":
            follows = []
        elif line and follows is not None:
            follows.append(line)
        elif line:
            began = began if happens else number
            happens.append(line)
        elif follows is not None:
            found.append(Block(began, happens, follows))
            happens, follows = [], None
    assert not happens, f"line {began}: nothing is said to follow"
    return found


class Story:
    """Carries out sentences and answers what follows."""

    def __init__(self) -> None:
        self.router = Simulation()
        self._refused: list[str] = []

    def happens(self, sentence: str) -> None:
        for pattern, act in _SENTENCES:
            match = re.fullmatch(pattern, sentence)
            if match is not None:
                act(self, match)
                return
        raise AssertionError(f"not understood: {sentence}")

    def follows(self, asked: list[str]) -> list[str]:
        """Return what is true, in the form of what was asked for."""
        told = [_shown(entry) for entry in self.router.told if entry.kind is not EventKind.VERDICT]
        answers = [*told, *self._refused]
        self.router.told, self._refused = [], []
        for line in asked:
            question = line.split(":", 1)[0]
            if question == "phase":
                answers.append(f"phase: {self.router.phase}")
            elif question == "gate":
                answers.append(f"gate: {self.router.gate}")
            elif question == "commands":
                names = ", ".join(type(command).__name__ for command in self.router.commands)
                answers.append(f"commands: {names}")
            elif question == "stores are held":
                answers.append(f"stores are held: {'yes' if self.router.published.hold_stores else 'no'}")
            elif match := re.fullmatch(r"(web|dicom) (read|store|other)", question):
                choice = self.router.choice(Service(match[1]), Kind(match[2]))
                answers.append(f"{question}: {choice}")
        return answers

    # -- sentences ----------------------------------------------------------------------------------

    def given(self, match: re.Match[str]) -> None:
        self.router = Simulation()
        words = [word.strip() for word in match[1].split(",")]
        rules = Rules(exists=EVERYTHING)
        for word in words:
            if word == "an ordinary day":
                continue
            if m := re.fullmatch(r"hold-down (\d+) s", word):
                rules = _with(rules, hold_down_s=float(m[1]))
            elif word == "failback manual":
                rules = _with(rules, failback_auto=False)
            elif word == "a backup of another make":
                rules = _with(rules, keeps_ledger=False)
            elif word == "services on their own":
                rules = _with(rules, together=False)
            elif m := re.fullmatch(r"a primary without (web|dicom)", word):
                rules = _with(rules, exists=EVERYTHING - {(UpstreamName.PRIMARY, Service(m[1]))})
            elif word == "a router that just began":
                self.router = Simulation(rules)
                return
            else:
                raise AssertionError(f"not understood: given {word}")
        self.router = Simulation(rules)
        self.router.report(self.router.numbers)
        self.router.hear_all(Verdict.UP)
        self.router.passes(120)
        self.router.told = []

    def verdict(self, match: re.Match[str]) -> None:
        name, service, verdict, reason = match[1], match[2], Verdict(match[3]), match[4] or ""
        for each in [Service(service)] if service else Service:
            self.router.hear(UpstreamName(name), each, verdict, reason)

    def passes(self, match: re.Match[str]) -> None:
        self.router.passes(float(match[1]) * {"ms": 0.001, "s": 1, "min": 60, "h": 3600}[match[2]])

    def owed(self, match: re.Match[str]) -> None:
        count = {"nothing": 0}.get(match[1]) if match[1] == "nothing" else int(match[1])
        older = count if match[2] is None else {"none": 0}.get(match[2], 0)
        before = self.router.numbers or Numbers(refused=0)
        self.router.report(
            Numbers(lag_objects=count, lag_s=0.0, owed_older_than_10_s=older, refused=before.refused)
        )

    def unknown(self, _match: re.Match[str]) -> None:
        self.router.report(None)

    def refused(self, match: re.Match[str]) -> None:
        before = self.router.numbers or Numbers()
        self.router.report(
            Numbers(
                lag_objects=before.lag_objects,
                owed_older_than_10_s=before.owed_older_than_10_s,
                refused=int(match[1]) + int(match[2] or 0),
                lost=int(match[2] or 0),
            )
        )

    def recheck(self, match: re.Match[str]) -> None:
        before = self.router.numbers or Numbers(lag_objects=0, owed_older_than_10_s=0, refused=0)
        done = {"done": True, "not done": False, "not known": None}[match[1]]
        self.router.report(replace(before, recheck_done=done, vanished=0, wants_decision=False))

    def vanished(self, match: re.Match[str]) -> None:
        before = self.router.numbers or Numbers(lag_objects=0, owed_older_than_10_s=0, refused=0)
        count = int(match[1])
        self.router.report(replace(before, recheck_done=False, vanished=count, wants_decision=True))

    def wishes(self, match: re.Match[str]) -> None:
        verb, rest, reason = match[1], match[2] or "", match[3] or ""
        mode, upstream = {
            "forces the backup": (Mode.FORCED, UpstreamName.BACKUP),
            "forces the primary": (Mode.FORCED, UpstreamName.PRIMARY),
            "drains the primary": (Mode.DRAIN, None),
            "pauses": (Mode.PAUSED, None),
            "hands back": (Mode.AUTO, None),
        }[verb]
        hours = re.search(r"for (\d+) h", rest)
        grace = re.search(r"grace (\d+) s", rest)
        wish = Wish(
            mode,
            upstream,
            reason,
            for_s=3600.0 * int(hours[1]) if hours else None,
            even_if_down="even if down" in rest,
            keep_replicating="keep replicating" in rest,
            grace_s=float(grace[1]) if grace else 60.0,
        )
        self._say(self.router.wish(wish))

    def decides(self, match: re.Match[str]) -> None:
        self._say(self.router.decide(Decision(match[1]), match[2]))

    def _say(self, refusal: str | None) -> None:
        if refusal is not None:
            self._refused.append(f"refused: {refusal}")

    def stores(self, _match: re.Match[str]) -> None:
        self.router.store_on_backup()

    def work(self, match: re.Match[str]) -> None:
        self.router.work_on_primary = 0 if match[1] == "nothing" else int(match[1])

    def under_way(self, match: re.Match[str]) -> None:
        self.router.stores_on_backup = 0 if match[1] == "no" else int(match[1])

    def looked_away(self, _match: re.Match[str]) -> None:
        self.router.told = []

    def restarts(self, _match: re.Match[str]) -> None:
        self.router.restart()


Act = Callable[[Story, "re.Match[str]"], None]
_SENTENCES: list[tuple[str, Act]] = [
    (r"given (.+)", Story.given),
    (r"(primary|backup)(?: (web|dicom))? is (up|suspect|down)(?:: (.+))?", Story.verdict),
    (r"(\d+(?:\.\d+)?) (ms|s|min|h) pass(?:es)?", Story.passes),
    (r"(nothing|\d+) (?:is|are) owed(?:, (none) of it older than 10 s)?", Story.owed),
    (r"nobody knows what is owed", Story.unknown),
    (r"the recheck is (done|not done|not known)", Story.recheck),
    (r"the recheck finds that (\d+) studies vanished", Story.vanished),
    (r"(\d+) (?:is|are) refused by the primary(?:, (\d+) lost in the archive)?", Story.refused),
    (
        r"ada (forces the backup|forces the primary|drains the primary|pauses|hands back)"
        r"((?:,? (?:for \d+ h|even if down|keep replicating|grace \d+ s))*)(?:: (.+))?",
        Story.wishes,
    ),
    (r"ada decides ([a-z-]+): (.+)", Story.decides),
    (r"the router stores on the backup", Story.stores),
    (r"(nothing|\d+) (?:is|are) at the primary", Story.work),
    (r"(no|\d+) stores? (?:is|are) under way to the backup", Story.under_way),
    (r"nobody looks at the trail so far", Story.looked_away),
    (r"the router restarts", Story.restarts),
]


def _with(rules: Rules, **changed: object) -> Rules:
    return replace(rules, **changed)  # type: ignore[arg-type]


def _shown(entry: Audit) -> str:
    if entry.kind is EventKind.TRANSITION:
        return f"{entry.service}: {entry.from_} -> {entry.to}: {entry.reason}"
    where = f" {entry.service}" if entry.service is not None else ""
    return f"{entry.kind}{where}: {entry.code}"
