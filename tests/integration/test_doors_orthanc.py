"""A real primary with logins (Orthanc, RegisteredUsers), a real foreign backup without: the whole router."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from failover.app import listeners
from failover.app.router import Router
from failover.app.samples import part10, sample_studies
from failover.clock import SystemClock
from failover.config.load import parse
from failover.credentials.password_file import set_password
from tests.fakes.callers import Answered, ask
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
BASE = "http://pacs.example:8080"
SEARCH = "/dicom-web/studies"
PAGE = ("Accept: text/html", "User-Agent: Mozilla/5.0")


def basic(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


PHYS, ANNA = basic("phys", "of the primary"), basic("anna", "of the archive")
STRANGERS = ((), (basic("phys", "guessed"),), ("Cookie: session=0123456789abcdef0123",))


class Locked(Orthanc):
    """Its own REST interface wants the password too."""

    def request(self, method: str, path: str, body: Any = None, headers: Any = None, **more: Any) -> Any:
        name, _, value = PHYS.partition(": ")
        return super().request(method, path, body, {name: value, **(headers or {})}, **more)


def primary_with_logins() -> Locked:
    users = {"phys": "of the primary"}
    return Locked(extra={"AuthenticationEnabled": True, "RegisteredUsers": users})


def side(peer: Orthanc) -> str:
    return f'{{web: {{url: "{peer.url}"}}}}'


def urls(found: Any) -> list[str]:
    """Every URL that the standard marks as one."""
    if isinstance(found, list):
        return [url for item in found for url in urls(item)]
    if not isinstance(found, dict):
        return []
    own = [found["BulkDataURI"]] if "BulkDataURI" in found else []
    own += found.get("00081190", {}).get("Value", [])
    return own + [url for item in found.values() for url in urls(item)]


async def test_nobody_reads_in_an_outage_who_could_not_read_before(tmp_path: Path) -> None:
    with primary_with_logins() as primary, Orthanc(ae_title="SECOND") as backup:
        instance = part10(next(sample_studies(date(2026, 1, 1))))
        primary.upload(instance)
        backup.upload(instance)
        set_password(tmp_path / "passwords", "anna", "of the archive")
        port, dicom, admin = free_port(), free_port(), free_port()
        configuration = parse(
            f"state_dir: {tmp_path}\nprimary: {side(primary)}\nbackup: {side(backup)}\n"
            f"listen: {{web: {{port: {port}}}, dicom: {{port: {dicom}}}, admin: {{port: {admin}}}}}\n"
            "access: {web: {addresses: [192.0.2.1], password_file: passwords, remembered: {}}}\n"
            "policy: {fail_after: 1s}\n",
            name="failover.yaml",
            folder=tmp_path,
        )
        router = Router(configuration, SystemClock())
        await router.start(listeners.open_all(configuration))
        try:
            await outage(router, port, primary)
        finally:
            await router.stop()
        kept = b"".join(path.read_bytes() for path in files(tmp_path))
        for secret in (b"of the primary", b"of the archive", PHYS.split()[-1].encode()):
            assert secret not in kept


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def outage(router: Router, port: int, primary: Orthanc) -> None:
    admission = router._proxy.admission
    assert admission is not None
    assert admission.remembered is not None

    async def search(*lines: str) -> Answered:
        return await ask(port, SEARCH, "Host: pacs.example:8080", *lines)

    for lines in STRANGERS:
        assert ((await search(*lines)).status, lines) == (401, lines)
    known = await search(PHYS)
    assert (known.status, known.upstream) == (200, "primary")
    found = urls(json.loads(known.body))
    assert found
    for url in found:
        assert url.startswith(f"{BASE}/dicom-web/"), url
    metadata = await ask(port, found[0].removeprefix(BASE) + "/metadata", "Host: pacs.example:8080", PHYS)
    for url in urls(json.loads(metadata.body)):
        assert url.startswith(f"{BASE}/dicom-web/"), url
    async with asyncio.timeout(30):
        while not admission.remembered.count:
            await search(PHYS)

    primary.kill()
    # From the first moment on, and as long as it lasts.
    for _ in range(3):
        waiting = [search(*lines) for lines in STRANGERS]
        for answered in await asyncio.gather(*waiting):
            assert (answered.status, answered.upstream) == (401, "none")
            assert b"0020000D" not in answered.body
    for good in (PHYS, ANNA):
        answered = await search(good)
        assert (answered.status, answered.upstream) == (200, "backup")
        assert urls(json.loads(answered.body))[0].startswith(f"{BASE}/dicom-web/")
    page = await ask(port, "/app/explorer.html", *PAGE)
    assert (page.status, b'action="/.failover/login"' in page.body) == (401, True)
