"""What an operator asks for is read strictly: 400 for what is no object, 422 for what makes no sense."""

from __future__ import annotations

import json
from typing import Any

import pytest

from failover.admin.requests import (
    BadRequest,
    DecisionRequest,
    RouteRequest,
    parse_decision_request,
    parse_route_request,
)
from failover.errors import Unprocessable
from failover.model import Mode, UpstreamName
from failover.routing.states import Decision


def route(**fields: Any) -> RouteRequest:
    return parse_route_request(json.dumps(fields).encode())


def test_the_request_of_the_contract() -> None:
    asked = route(
        mode="forced", upstream="backup", reason=" images \n are black ", for_s=7200, dry_run=False,
        even_if_down=False, keep_replicating=True, grace_s=60,
    )  # fmt: skip
    assert asked == RouteRequest(
        Mode.FORCED, UpstreamName.BACKUP, "images are black", for_s=7200.0, keep_replicating=True
    )


def test_all_but_the_mode_may_be_left_out_or_null() -> None:
    assert route(mode="auto") == RouteRequest(Mode.AUTO)
    nothing = {"upstream": None, "reason": None, "for_s": None, "dry_run": None, "grace_s": None}
    assert route(mode="auto", **nothing) == RouteRequest(Mode.AUTO)
    assert route(mode="auto", reason="") == RouteRequest(Mode.AUTO)
    assert route(mode="drain", reason="x").upstream is UpstreamName.PRIMARY
    assert route(mode="paused", reason="x", for_s=0.5).for_s == 0.5
    assert route(mode="drain", reason="x", grace_s=0).grace_s == 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "mode: must be auto or forced or drain or paused"),
        ({"mode": "force"}, "mode: must be auto or forced or drain or paused"),
        ({"mode": ["auto"]}, "mode: must be auto or forced or drain or paused"),
        ({"mode": "forced", "upstream": "backup"}, "reason: must say why; whoever comes next reads it"),
        ({"mode": "forced", "upstream": "backup", "reason": " \n"}, "reason: must say why"),
        ({"mode": "forced", "reason": "x"}, "upstream: must be primary or backup when mode is forced"),
        ({"mode": "forced", "reason": "x", "upstream": "both"}, "upstream: must be primary or backup"),
        ({"mode": "drain", "reason": "x", "upstream": "backup"}, "upstream: only the primary can be drained"),
        ({"mode": "auto", "upstream": "primary"}, "upstream: must be left out when mode is auto"),
        ({"mode": "paused", "reason": "x", "upstream": "primary"}, "upstream: must be left out when mode"),
        ({"mode": "auto", "for_s": 60}, "for_s: auto has no end"),
        ({"mode": "paused", "reason": "x", "for_s": 0}, "for_s: must be more than 0 to 31536000 seconds"),
        ({"mode": "paused", "reason": "x", "for_s": -1}, "for_s: must be more than 0"),
        ({"mode": "paused", "reason": "x", "for_s": 1e300}, "for_s: must be more than 0"),
        ({"mode": "paused", "reason": "x", "for_s": "2h"}, "for_s: must be a number of seconds"),
        ({"mode": "paused", "reason": "x", "for_s": True}, "for_s: must be a number of seconds"),
        ({"mode": "paused", "reason": 4711}, "reason: must be text"),
        ({"mode": "paused", "reason": "x" * 501}, "reason: must have at most 500 characters, has 501"),
        ({"mode": "paused", "reason": "a\u202eb"}, "reason: must be printable text"),
        ({"mode": "paused", "reason": "x", "dry_run": "yes"}, "dry_run: must be true or false"),
        ({"mode": "paused", "reason": "x", "dry_run": 1}, "dry_run: must be true or false"),
        ({"mode": "drain", "reason": "x", "grace_s": -1}, "grace_s: must be 0 to 86400 seconds"),
        ({"mode": "auto", "for": 60}, "for: unknown field; known are mode, upstream, reason, for_s"),
    ],
)
def test_what_makes_no_sense_is_told(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        route(**fields)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body is not JSON: Expecting value at character 0"),
        (b"mode=auto", "the body is not JSON: Expecting value at character 0"),
        (b'{"mode": "auto",}', "the body is not JSON"),
        (b'"auto"', "the body must be a JSON object"),
        (b"[]", "the body must be a JSON object"),
        (b'{"mode": "auto", "mode": "paused"}', "the body is not JSON: a field is given twice"),
        (b'{"mode": "paused", "for_s": NaN}', "the body is not JSON: NaN is no JSON number"),
        (b'{"mode": "\xff"}', "the body is not UTF-8"),
        (b"[" * 50_000, "the body is not JSON"),
    ],
)
def test_what_is_no_object_is_told(body: bytes, sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_route_request(body)
    assert str(caught.value).startswith(sentence)


def test_decisions() -> None:
    asked = parse_decision_request(
        b'{"decision": "vanished-owed", "reason": "dump restored", "dry_run": true}'
    )
    assert asked == DecisionRequest(Decision.VANISHED_OWED, "dump restored", dry_run=True)
    for body in (b"{}", b'{"decision": "failback"}', b'{"decision": "maybe", "reason": "x"}'):
        with pytest.raises(Unprocessable):
            parse_decision_request(body)
