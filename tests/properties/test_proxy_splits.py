"""Any split of any message gives the same bytes, and what may not happen never does."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from failover.errors import LimitExceeded, MalformedBody, MalformedHead
from failover.http.framing import ChunkedBody, LengthBody
from failover.http.head import head_end, parse_request
from failover.model import UpstreamName, Verdict
from failover.proxy.classify import Asked, WebRoute
from failover.proxy.retry import Action, Failure, Judgement, Pursuit
from failover.proxy.rewrite import Reach
from failover.routing.selection import Choice, Kind

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.binary(max_size=20), CUTS)
def test_chunked_bodies(chunks: list[bytes], rest: bytes, cuts: list[int]) -> None:
    message = b"".join(b"%x;e=1\r\n%b\r\n" % (len(one), one) for one in chunks) + b"0\r\nT: x\r\n\r\n"
    body, payload, behind = ChunkedBody(), b"", b""
    for piece in pieces(message + rest, cuts):
        if body.ended:
            behind += piece
        else:
            payload += body.feed(piece)
            behind += body.rest
    assert body.ended
    assert (payload, behind) == (b"".join(chunks), rest)


@given(st.binary(min_size=1, max_size=60), CUTS)
def test_any_bytes_as_chunks_have_one_reading(data: bytes, cuts: list[int]) -> None:
    """Cut or whole, rubbish is refused or read alike."""

    def read(parts: list[bytes]) -> tuple[bytes, bool] | None:
        body, payload = ChunkedBody(), b""
        try:
            for part in parts:
                if not body.ended:
                    payload += body.feed(part)
        except MalformedBody:
            return None
        return payload, body.ended

    # Bytes at the very end may be refused only once more of them come; a line that never ends is neither.
    whole, cut = read([data + b"\r\n"]), read(pieces(data + b"\r\n", cuts))
    assert whole == cut


@given(st.integers(1, 200), st.binary(max_size=300), CUTS)
def test_length_bodies(length: int, data: bytes, cuts: list[int]) -> None:
    body, payload, behind = LengthBody(length), b"", b""
    for piece in pieces(data, cuts):
        if body.ended:
            behind += piece
        else:
            payload += body.feed(piece)
            behind += body.rest
    assert payload + behind == data
    assert len(payload) == min(length, len(data))


@given(st.binary(max_size=80), CUTS)
def test_heads_are_found_at_the_same_place(tail: bytes, cuts: list[int]) -> None:
    message = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" + tail
    buffer, searched = b"", 0
    for piece in pieces(message, cuts):
        buffer += piece
        end = head_end(buffer, searched, 4096)
        if end >= 0:
            assert buffer[:end] == b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
            return
        searched = len(buffer)
    raise AssertionError("not found")


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_no_head_is_more_than_refused(data: bytes) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"
    try:
        end = head_end(raw, 0, 4096)
        head = parse_request(raw[:end])
    except (MalformedHead, LimitExceeded):
        return
    # What was accepted says the same again when it is written down.
    again = b"%b %b HTTP/1.1\r\n" % (head.method, head.target)
    again += b"".join(b"%b: %b\r\n" % (name, value) for _, name, value in head.headers) + b"\r\n"
    assert parse_request(again).headers == head.headers


CHOICES = [
    (Choice(PRIMARY, BACKUP, True, ""), Verdict.UP),
    (Choice(BACKUP, PRIMARY, True, ""), Verdict.SUSPECT),
    (Choice(PRIMARY, BACKUP, True, ""), Verdict.SUSPECT),
    (Choice(BACKUP, PRIMARY, False, ""), Verdict.DOWN),
    (Choice(BACKUP, PRIMARY, False, ""), Verdict.UP),
    (Choice(BACKUP, None, False, ""), Verdict.DOWN),
    (Choice(None, None, False, ""), Verdict.DOWN),
]
EVENTS = st.one_of(
    st.sampled_from(list(Failure)),
    st.sampled_from([200, 204, 206, 302, 401, 404, 409, 500, 503, 507]),
    st.sampled_from(CHOICES),
)
ASKED = st.sampled_from([
    Asked(WebRoute.QIDO, Kind.READ, b"", b""), Asked(WebRoute.WADO, Kind.READ, b"", b""),
    Asked(WebRoute.STOW, Kind.STORE, b"", b""), Asked(WebRoute.OTHER, Kind.OTHER, b""),
    Asked(WebRoute.PAGE, Kind.READ, b""),
])  # fmt: skip


@settings(max_examples=500)
@given(ASKED, st.booleans(), st.sampled_from(CHOICES), st.lists(EVENTS, max_size=30), st.data())
def test_pursuits_keep_their_promises(
    asked: Asked,
    admitted: bool,
    choice: tuple[Choice, Verdict],
    events: list[Failure | int | tuple[Choice, Verdict]],
    data: st.DataObject,
) -> None:
    backup = {WebRoute.OTHER: Reach.NEVER, WebRoute.PAGE: Reach.VIEWER}.get(asked.route, Reach.ASK)
    one = Pursuit(asked, {PRIMARY: Reach.ASK, BACKUP: backup}, admitted=admitted)
    one.see(*choice)
    now_s, sent_once = 0.0, False
    step = one.next(now_s)
    for event in events:
        now_s += 0.2
        if step.action is Action.WAIT:
            one.new_round()
            if isinstance(event, tuple):
                one.see(*event)
            step = one.next(now_s)
            continue
        if step.action is not Action.SEND:
            break
        at = step.upstream
        assert at is not None
        assert not (at is BACKUP and not admitted), "a stranger was answered by the backup"
        assert not (asked.kind is Kind.OTHER and (at is BACKUP or sent_once)), (
            "repeated, or sent to the archive"
        )
        if isinstance(event, tuple):
            one.see(*event)
            if one.leaves(at, event[1], sent=True):
                assert asked.kind is not Kind.OTHER
                step = one.next(now_s)
        elif isinstance(event, Failure):
            sent = event is not Failure.UNREACHABLE
            sent_once = sent_once or sent
            step = one.failed(
                at, event, sent=sent, reused=data.draw(st.booleans()) and not step.fresh, now_s=now_s
            )
        else:
            judgement = one.judge(at, event)
            if judgement is Judgement.READ:
                judgement = one.judge_body(
                    at, lies=data.draw(st.booleans()) and asked.kind is Kind.STORE, empty=False
                )
            if judgement is Judgement.PASS:
                break
            assert asked.kind is not Kind.OTHER
            step = (
                one.answer_kept(at, now_s) if judgement is Judgement.KEEP else one.answer_dropped(at, now_s)
            )
    assert step.action is not Action.PASS_KEPT or one.kept is not None
