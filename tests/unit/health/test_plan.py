"""Which probes go out, and how many a day."""

from __future__ import annotations

from pathlib import Path

from failover.config.load import parse
from failover.config.schema import Configuration
from failover.health.plan import existing, planned, probes_per_day
from failover.model import Part, Service, UpstreamName

WEB = "primary:\n  web: {url: http://127.0.0.1:8042}\n"
DICOM = "  dicom: {host: 127.0.0.1, port: 4242, ae_title: ORTHANC}\n"


def configuration(text: str) -> Configuration:
    return parse(text, name="failover.yaml", folder=Path("/nowhere"))


def test_what_the_primary_feels_in_calm() -> None:
    assert probes_per_day(configuration(WEB + DICOM), UpstreamName.PRIMARY) == {
        "web HEAD /": 86_400,
        "web QIDO": 8_640,
        "web frame": 1_440,
        "dicom C-ECHO": 17_280,
        "dicom C-FIND": 8_640,
    }


def test_what_does_not_exist_gets_no_probe() -> None:
    alone = configuration(WEB)
    assert (UpstreamName.PRIMARY, Service.DICOM) not in existing(alone)
    assert not [
        p for p in planned(alone) if p.upstream is UpstreamName.PRIMARY and p.service is Service.DICOM
    ]


def test_without_dicomweb_a_web_side_is_only_reached() -> None:
    plan = planned(configuration(WEB + "  dicomweb: {path: null}\n"))
    assert [p.part for p in plan if p.upstream is UpstreamName.PRIMARY] == [Part.REACH]


def test_search_and_frame_can_be_left_out() -> None:
    plan = planned(configuration(WEB + DICOM + "health: {search: false}\n"))
    assert {p.part for p in plan} == {Part.REACH}
    plan = planned(configuration(WEB + DICOM + "health: {frame: false}\n"))
    assert {p.part for p in plan} == {Part.REACH, Part.QUERY}
