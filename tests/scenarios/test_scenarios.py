"""Each scenario file tells a story; it must end as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from .language import Story, blocks

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    story = Story()
    for block in blocks(path.read_text(encoding="utf-8")):
        for sentence in block.happens:
            story.happens(sentence)
        assert story.follows(block.follows) == block.follows, f"{path.name}, line {block.line}"


def test_there_are_stories() -> None:
    assert len(FILES) >= 15
