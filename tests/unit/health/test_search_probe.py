"""The search probe sees an empty database, and forgives a deleted study."""

from __future__ import annotations

import pytest

from failover.clock import ManualClock
from failover.errors import LoginWanted, UpstreamBroke, UpstreamRefused
from failover.health.search import KnownStudies, SearchProbe


class Catalogue:
    """A PACS that can lose studies. `dated` are those with a study date of the last days."""

    name = "QIDO"

    def __init__(self, studies: list[str], *, dated: bool = True) -> None:
        self.studies = studies
        self.dated = dated
        self.asked = 0

    async def holds(self, study_instance_uid: str) -> bool:
        self.asked += 1
        return study_instance_uid in self.studies

    async def recent(self, dates: str | None, limit: int) -> list[str]:
        self.asked += 1
        return self.studies[:limit] if dates is None or self.dated else []


def probe(catalogue: Catalogue) -> SearchProbe:
    return SearchProbe(catalogue, KnownStudies(), ManualClock())


async def test_it_learns_then_asks_for_one_known_study() -> None:
    catalogue = Catalogue([f"1.2.{n}" for n in range(20)])
    ask = probe(catalogue).ask
    assert await ask() == "QIDO is answered"
    assert catalogue.asked == 1
    assert await ask() == "QIDO finds a known study"
    assert catalogue.asked == 2


async def test_old_studies_are_learnt_too() -> None:
    catalogue = Catalogue(["1.2.3", "1.2.4", "1.2.5"], dated=False)
    searching = probe(catalogue)
    await searching.ask()
    assert await searching.ask() == "QIDO finds a known study"


async def test_an_empty_database_fails() -> None:
    catalogue = Catalogue(["1.2.3", "1.2.4", "1.2.5"])
    searching = probe(catalogue)
    await searching.ask()
    catalogue.studies = []
    for _ in range(3):
        with pytest.raises(UpstreamBroke, match="finds none of 3 known studies"):
            await searching.ask()


async def test_a_deleted_study_is_forgiven_and_forgotten() -> None:
    catalogue = Catalogue(["1.2.3", "1.2.4", "1.2.5", "1.2.6"])
    searching = probe(catalogue)
    await searching.ask()
    catalogue.studies = ["1.2.4", "1.2.5", "1.2.6"]
    before = catalogue.asked
    for _ in range(8):
        assert await searching.ask() == "QIDO finds a known study"
    assert catalogue.asked == before + 9  # one search more, once


async def test_two_known_studies_are_too_few_to_judge() -> None:
    catalogue = Catalogue(["1.2.3", "1.2.4"])
    searching = probe(catalogue)
    await searching.ask()
    catalogue.studies = []
    assert "few known" in await searching.ask()
    assert await searching.ask() == "QIDO is answered, no study is known"


async def test_without_a_known_study_an_answer_passes_and_costs_one_search() -> None:
    catalogue = Catalogue([])
    searching = probe(catalogue)
    await searching.ask()
    before = catalogue.asked
    assert await searching.ask() == "QIDO is answered, no study is known"
    assert catalogue.asked == before + 1


async def test_a_refusal_is_a_failure() -> None:
    class Refusing(Catalogue):
        async def recent(self, dates: str | None, limit: int) -> list[str]:
            raise UpstreamRefused("QIDO gives 500", transient=True)

    with pytest.raises(UpstreamRefused):
        await probe(Refusing([])).ask()


class Locked(Catalogue):
    """A PACS that wants a login for every search, from some time on."""

    locked = True

    async def holds(self, study_instance_uid: str) -> bool:
        self._look_at_the_door()
        return await super().holds(study_instance_uid)

    async def recent(self, dates: str | None, limit: int) -> list[str]:
        self._look_at_the_door()
        return await super().recent(dates, limit)

    def _look_at_the_door(self) -> None:
        if self.locked:
            raise LoginWanted("QIDO gives 401", transient=False)


async def test_a_primary_that_wants_a_login_is_no_dead_one() -> None:
    searching = probe(Locked(["1.2.3"]))
    for _ in range(3):
        assert await searching.ask() == "QIDO wants a login, no study is known"


async def test_one_that_let_us_in_before_fails_when_it_wants_a_login_now() -> None:
    catalogue = Locked(["1.2.3"])
    catalogue.locked = False
    searching = probe(catalogue)
    await searching.ask()
    catalogue.locked = True
    with pytest.raises(LoginWanted):
        await searching.ask()
