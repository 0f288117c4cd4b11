"""DESIGN 4.2: an upstream dies inside an answer: the one response ends complete, or breaks visibly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from failover.http.multipart import MultipartParser, MultipartWriter, PartBegan, PartBytes
from failover.model import Phase, Verdict
from failover.proxy.connection import READ_BYTES
from failover.proxy.passage import Proof
from tests.fakes.backend import Received, Script, Talk, always, answer
from tests.fakes.clocks import FastClock
from tests.fakes.web_stage import BACKUP, PRIMARY, Stage, web_stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]
STUDY = "/dicom-web/studies/1.2"
FIRST, SECOND = MultipartWriter("first-0123456789"), MultipartWriter("second-9876543210")


def multipart(writer: MultipartWriter, parts: dict[str, bytes], prefix: str) -> bytes:
    body = b""
    for name, content in parts.items():
        head = {
            "Content-Type": "application/octet-stream",
            "Content-Location": f"{prefix}/studies/1.2/{name}",
            "Content-Length": str(len(content)),
        }
        body += writer.part_head(head) + content
    return body + writer.end()


def typed(writer: MultipartWriter) -> str:
    return f"Content-Type: {writer.content_type('application/octet-stream')}"


def dies_after(whole: bytes, sent: int) -> Script:
    """Send `sent` bytes of an answer, let them arrive, die."""

    async def script(_: Received, talk: Talk) -> None:
        await talk.send(whole[:sent])
        talk.close()

    return script


def parts_of(body: bytes, boundary: str) -> dict[str, bytes]:
    parser = MultipartParser(boundary)
    found: dict[str, bytes] = {}
    name = ""
    for event in parser.receive_data(body):
        if isinstance(event, PartBegan):
            name = event.headers["content-location"].rsplit("/", 1)[-1]
            assert name not in found
            found[name] = b""
        elif isinstance(event, PartBytes):
            found[name] += event.content
    parser.receive_end()
    return found


PARTS = {name: name.encode() * 250_000 for name in ("aa", "bb", "cc", "dd")}
SHUFFLED = {name: PARTS[name] for name in ("dd", "bb", "aa", "cc")}


async def test_the_other_upstream_gives_the_parts_that_are_missing(stage: Stage) -> None:
    whole = answer(multipart(FIRST, PARTS, "http://pacs:8042/dicom-web"), "200 OK", typed(FIRST))
    stage.primary.script = dies_after(whole, 1_200_000)
    stage.backup.script = always(answer(multipart(SECOND, SHUFFLED, "/rs"), "200 OK", typed(SECOND)))
    answered = await stage.ask(STUDY)
    assert (answered.status, answered.upstream) == (200, "primary")
    assert answered.whole
    assert parts_of(answered.body, FIRST.boundary) == PARTS
    assert stage.counted("failover_http_resumed_total", upstream="backup") == 1
    assert len(stage.backup.requests) == 1


def instances(syntax: str) -> dict[str, bytes]:
    """Return 40 CT instances as Part 10 files in this transfer syntax, by SOP instance UID."""
    found = {}
    instance = dcmread(get_testdata_file("CT_small.dcm"))
    instance.file_meta.TransferSyntaxUID = UID(syntax)
    for number in range(40):
        uid = instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        raw = BytesIO()
        instance.save_as(raw, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
        found[uid] = raw.getvalue()
    return found


def in_dicom_parts(writer: MultipartWriter, parts: dict[str, bytes]) -> bytes:
    """As archives send them: nothing but its content tells which instance a part is."""
    head = writer.part_head({"Content-Type": "application/dicom"})
    return b"".join(head + content for content in parts.values()) + writer.end()


async def test_instances_are_known_by_their_uid_and_the_rest_may_come_in_another_syntax(stage: Stage) -> None:
    """Given a caller that takes any transfer syntax, and archives that keep different ones."""
    ours, others = instances(ExplicitVRLittleEndian), instances(ImplicitVRLittleEndian)
    assert all(ours[uid] != others[uid] for uid in ours)
    kinds = [f"Content-Type: {writer.content_type('application/dicom')}" for writer in (FIRST, SECOND)]
    whole = answer(in_dicom_parts(FIRST, ours), "200 OK", kinds[0])
    stage.primary.script = dies_after(whole, len(whole) * 2 // 3)
    backwards = dict(reversed(others.items()))
    stage.backup.script = always(answer(in_dicom_parts(SECOND, backwards), "200 OK", kinds[1]))
    accept = 'Accept: multipart/related; type="application/dicom"; transfer-syntax=*'
    answered = await stage.ask(STUDY, accept)
    assert answered.whole
    assert [asked.header("accept") for asked in stage.backup.requests] == [accept.partition(": ")[2]]
    got = dicom_parts(answered.body, FIRST.boundary)
    assert sorted(dcmread(BytesIO(part)).SOPInstanceUID for part in got) == sorted(ours)
    assert {part in ours.values() for part in got} == {True, False}
    assert all(part in ours.values() or part in others.values() for part in got)


def dicom_parts(body: bytes, boundary: str) -> list[bytes]:
    parser = MultipartParser(boundary)
    found: list[bytes] = []
    for event in parser.receive_data(body):
        if isinstance(event, PartBegan):
            found.append(b"")
        elif isinstance(event, PartBytes):
            found[-1] += event.content
    parser.receive_end()
    return found


async def test_an_answer_that_lives_is_the_same_to_the_byte(stage: Stage) -> None:
    body = multipart(FIRST, PARTS, "http://pacs:8042/dicom-web")
    stage.primary.script = always(answer(body, "200 OK", typed(FIRST)))
    answered = await stage.ask(STUDY)
    assert answered.body == body
    assert stage.counted("failover_http_resumed_total", upstream="backup") == 0


@pytest.mark.parametrize("changed", [False, True])
async def test_a_long_part_goes_on_only_if_the_other_copy_is_the_same(stage: Stage, changed: bool) -> None:
    long = bytes(range(256)) * 40_000  # beyond 8 MiB
    other = b"\xff" + long[1:] if changed else long
    whole = answer(multipart(FIRST, {"a": b"1", "long": long, "z": b"2"}, "x"), "200 OK", typed(FIRST))
    stage.primary.script = dies_after(whole, 9_000_000)
    stage.backup.script = always(
        answer(multipart(SECOND, {"z": b"2", "long": other, "a": b"1"}, "y"), "200 OK", typed(SECOND))
    )
    if changed:
        assert not (await stage.ask(STUDY)).whole
    else:
        answered = await stage.ask(STUDY)
        assert parts_of(answered.body, FIRST.boundary) == {"a": b"1", "long": long, "z": b"2"}


async def test_while_a_long_part_is_proven_others_are_let_in(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a copy that comes as fast as it can; of what the caller has, one turn reads little."""
    long = bytes(range(256)) * 60_000
    whole = answer(multipart(FIRST, {"long": long}, "x"), "200 OK", typed(FIRST))
    stage.primary.script = dies_after(whole, 14_000_000)
    stage.backup.script = always(answer(multipart(SECOND, {"long": long}, "y"), "200 OK", typed(SECOND)))
    loop, this_turn, most = asyncio.get_running_loop(), 0, 0
    read = Proof.read

    def counts(proof: Proof, data: bytes) -> bytes:
        nonlocal this_turn, most
        if not this_turn:
            loop.call_soon(turned)
        this_turn += min(len(data), proof.left)
        most = max(most, this_turn)
        return read(proof, data)

    def turned() -> None:
        nonlocal this_turn
        this_turn = 0

    monkeypatch.setattr(Proof, "read", counts)
    answered = await stage.ask(STUDY)
    assert parts_of(answered.body, FIRST.boundary) == {"long": long}
    assert 0 < most <= 2 * READ_BYTES


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("206 Partial Content", [typed(SECOND)]),
        ("200 OK", [typed(SECOND), 'Warning: 299 - "the archive covers 2026-08-01 to today"']),
        ("200 OK", ["Content-Type: text/html"]),
        ("404 Not Found", []),
        ("503 Service Unavailable", []),
    ],
)
async def test_what_may_be_less_never_ends_the_response(
    stage: Stage, status: str, headers: list[str]
) -> None:
    whole = answer(multipart(FIRST, PARTS, "x"), "200 OK", typed(FIRST))
    stage.primary.script = dies_after(whole, 1_200_000)
    stage.backup.script = always(answer(multipart(SECOND, SHUFFLED, "y"), status, *headers))
    assert not (await stage.ask(STUDY)).whole


