"""Which probes each service gets, at which rhythm, and how many that is a day. Pure.

`planned` is the one place that reads `health` of the configuration; `checker` makes the probes of it, and
`failover check` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from failover.config.schema import Configuration, Upstream
from failover.model import Part, Service, UpstreamName

DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class PlannedProbe:
    """One probe of one service: what, how often in calm, and how long it may take."""

    upstream: UpstreamName
    service: Service
    part: Part
    what: str
    interval_s: float
    timeout_s: float
    # Searches and frames may be as slow as they usually are: their limit follows what was measured.
    follows_measured: bool = False
    # A PACS has few DICOM slots: with several callers waiting an answer takes its time.
    few_slots: bool = False

    @property
    def per_day(self) -> int:
        return round(DAY_S / self.interval_s)


def upstreams(configuration: Configuration) -> Mapping[UpstreamName, Upstream]:
    """Return both upstreams. Raises nothing: a configuration without primary has the backup alone."""
    named = {UpstreamName.BACKUP: configuration.backup_upstream}
    if configuration.primary is not None:
        named[UpstreamName.PRIMARY] = configuration.primary
    return named


def existing(configuration: Configuration) -> frozenset[tuple[UpstreamName, Service]]:
    """Return the services that are configured: what is left out has no probe and moves nothing."""
    found = set()
    for name, upstream in upstreams(configuration).items():
        if upstream.web is not None:
            found.add((name, Service.WEB))
        if upstream.dicom is not None:
            found.add((name, Service.DICOM))
    return frozenset(found)


def planned(configuration: Configuration) -> list[PlannedProbe]:
    """Return every probe that goes out in calm."""
    health, plan = configuration.health, []
    for name, upstream in upstreams(configuration).items():
        web, dicom = Service.WEB, Service.DICOM
        if upstream.web is not None:
            what = "TCP" if health.web.method == "tcp" else f"{health.web.method} {health.web.path}"
            plan.append(PlannedProbe(name, web, Part.REACH, what, health.interval, health.timeout))
        if upstream.dicomweb_path is not None and health.search:
            plan.append(
                PlannedProbe(name, web, Part.QUERY, "QIDO", health.search_interval, health.timeout, True)
            )
        if upstream.dicomweb_path is not None and health.search and health.frame:
            plan.append(
                PlannedProbe(name, web, Part.RETRIEVE, "frame", health.frame_interval, health.timeout, True)
            )
        if upstream.dicom is not None:
            side = health.dicom
            plan.append(
                PlannedProbe(name, dicom, Part.REACH, "C-ECHO", side.interval, side.timeout, few_slots=True)
            )
            if health.search:
                plan.append(
                    PlannedProbe(
                        name, dicom, Part.QUERY, "C-FIND", health.search_interval, side.timeout, True, True
                    )
                )
    return plan


def probes_per_day(configuration: Configuration, upstream: UpstreamName) -> dict[str, int]:
    """Return what `upstream` will feel in calm: {"web HEAD /": 86400, "dicom C-ECHO": 17280, …}."""
    return {
        f"{probe.service} {probe.what}": probe.per_day
        for probe in planned(configuration)
        if probe.upstream is upstream
    }
