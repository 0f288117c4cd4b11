"""What every block of the configuration is. Pure."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from failover.config.scalars import parse_network

LOOPBACK = [parse_network("127.0.0.0/8"), parse_network("::1")]


class Block(BaseModel):
    """One mapping of the file: unknown keys are refused, nothing changes after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def text_or_block(value: object) -> str:
    return "text" if isinstance(value, str) else "block"
