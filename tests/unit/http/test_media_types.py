"""Accept and Content-Type as viewers really send them."""

from __future__ import annotations

import pytest

from failover.http.media_types import best, covers, parse_accept, parse_media_type


def test_parameters_quoted_and_bare() -> None:
    media = parse_media_type('Multipart/Related; TYPE="application/dicom"; boundary="a, b;c"; x=image/jpeg')
    assert media.essence == "multipart/related"
    assert media.parameters == {"type": "application/dicom", "boundary": "a, b;c", "x": "image/jpeg"}


def test_ranges_come_best_first_and_stable() -> None:
    accept = parse_accept("a/b;q=0.5, c/d, e/f; q=0.5, g/h;q=0, */*;q=0.1")
    assert [a.media.essence for a in accept] == ["c/d", "a/b", "e/f", "*/*"]


@pytest.mark.parametrize(
    ("text", "essences"),
    [
        (None, ["*/*"]),
        ("", ["*/*"]),
        ("multipart/related; type=application/dicom;", ["multipart/related"]),
        (
            'multipart/related; type="a/b"; transfer-syntax=*,application/json',
            ["multipart/related", "application/json"],
        ),
        ("image/", ["image/*"]),  # dicomweb-client
        (" , a/b ,, ", ["a/b"]),
    ],
)
def test_what_is_common_is_read(text: str | None, essences: list[str]) -> None:
    assert [a.media.essence for a in parse_accept(text)] == essences


@pytest.mark.parametrize(
    "text", ["nonsense", "a/b c/d", "a/b; q=high", "a/b;x=1;;;@", ",".join(["a/b"] * 200)]
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_accept(text)


def test_the_offer_that_is_liked_best() -> None:
    accept = parse_accept("application/json;q=0.3, application/*")
    assert best(accept, ["text/plain", "application/dicom+json"]) == "application/dicom+json"
    assert best(parse_accept("text/html"), ["application/json"]) is None
    assert covers(parse_media_type("image/*"), "image/png")


def test_a_media_type_can_be_written_again() -> None:
    text = 'multipart/related; type="application/dicom"; boundary=abc'
    assert str(parse_media_type(text)) == text
