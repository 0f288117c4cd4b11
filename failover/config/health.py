"""Which probes, how often, how strict: `health` of the configuration. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from failover.config.blocks import Block
from failover.config.scalars import Duration, Pattern, Truth, Whole, shown


class HealthDicom(Block):
    interval: Duration = Field(5.0, gt=0, description="in calm: a fresh association with C-ECHO each time")
    timeout: Duration = Field(3.0, gt=0, description="how long association and answer may take")


def _statuses(value: object) -> object:
    if isinstance(value, tuple):
        return value
    match = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", str(value).strip())
    if match is None:
        raise ValueError(f"must be a status or a range such as 200 or 200-399, is {shown(value)}")
    return int(match[1]), int(match[2] or match[1])


class HttpProbe(Block):
    """The probe of the web side's reach."""

    method: Literal["HEAD", "GET", "tcp"] = Field("HEAD", description="`tcp`: opening a connection is enough")
    path: str = Field("/", pattern=r"^/[!-~]*$", description="what is asked for")
    status: Annotated[tuple[int, int], BeforeValidator(_statuses)] = Field(
        (200, 499), description="statuses that pass: one, or a range"
    )
    body_pattern: Pattern | None = Field(
        None, description="regular expression that the body must contain (GET)"
    )
    json_pointer: str | None = Field(None, description="RFC 6901 pointer into a JSON body (GET)")
    json_value: str | None = Field(None, description="what must stand there, as text")
    slower_than: Duration | None = Field(None, description="an answer slower than this is a failure")


class Health(Block):
    interval: Duration = Field(1.0, gt=0, description="HTTP probes, in calm")
    fast_interval: Duration = Field(0.2, gt=0, description="every probe, while in doubt")
    timeout: Duration = Field(0.4, gt=0, description="how long an HTTP probe may take")
    dicom: HealthDicom = Field(default_factory=HealthDicom, description="the C-ECHO probe")
    rise: Whole = Field(3, ge=1, description="good probes in a row, of each part, that end `down`")
    fall: Whole = Field(2, ge=1, description="failed probes in a row that make `suspect`")
    web: HttpProbe = Field(default_factory=HttpProbe, description="the HTTP probe")
    search: Truth = Field(True, description="search for a study known to be there")
    search_interval: Duration = Field(10.0, gt=0, description="how often, in calm")
    frame: Truth = Field(True, description="fetch one frame")
    frame_interval: Duration = Field(60.0, gt=0, description="how often, in calm")
