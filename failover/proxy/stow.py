"""Whether the answer to a store says that anything was stored. Pure.

PS3.18 10.5.3: ReferencedSOPSequence names what was stored, FailedSOPSequence what was not. A 2xx that names
no instance in either is a failure: Orthanc answers so on a full disk. 202 and 409 mean what they say.
"""

from __future__ import annotations

import json
import re
from typing import Final

REFERENCED: Final = "00081199"
FAILED: Final = "00081198"
_REFERENCED_UID: Final = "00081155"
# In the XML model (PS3.19 A.1) an item's attributes stand inside the sequence's element; the names of
# elements may have a prefix.
_XML: Final = re.compile(
    rb"""<(?:[\w.-]+:)?DicomAttribute\b[^>]*\btag\s*=\s*["'](?:00081199|00081198)["'][^>]*>"""
    rb""".{0,400}?<(?:[\w.-]+:)?Item\b.*?\btag\s*=\s*["']00081155["'][^>]*>"""
    rb""".{0,200}?<(?:[\w.-]+:)?Value\b[^>]*>\s*[0-9]""",
    re.DOTALL,
)
_XML_FAILED: Final = re.compile(
    rb"""<(?:[\w.-]+:)?DicomAttribute\b[^>]*\btag\s*=\s*["']00081198["'][^>]*>\s*<(?:[\w.-]+:)?Item\b""",
    re.DOTALL,
)


def acknowledges_nothing(status: int, body: bytes) -> bool:
    """Whether the whole answer to a store is a failure in the clothes of a success."""
    if not 200 <= status < 300 or status == 202:
        return False
    stripped = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if stripped.startswith((b"{", b"[")):
        return not _json_names(stripped)
    return _XML.search(stripped) is None


def all_stored(status: int, body: bytes) -> bool:
    """Whether the whole answer to a store says that each object was stored, and not one was refused."""
    if status != 200 or acknowledges_nothing(status, body):
        return False
    stripped = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not stripped.startswith((b"{", b"[")):
        return _XML_FAILED.search(stripped) is None
    answer = json.loads(stripped)
    answers = answer if isinstance(answer, list) else [answer]
    return not any((one.get(FAILED) or {}).get("Value") for one in answers if isinstance(one, dict))


def _json_names(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return False
    answers = answer if isinstance(answer, list) else [answer]
    return any(
        _names(one.get(tag)) for one in answers if isinstance(one, dict) for tag in (REFERENCED, FAILED)
    )


def _names(sequence: object) -> bool:
    items = sequence.get("Value") if isinstance(sequence, dict) else None
    if not isinstance(items, list):
        return False
    for item in items:
        uid = item.get(_REFERENCED_UID) if isinstance(item, dict) else None
        values = uid.get("Value") if isinstance(uid, dict) else None
        if isinstance(values, list) and any(isinstance(value, str) and value for value in values):
            return True
    return False
