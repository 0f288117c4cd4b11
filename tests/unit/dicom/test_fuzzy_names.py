"""Fuzzy matching of person names: how people type them, how modalities write them."""

from __future__ import annotations

import pytest

from failover.dicom.fuzzy_names import fuzzy_key
from failover.dicom.query_keys import matches


@pytest.mark.parametrize(
    ("key", "name", "found"),
    [
        ("Müller", "Mueller^Hans", True),
        ("Müller", "Muller^Hans", True),
        ("mueller", "MÜLLER^HANS", True),
        ("muller", "Mu\u0308ller^Hans", True),  # the dots as a character of their own
        ("mueller", "Muller^Hans", False),
        ("bauer", "Baur^Karl", False),
        ("mül", "Mueller^Hans", True),
        ("hans müller", "Müller^Hans", True),
        ("Müller^Hans", "Müller^Karl", False),
        ("üller", "Müller^Hans", False),
        ("m*r^h?ns", "Müller^Hans", True),
        ("gonzalez", "González^José", True),
        ("strasse", "Straße^Eva", True),
        ("oerstedt", "Ørstedt^Hans", True),
        ("schmidt", "Meyer-Schmidt^Eva", True),
        ("παπαδοπουλος", "Παπαδόπουλος^Γιώργος", True),
        ("太郎", "Yamada^Tarou=山田^太郎", True),
        ("か", "=が", False),  # another letter, not an accent
        ("[ab]", "a^b", False),
        ("*", "Anyone", True),
    ],
)
def test_a_fuzzy_name(key: str, name: str, found: bool) -> None:
    assert matches(fuzzy_key(key), "PN", [name]) is found
