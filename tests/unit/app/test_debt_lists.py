"""What is said of each object that is owed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from failover.app.debt_lists import _entry
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
