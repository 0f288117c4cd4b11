"""Tokens: who shows one, what a file may hold, and that a token is never told."""

from __future__ import annotations

from pathlib import Path

import pytest

from failover.credentials.tokens import own_token, parse_tokens, read_tokens, token_file_problems

ALICE, BOB = "alice-0123456789abcdef", "bob~0123456789/abcdef=="


def test_a_token_is_known_by_its_name() -> None:
    tokens, problems = parse_tokens(f"# operators\nalice {ALICE}\n\n  bob\t{BOB}  \n")
    assert problems == []
    assert tokens.name_of(ALICE) == "alice"
    assert tokens.name_of(BOB) == "bob"
    assert tokens.name_of("") is None
    assert tokens.name_of(ALICE[:-1]) is None
    assert tokens.name_of("\udcff\x00") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no token: one `name token` per line"),
        ("# only a comment\n", "holds no token: one `name token` per line"),
        (ALICE, "line 1: must be `name token`"),
        (f"alice {ALICE} x", "line 1: must be `name token`"),
        ("alice short", "line 1: the token must have at least 16 characters"),
        ("alice 0123456789äbcdefgh", "line 1: the token must be letters, digits and . _ ~ + / - alone"),
        (f"a:b {ALICE}", "line 1: the name must have 1 to 64 characters, no colon"),
        (f"alice {ALICE}\nbob {ALICE}", "line 2: the token is there twice"),
    ],
)
def test_an_unusable_line_is_told_without_the_token(text: str, sentence: str) -> None:
    _, problems = parse_tokens(text)
    assert problems == [sentence]
    assert all(word not in problems[0] for word in text.split() if len(word) > 12)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert token_file_problems(tmp_path / "none") == ["cannot be read: No such file or directory"]
    assert token_file_problems(tmp_path) == ["cannot be read: Is a directory"]
    (tmp_path / "latin").write_bytes(b"alice \xe4")
    assert token_file_problems(tmp_path / "latin") == ["is not UTF-8 text"]
    (tmp_path / "good").write_text(f"alice {ALICE}")
    assert token_file_problems(tmp_path / "good") == []
    assert read_tokens(tmp_path / "good").name_of(ALICE) == "alice"


@pytest.mark.parametrize("text", [ALICE, f"alice {ALICE}\nbob {BOB}", f"# mine\n\n{ALICE}\n"])
def test_our_own_token_is_the_last_word_of_the_first_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    assert own_token(tmp_path / "token") == ALICE


@pytest.mark.parametrize("text", ["", "# none\n", "alice not\u00e4token"])
def test_no_token_of_our_own_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="token"):
        own_token(tmp_path / "token")
    with pytest.raises(ValueError, match="No such file"):
        own_token(tmp_path / "none")
