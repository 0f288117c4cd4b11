"""The page's files fit together: what the policy allows, the ids, and that nothing comes from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from failover.admin import page

STATIC = Path(page.__file__).with_name("static")
HTML = (STATIC / "page.html").read_text(encoding="utf-8")
SCRIPTS = {name: (STATIC / name).read_text(encoding="utf-8") for name in ("page.js", "view.js", "flow.js")}


def test_every_file_is_served_and_nothing_else_is_asked_for() -> None:
    served = {path.lstrip("/") for path in page.FILES}
    asked = set(re.findall(r'(?:href|src)="([^"]+)"', HTML))
    asked |= {name for text in SCRIPTS.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert asked <= served
    assert {path.name for path in STATIC.iterdir()} == {name for name, _ in page.FILES.values()}


def test_the_policy_is_kept() -> None:
    assert not re.search(r"<script(?![^>]*\bsrc=)", HTML)
    assert not re.search(r"\son[a-z]+=|\sstyle=|javascript:", HTML)
    for text in SCRIPTS.values():
        assert "innerHTML" not in text, "what the router says is text, never markup"
        assert "eval(" not in text
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\")", text), "a namespace is no address"
        assert "localStorage" not in text
        assert "cookie =" not in text
    assert not re.search(r"https?://|@import", (STATIC / "page.css").read_text(encoding="utf-8"))


def test_every_id_that_the_script_uses_is_in_the_page() -> None:
    used = set(re.findall(r'\$\("([a-z-]+)"\)', SCRIPTS["page.js"]))
    there = set(re.findall(r'id="([a-z-]+)"', HTML))
    assert used <= there


def test_what_an_operator_looks_for_is_there() -> None:
    assert ">Force…</button>" in HTML
    assert ">Auto</button>" in HTML
    assert 'aria-label="Reason"' in HTML
    assert HTML.count('type="text"') == 1, "one text box, for the reason"
