"""The routing machine with its clock, its ticks and its numbers, driven by plain calls. Pure: no file, no
loop.

Commands are carried out as the controller would, so far as they come back as facts: asked for numbers, it
hears them; told to end work, the work ends. What the machine said is in `told`, oldest first.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from failover.errors import IntentError
from failover.model import Service, UpstreamName, Verdict
from failover.routing.gate import gate
from failover.routing.machine import first_state, step
from failover.routing.route import route_of, whole_phase
from failover.routing.selection import Kind, choose
from failover.routing.state import (
    AskNumbers,
    Audit,
    Command,
    Decided,
    EndWork,
    Event,
    Now,
    NumbersHeard,
    Persist,
    PublishRoute,
    State,
    TimePassed,
    VerdictHeard,
    Wished,
)
from failover.routing.states import Decision, Numbers, Rules, Wish
from failover.routing.store import restored, saved

START = datetime(2026, 1, 1, 8, 0, tzinfo=UTC)
TICK_S = 0.1
EVERYTHING = frozenset((name, service) for name in UpstreamName for service in Service)


class Simulation:
    """One router. Numbers are reported each second, unless nobody reports."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules(exists=EVERYTHING)
        self.at_s = 1000.0
        self.state: State = first_state(self.now)
        self.numbers: Numbers | None = Numbers(lag_objects=0, owed_older_than_10_s=0, refused=0)
        self.work_on_primary = 0
        self.stores_on_backup = 0
        self.stored_on_backup_s: float | None = None
        self.told: list[Audit] = []
        self.commands: list[Command] = []
        self._reported_s = -1.0
        self.published = route_of(self.state, self.rules)

    @property
    def now(self) -> Now:
        return Now(self.at_s, START + timedelta(seconds=self.at_s))

    @property
    def phase(self) -> str:
        return str(whole_phase(self.state, self.rules))

    @property
    def gate(self) -> str:
        return gate(self.state, self.rules, self.at_s).reason

    def choice(self, service: Service, kind: Kind) -> str:
        choice = choose(self.published, service, kind)
        provisional = ", provisional" if choice.provisional else ""
        return f"{choice.first or 'nowhere'}, then {choice.rescue or 'nowhere'}{provisional}"

    # -- events -------------------------------------------------------------------------------------

    def hear(
        self, upstream: UpstreamName, service: Service, verdict: Verdict | None, reason: str = ""
    ) -> None:
        why = reason or f"{upstream} {service} is {verdict}"
        if (upstream, service) in self.rules.exists:
            self._step(VerdictHeard(upstream, service, verdict, why))

    def hear_all(self, verdict: Verdict, upstream: UpstreamName | None = None) -> None:
        for name, service in sorted(self.rules.exists):
            if upstream is None or name is upstream:
                self.hear(name, service, verdict)

    def wish(self, wish: Wish, actor: str = "ada") -> str | None:
        """Ask; return the sentence of a refusal."""
        return self._asked(Wished(wish, actor))

    def decide(self, decision: Decision, reason: str = "agreed", actor: str = "ada") -> str | None:
        return self._asked(Decided(decision, reason, actor))

    def report(self, numbers: Numbers | None) -> None:
        """From now on archive and replicator report these numbers."""
        self.numbers = numbers
        self._report()

    def store_on_backup(self) -> None:
        """The backup acknowledges a store through the router."""
        self.stored_on_backup_s = self.at_s

    def passes(self, seconds: float) -> None:
        """Let time pass, tick by tick."""
        ends_s = self.at_s + seconds
        while self.at_s < ends_s - 1e-9:
            self.at_s = min(ends_s, self.at_s + TICK_S)
            if self.at_s - self._reported_s >= 1.0 and self.numbers is not None:
                self._report()
            self.tick()

    def tick(self) -> None:
        last_s = self.stored_on_backup_s
        ago_s = None if last_s is None else self.at_s - last_s
        self._step(TimePassed(self.stores_on_backup, ago_s, self.work_on_primary))

    def restart(self) -> None:
        """The router is killed and comes back: what was persisted is all it knows."""
        kept = saved(self.state, self.now)
        self.at_s += 2.0
        self.state = restored(kept, self.now)
        self.published = route_of(self.state, self.rules)
        self._reported_s = -1.0

    # -- steps --------------------------------------------------------------------------------------

    def _asked(self, event: Event) -> str | None:
        before = self.state
        try:
            self._step(event)
        except IntentError as error:
            assert self.state is before
            return str(error)
        return None

    def _report(self) -> None:
        self._reported_s = self.at_s
        self._step(NumbersHeard(self.numbers, self.at_s))

    def _step(self, event: Event) -> None:
        self.state, commands = step(self.state, event, self.now, self.rules)
        check_order(commands)
        self.commands = commands or self.commands
        for command in commands:
            match command:
                case Audit():
                    self.told.append(command)
                case PublishRoute():
                    self.published = command.route
                case EndWork():
                    self.work_on_primary = 0
                case Persist() | AskNumbers():
                    pass
        if any(isinstance(command, AskNumbers) for command in commands):
            self._report()

    def learnt_again(self) -> None:
        """Forget what was told so far."""
        self.told = []

    def with_rules(self, **changed: object) -> None:
        self.rules = replace(self.rules, **changed)  # type: ignore[arg-type]


def check_order(commands: list[Command]) -> None:
    """Persist, then tell, then act."""
    rank = [0 if isinstance(c, Persist) else 1 if isinstance(c, Audit) else 2 for c in commands]
    assert rank == sorted(rank), commands
