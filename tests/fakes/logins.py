"""A primary with logins, as the script of a scripted backend."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from tests.fakes.backend import Received, Talk, answer

SESSION = "JSESSIONID=0123456789ABCDEF0123"


@dataclass
class Logins:
    """A primary that wants a session for DICOMweb. `open_`: it wants none after all."""

    sessions: set[str] = field(default_factory=lambda: {SESSION})
    open_: bool = False

    async def __call__(self, received: Received, talk: Talk) -> None:
        shown = (received.header("cookie") or "").split("; ")
        if received.header("authorization") == basic("phys", "of the primary"):
            shown.append(SESSION)
        if self.open_ or self.sessions & set(shown):
            await talk.send(answer(b'["images"]', "200 OK", "Content-Type: application/dicom+json"))
        else:
            await talk.send(answer(b"log in", "401 Unauthorized"))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
