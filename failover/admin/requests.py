"""What an operator asks for, read strictly from JSON. Pure.

Text that is not one JSON object raises BadRequest (400); an object that makes no sense as asked raises
Unprocessable (422). Whether it may be done now is the controller's to say (Refused, 409).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from failover.errors import IntentError, Unprocessable
from failover.model import Mode, UpstreamName
from failover.routing.states import Decision

Json = dict[str, Any]
_Choice = TypeVar("_Choice", bound=StrEnum)
LONGEST_REASON: Final = 500
LONGEST_FOR_S: Final = 365 * 86400.0
LONGEST_GRACE_S: Final = 86400.0
DEFAULT_GRACE_S: Final = 60.0


class BadRequest(IntentError):
    """Not one JSON object: HTTP 400."""


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """PUT /api/route. `upstream` is given for forced and drain; `reason` for all but auto."""

    mode: Mode
    upstream: UpstreamName | None = None
    reason: str | None = None
    for_s: float | None = None  # seconds until the mode is auto again; None: until an operator says so
    dry_run: bool = False
    even_if_down: bool = False
    keep_replicating: bool = False
    grace_s: float = DEFAULT_GRACE_S  # drain: how long what is in flight may go on


@dataclass(frozen=True, slots=True)
class DecisionRequest:
    """POST /api/decisions."""

    decision: Decision
    reason: str
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ProtectionRequest:
    """POST /api/archive/protection: one of a study and a patient, from now on protected or not."""

    protected: bool
    reason: str
    study_instance_uid: str | None = None
    patient_id: str | None = None


def parse_protection_request(body: bytes) -> ProtectionRequest:
    """Return what POST /api/archive/protection asks for. Raises BadRequest, Unprocessable."""
    given = _Fields(_object(body), ProtectionRequest)
    study, patient = given.text("study_instance_uid"), given.text("patient_id")
    if (study is None) == (patient is None):
        raise Unprocessable("study_instance_uid or patient_id must be given, one of the two")
    return ProtectionRequest(
        protected=given.truth("protected", required=True),
        reason=given.reason(required=True) or "",
        study_instance_uid=study,
        patient_id=patient,
    )


def parse_route_request(body: bytes) -> RouteRequest:
    """Return what PUT /api/route asks for. Raises BadRequest, Unprocessable."""
    given = _Fields(_object(body), RouteRequest)
    mode = given.one_of("mode", Mode)
    upstream = None if given.is_null("upstream") else given.one_of("upstream", UpstreamName)
    if mode is Mode.DRAIN:
        upstream = upstream or UpstreamName.PRIMARY
        if upstream is not UpstreamName.PRIMARY:
            raise Unprocessable("upstream: only the primary can be drained")
    elif mode is Mode.FORCED and upstream is None:
        raise Unprocessable("upstream: must be primary or backup when mode is forced")
    elif mode in (Mode.AUTO, Mode.PAUSED) and upstream is not None:
        raise Unprocessable(f"upstream: must be left out when mode is {mode}")
    for_s = given.seconds("for_s", LONGEST_FOR_S, above_zero=True)
    if mode is Mode.AUTO and for_s is not None:
        raise Unprocessable("for_s: auto has no end")
    grace_s = given.seconds("grace_s", LONGEST_GRACE_S)
    return RouteRequest(
        mode=mode,
        upstream=upstream,
        reason=given.reason(required=mode is not Mode.AUTO),
        for_s=for_s,
        dry_run=given.truth("dry_run"),
        even_if_down=given.truth("even_if_down"),
        keep_replicating=given.truth("keep_replicating"),
        grace_s=DEFAULT_GRACE_S if grace_s is None else grace_s,
    )


def parse_decision_request(body: bytes) -> DecisionRequest:
    """Return what POST /api/decisions asks for. Raises BadRequest, Unprocessable."""
    given = _Fields(_object(body), DecisionRequest)
    return DecisionRequest(
        decision=given.one_of("decision", Decision),
        reason=given.reason(required=True) or "",
        dry_run=given.truth("dry_run"),
    )


class _Fields:
    """The fields of one object, each read once and strictly."""

    def __init__(
        self, content: Json, request: type[RouteRequest | DecisionRequest | ProtectionRequest]
    ) -> None:
        known = list(request.__dataclass_fields__)
        for key in content:
            if key not in known:
                raise Unprocessable(f"{key[:40]}: unknown field; known are {', '.join(known)}")
        self._content = content

    def is_null(self, key: str) -> bool:
        return self._content.get(key) is None

    def one_of(self, key: str, choices: type[_Choice]) -> _Choice:
        value = self._content.get(key)
        if not isinstance(value, str) or value not in list(choices):
            raise Unprocessable(f"{key}: must be {' or '.join(choices)}")
        return choices(value)

    def reason(self, *, required: bool) -> str | None:
        value = self._content.get("reason")
        if value is not None and not isinstance(value, str):
            raise Unprocessable("reason: must be text")
        text = " ".join((value or "").split())
        if not text:
            if required:
                raise Unprocessable("reason: must say why; whoever comes next reads it")
            return None
        if len(text) > LONGEST_REASON:
            raise Unprocessable(f"reason: must have at most {LONGEST_REASON} characters, has {len(text)}")
        if not text.isprintable():
            raise Unprocessable("reason: must be printable text")
        return text

    def seconds(self, key: str, longest: float, *, above_zero: bool = False) -> float | None:
        value = self._content.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Unprocessable(f"{key}: must be a number of seconds")
        if value < 0 or value > longest or (above_zero and value == 0):
            raise Unprocessable(
                f"{key}: must be {'more than 0' if above_zero else '0'} to {longest:.0f} seconds"
            )
        return float(value)

    def text(self, key: str) -> str | None:
        value = self._content.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip() or len(value) > 64 or not value.isprintable():
            raise Unprocessable(f"{key}: must be printable text of at most 64 characters")
        return value.strip()

    def truth(self, key: str, *, required: bool = False) -> bool:
        value = self._content.get(key)
        if value is None and not required:
            return False
        if not isinstance(value, bool):
            raise Unprocessable(f"{key}: must be true or false")
        return value


def _object(body: bytes) -> Json:
    try:
        content = json.loads(body.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no)
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            raise BadRequest(f"the body is not JSON: {error.msg} at character {error.pos}") from None
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadRequest("the body must be a JSON object")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a field is given twice")
    return content


def _no(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
