"""What is said of each object that is owed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from failover.admin.questions import SplitQuestion
from failover.app import debt_lists
from failover.app.debt_lists import DebtLists, _entry
from failover.clock import SystemClock
from failover.control import ControlServer, Json, socket_path
from failover.model import LOST


@pytest.mark.parametrize(
    ("status", "said"), [(0xA900, "0xA900"), (LOST, "damaged or gone in the archive: send it again")]
)
def test_why_an_object_is_refused(status: int, said: str) -> None:
    entry = {
        "state": "refused",
        "sop_instance_uid": "1.2",
        "study_instance_uid": "1",
        "refused_status": status,
    }
    assert _entry(entry, {}, datetime(2026, 1, 1, tzinfo=UTC))["last_status"] == said


async def test_split_studies_are_looked_for_a_part_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debt_lists, "_STUDIES_LOOKED_AT", 3)
    in_debt = [f"1.{number}" for number in range(1, 8)]
    asked = []

    async def studies(question: Json) -> Json:
        asked.append(question["after"])
        behind = [uid for uid in in_debt if uid > (question["after"] or "")]
        return {"studies": [{"study_instance_uid": uid, "since": 0.0} for uid in behind[: question["limit"]]]}

    async def shown(question: Json) -> Json:
        split = {"1.4", "1.5", "1.6"} & set(question["study_instance_uids"])
        return {"studies": {uid: {"instances": 1, "missing": 0} for uid in split}}

    servers = [
        ControlServer(socket_path(tmp_path, "archive"), {"ledger.studies": studies}),
        ControlServer(socket_path(tmp_path, "replicator"), {"studies.shown": shown}),
    ]
    for server in servers:
        await server.start()
    lists = DebtLists(tmp_path, SystemClock(), present=True)
    pages: list[tuple[list[str], str | None]] = []
    after = None
    while not pages or after is not None:
        answer = await lists.split(SplitQuestion(2, after))
        after = answer["next"]
        pages.append(([one["study_instance_uid"] for one in answer["studies"]], after))
    for server in servers:
        await server.stop()
    assert pages == [([], "1.3"), (["1.4", "1.5"], "1.5"), (["1.6"], None)]
    assert asked == [None, "1.3", "1.5"]
