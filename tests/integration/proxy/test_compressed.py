"""A primary that compresses what it may, as Orthanc does, before callers who take it so, as all browsers do.

What DICOMweb answers is read on its way, so it must come plain; everything else passes as it is.
"""

from __future__ import annotations

import gzip
import json

import pytest

from failover.http.multipart import MultipartWriter
from failover.proxy.stow import REFERENCED
from tests.fakes.backend import Received, Script, Talk, answer
from tests.fakes.web_stage import Stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]
TAKES_IT = "Accept-Encoding: gzip, deflate, br"
STUDIES = "/dicom-web/studies"
STORED = [{REFERENCED: {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2.3"]}}]}}]


def gives(value: object, *, unasked: bool = False) -> Script:
    async def script(received: Received, talk: Talk) -> None:
        body, lines = json.dumps(value).encode(), ["Content-Type: application/dicom+json"]
        if unasked or "gzip" in (received.header("Accept-Encoding") or "gzip"):
            body = gzip.compress(body)
            lines.append("Content-Encoding: gzip")
        await talk.send(answer(body, "200 OK", *lines))

    return script


async def store(stage: Stage, *lines: str) -> str | None:
    writer = MultipartWriter("b0123456789")
    body = writer.part_head({"Content-Type": "application/dicom"}) + b"x" * 500 + writer.end()
    kind = f"Content-Type: {writer.content_type('application/dicom')}"
    answered = await stage.ask(STUDIES, kind, *lines, method="POST", body=body)
    assert answered.status == 200
    return answered.upstream


@pytest.mark.parametrize("lines", [(TAKES_IT,), ()])
async def test_a_store_that_the_primary_took_is_not_taken_for_a_failure(
    stage: Stage, lines: tuple[str, ...]
) -> None:
    stage.primary.script = gives(STORED)
    assert await store(stage, *lines) == "primary"
    assert stage.backup.requests == []


async def test_nor_when_it_compresses_although_nobody_asked_for_it(stage: Stage) -> None:
    stage.primary.script = gives(STORED, unasked=True)
    assert await store(stage) == "primary"
    assert stage.backup.requests == []


async def test_its_urls_lead_back(stage: Stage) -> None:
    own = f"http://127.0.0.1:{stage.primary.port}"
    stage.primary.script = gives([{"00081190": {"vr": "UR", "Value": [f"{own}/dicom-web/studies/1"]}}])
    for _ in range(2):  # the second head is known from the first
        answered = await stage.ask(STUDIES, TAKES_IT)
        assert answered.header("Content-Encoding") is None
        assert json.loads(answered.body)[0]["00081190"]["Value"] == [
            "http://pacs.example/dicom-web/studies/1"
        ]


async def test_pages_pass_as_they_are(stage: Stage) -> None:
    stage.primary.script = gives("page")
    caller = await stage.caller()
    for target, plain in (("/app.js", False), (STUDIES, True), ("/app.js", False), (STUDIES, True)):
        answered = await caller.ask(target, TAKES_IT)  # one caller, whose fields are read once
        assert (answered.header("Content-Encoding") is None) is plain
        received = stage.primary.requests[-1]
        told = [value for name, value in received.headers if name.lower() == "accept-encoding"]
        assert told == ["identity" if plain else TAKES_IT.partition(": ")[2]]