@pytest.mark.parametrize("same", [True, False])
async def test_an_opaque_body_goes_on_only_with_proof(stage: Stage, same: bool) -> None:
    body = bytes(range(256)) * 8000
    stage.primary.script = dies_after(answer(body, "200 OK", "Content-Type: application/dicom"), 1_500_000)
    other = body if same else b"\xff" + body[1:]
    stage.backup.script = always(answer(other, "200 OK", "Content-Type: application/dicom"))
    if same:
        answered = await stage.ask(f"{STUDY}/series/1/instances/2")
        assert (answered.body, answered.header("content-length")) == (body, str(len(body)))
    else:
        assert not (await stage.ask(f"{STUDY}/series/1/instances/2")).whole


async def test_metadata_ends_with_each_instance_once(stage: Stage) -> None:
    items = [
        {"00080018": {"vr": "UI", "Value": [f"1.{n}"]}, "00080060": {"Value": ["x" * 1000]}}
        for n in range(1500)
    ]
    kind = "Content-Type: application/dicom+json"
    stage.primary.script = dies_after(answer(json.dumps(items).encode(), "200 OK", kind), 1_200_000)
    stage.backup.script = always(answer(json.dumps(items[::-1]).encode(), "200 OK", kind))
    answered = await stage.ask(f"{STUDY}/metadata")
    found = json.loads(answered.body)
    assert sorted(found, key=str) == sorted(items, key=str)


