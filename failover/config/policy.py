"""When to move and to return, and how the archive is filled: `policy` and `replication`. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from failover.config.blocks import Block
from failover.config.scalars import Duration, Truth, Whole


class Hedge(Block):
    """A slow read of one instance, asked of the backup too while the primary is up."""

    enabled: Truth = Field(True, description="`false`: while the primary is up, it alone answers slow reads")
    after_min: Duration = Field(0.25, gt=0, description="never before so long without an answer")
    after_max: Duration = Field(
        2.0,
        gt=0,
        description="at the latest after so long; between the two, what is usual for the kind of read",
    )


class Policy(Block):
    fail_after: Duration = Field(5.0, gt=0, description="`suspect` without a break for so long is `down`")
    failback: Literal["auto", "manual"] = Field("auto", description="who begins the way back")
    hold_down: Duration = Field(
        60.0,
        ge=0,
        description="how long the primary must be up without a suspicion before the way back begins",
    )
    together: Truth = Field(
        True, description="web and DICOM move together when both services of the backup are up"
    )
    refused_hold: Duration = Field(
        3600.0, ge=0, description="how long refused objects hold up an automatic failback"
    )
    hedge: Hedge = Field(
        default_factory=Hedge, description="a slow read of one instance, asked of the backup too"
    )


class Replication(Block):
    poll_every: Duration = Field(10.0, gt=0, description="how often new and changed studies are looked for")
    window_days: Whole | None = Field(None, ge=1, description="how far back; default: archive.retention.days")
    recheck: Duration = Field(
        604800.0, ge=0, description="after an outage, objects younger than this are asked for again"
    )
    tee: Truth = Field(True, description="a copy of each store on its way to the primary")
