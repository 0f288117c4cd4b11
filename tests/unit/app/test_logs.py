"""What libraries log through us."""

from __future__ import annotations

import logging

import pytest
from aiohttp.client_exceptions import ClientConnectionResetError

from failover.app.logs import no_caller_left


@pytest.mark.parametrize(("error", "told"), [
    (ConnectionResetError("Connection lost"), False), (ClientConnectionResetError("closing"), False),
    (ValueError("a fault of ours"), True), (None, True),
])  # fmt: skip
def test_a_caller_that_went_away_leaves_no_trace_in_the_log(error: Exception | None, told: bool) -> None:
    exc_info = None if error is None else (type(error), error, None)
    record = logging.LogRecord(
        "aiohttp.server", logging.ERROR, "f", 1, "Error handling request", None, exc_info
    )
    assert no_caller_left(record) is told