async def test_a_primary_that_hangs_inside_an_answer_is_left_when_it_is_down(stage: Stage) -> None:
    whole = answer(multipart(FIRST, PARTS, "x"), "200 OK", typed(FIRST))
    hung = asyncio.Event()

    async def hangs(_: Received, talk: Talk) -> None:
        await talk.send(whole[:1_200_000])
        hung.set()
        await talk.reader.read()

    stage.primary.script = hangs
    stage.backup.script = always(answer(multipart(SECOND, SHUFFLED, "y"), "200 OK", typed(SECOND)))
    asking = asyncio.gather(stage.ask(STUDY))
    await hung.wait()
    stage.verdict(PRIMARY, Verdict.DOWN)
    (answered,) = await asking
    assert answered.whole
    assert parts_of(answered.body, FIRST.boundary) == PARTS


async def test_both_die_and_the_caller_sees_it(tmp_path: Path) -> None:
    async with web_stage(tmp_path, clock=FastClock()) as stage:
        whole = answer(multipart(FIRST, PARTS, "x"), "200 OK", typed(FIRST))
        stage.primary.script = dies_after(whole, 1_200_000)
        again = answer(multipart(SECOND, SHUFFLED, "y"), "200 OK", typed(SECOND))
        stage.backup.script = dies_after(again, 900_000)
        stage.verdict(BACKUP, Verdict.UP)
        assert not (await stage.ask(STUDY)).whole


@pytest.mark.parametrize("holds_it", [True, False])
async def test_a_suspect_primary_that_pauses_inside_an_answer_is_left_only_for_what_fits(
    stage: Stage, holds_it: bool
) -> None:
    whole = answer(multipart(FIRST, PARTS, "x"), "200 OK", typed(FIRST))
    hung, goes_on = asyncio.Event(), asyncio.Event()

    async def pauses(_: Received, talk: Talk) -> None:
        await talk.send(whole[:1_200_000])
        hung.set()
        await goes_on.wait()
        await talk.send(whole[1_200_000:])

    stage.primary.script = pauses
    again = answer(multipart(SECOND, SHUFFLED, "y"), "200 OK", typed(SECOND))
    stage.backup.script = always(again if holds_it else answer(b"", "404 Not Found"))
    asking = asyncio.gather(stage.ask(STUDY))
    await hung.wait()
    stage.verdict(PRIMARY, Verdict.SUSPECT)
    if not holds_it:
        await stage.backup.received()
        goes_on.set()
    (answered,) = await asking
    assert answered.whole
    assert parts_of(answered.body, FIRST.boundary) == PARTS
    assert stage.counted("failover_http_resumed_total", upstream="backup") == float(holds_it)
    assert stage.proxy.in_flight(PRIMARY) == stage.proxy.in_flight(BACKUP) == 0
    goes_on.set()


@pytest.mark.parametrize("whole", [True, False])
async def test_a_short_answer_that_only_its_end_ends_is_taken_for_whole_only_when_it_is(
    stage: Stage, whole: bool
) -> None:
    body = json.dumps([{"00080018": {"vr": "UI", "Value": [f"1.{n}"]}} for n in range(9)]).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nConnection: close\r\n\r\n"

    async def ends(_: Received, talk: Talk) -> None:
        await talk.send(head + (body if whole else body[:100]))
        talk.close()

    stage.primary.script = ends
    stage.backup.script = always(answer(body, "200 OK", "Content-Type: application/dicom+json"))
    answered = await stage.ask(f"{STUDY}/metadata")
    assert (answered.whole, json.loads(answered.body)) == (True, json.loads(body))
    assert answered.upstream == ("primary" if whole else "backup")


@pytest.fixture
async def foreign(tmp_path: Path) -> AsyncIterator[Stage]:
    """The backup is another PACS, which does not say when it holds less."""
    async with web_stage(tmp_path, foreign_backup=True) as stage:
        yield stage


def with_urls(base: str) -> bytes:
    return json.dumps(
        [
            {
                "00080018": {"vr": "UI", "Value": [f"1.{n}"]},
                "00081190": {"vr": "UR", "Value": [f"{base}/studies/1.2/instances/1.{n}"]},
                "00080060": {"Value": ["x" * 1000]},
            }
            for n in range(1500)
        ]
    ).encode()


async def test_the_urls_of_the_rest_are_led_back_by_the_rules_of_who_gives_it(foreign: Stage) -> None:
    kind = "Content-Type: application/dicom+json"
    backup = f"http://127.0.0.1:{foreign.backup.port}/rs"
    primary = f"http://127.0.0.1:{foreign.primary.port}/dicom-web"
    foreign.phase(Phase.ON_BACKUP)
    foreign.backup.script = dies_after(answer(with_urls(backup), "200 OK", kind), 1_200_000)
    foreign.primary.script = always(answer(with_urls(primary), "200 OK", kind))
    answered = await foreign.ask(f"{STUDY}/metadata")
    assert (answered.whole, answered.upstream) == (True, "backup")
    assert foreign.counted("failover_http_resumed_total", upstream="primary") == 1
    found = {item["00081190"]["Value"][0] for item in json.loads(answered.body)}
    assert found == {f"http://pacs.example/dicom-web/studies/1.2/instances/1.{n}" for n in range(1500)}


@pytest.mark.parametrize(
    ("target", "held", "whole"),
    [
        (f"{STUDY}/series/1/instances/2/frames/1,2,3%2C4", 4, True),
        (f"{STUDY}/series/1/instances/2/frames/1,2,3%2C4", 3, False),
        (STUDY, 4, False),  # how many there are nobody tells
    ],
)
async def test_the_end_of_another_pacs_is_believed_only_when_it_can_be_counted(
    foreign: Stage, target: str, held: int, whole: bool
) -> None:
    foreign.primary.script = dies_after(
        answer(multipart(FIRST, PARTS, "x"), "200 OK", typed(FIRST)), 1_200_000
    )
    rest = dict(list(PARTS.items())[:held])
    foreign.backup.script = always(answer(multipart(SECOND, rest, "y"), "200 OK", typed(SECOND)))
    answered = await foreign.ask(target)
    assert answered.whole is whole
    if whole:
        assert parts_of(answered.body, FIRST.boundary) == PARTS


async def test_who_lacks_what_was_already_sent_does_not_end_the_response(stage: Stage) -> None:
    stage.primary.script = dies_after(answer(multipart(FIRST, PARTS, "x"), "200 OK", typed(FIRST)), 1_200_000)
    rest = {name: PARTS[name] for name in ("bb", "cc", "dd")}
    stage.backup.script = always(answer(multipart(SECOND, rest, "y"), "200 OK", typed(SECOND)))
    assert not (await stage.ask(STUDY)).whole
