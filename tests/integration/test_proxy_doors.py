"""Who may see the backup's images (DESIGN 4.5): logins of the primary, our own, and secrets that stay apart.

The primary is a scripted backend with logins: a page gives a session for a password, DICOMweb wants it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from failover.clock import SystemClock
from failover.credentials.password_file import PasswordFile, set_password
from failover.credentials.remembered import Remembered, read_key
from failover.credentials.sessions import Sessions
from failover.errors import UpstreamBroke
from failover.http.head import RequestHead
from failover.model import Phase, UpstreamName, Verdict
from failover.proxy.admission import Admission
from failover.proxy.passwords import Passwords
from tests.fakes.backend import Received, Talk, always, answer, die, silent
from tests.fakes.callers import Answered, ask
from tests.fakes.logins import SESSION, Logins, basic
from tests.fakes.web_stage import PRIMARY, Stage, web_stage

pytestmark = pytest.mark.integration

SEARCH = "/dicom-web/studies"
PASSWORD = "correct horse"


@dataclass
class Site:
    stage: Stage
    logins: Logins
    admission: Admission
    folder: Path
    tried: list[str]
    """How each password ended."""

    async def search(self, *lines: str) -> Answered:
        return await self.stage.ask(SEARCH, *lines)

    def primary_is_down(self) -> None:
        self.stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)

    async def remembered(self, count: int = 1) -> None:
        """Wait until the probe has confirmed so many."""
        assert self.admission.remembered is not None
        async with asyncio.timeout(30):
            while self.admission.remembered.count < count:
                await self.stage.ask("/ping")


def admission(
    folder: Path, port: list[int], tried: list[str], *, passwords: bool, remember: bool
) -> Admission:
    clock, key = SystemClock(), read_key(folder)
    users = sessions = remembered = None
    if passwords:
        set_password(folder / "passwords", "anna", PASSWORD)
        users = Passwords(PasswordFile(folder / "passwords", clock), clock, tried.append)
        sessions = Sessions(key, users.kept_of, lambda: clock.wall().timestamp())
    if remember:
        remembered = Remembered(folder, key, clock, hold_s=43200)

    async def probe(path: str, fields: Mapping[str, str]) -> int:
        try:
            answered = await ask(port[0], path, *(f"{name}: {value}" for name, value in fields.items()))
        except OSError as error:
            raise UpstreamBroke("no answer") from error
        return answered.status

    return Admission(
        clock, passwords=users, sessions=sessions, remembered=remembered, paths=["/dicom-web"],
        prefix="/dicom-web", ask=probe,
    )  # fmt: skip


@asynccontextmanager
async def site(
    folder: Path, *, passwords: bool = False, remember: bool = False, **listen: Any
) -> AsyncIterator[Site]:
    """Nobody is admitted by address."""
    port = [0]
    tried: list[str] = []
    doors = admission(folder, port, tried, passwords=passwords, remember=remember)
    async with web_stage(folder, admission=doors, **listen) as stage:
        port[0] = stage.primary.port
        stage.admitted.clear()
        logins = Logins()
        stage.primary.script = logins
        stage.backup.script = always(answer(b'["the archive"]'))
        yield Site(stage, logins, doors, folder, tried)


# -- remembered -------------------------------------------------------------------------------------


async def test_who_could_read_before_reads_in_backup_mode_and_nobody_else(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True) as here:
        assert (await here.search(f"Cookie: {SESSION}")).body == b'["images"]'
        assert (await here.search("Cookie: JSESSIONID=ffffffffffffffffffff")).status == 401
        await here.remembered()
        here.primary_is_down()
        known = await here.search(f"Cookie: {SESSION}")
        assert (known.status, known.upstream, known.body) == (200, "backup", b'["the archive"]')
        for lines in ([], ["Cookie: JSESSIONID=ffffffffffffffffffff"], [f"Cookie: {SESSION}; more=1"],
                      [f"Authorization: {basic('phys', 'primary')}"]):  # fmt: skip
            assert ((await here.search(*lines)).status, lines) == (503, lines)
        assert len(here.stage.backup.requests) == 1


async def test_authorization_is_remembered_too(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True) as here:
        shown = f"Authorization: {basic('phys', 'of the primary')}"
        assert (await here.search(shown)).status == 200
        await here.remembered()
        here.primary_is_down()
        assert (await here.search(shown)).upstream == "backup"
        assert here.stage.backup.requests[0].header("authorization") is None


async def test_a_refusal_and_a_logout_are_forgetting(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True) as here:
        await here.search(f"Cookie: {SESSION}")
        await here.remembered()
        here.logins.sessions.clear()
        assert (await here.search(f"Cookie: {SESSION}")).status == 401
        here.primary_is_down()
        assert (await here.search(f"Cookie: {SESSION}")).status == 503
        assert here.stage.backup.requests == []


@pytest.mark.parametrize(
    ("path", "status", "known"),
    [
        ("/studies/1.2", "403 Forbidden", True),  # this study is not for them
        ("/studies/1.2/series", "403 Forbidden", True),
        ("/studies", "403 Forbidden", False),  # nothing is
        ("/studies/1.2", "401 Unauthorized", False),
    ],
)
async def test_a_403_on_one_study_is_no_wrong_password(
    tmp_path: Path, path: str, status: str, known: bool
) -> None:
    async with site(tmp_path, remember=True) as here:
        await here.search(f"Cookie: {SESSION}")
        await here.remembered()
        here.stage.primary.script = always(answer(b"no", status))
        assert (await here.stage.ask(f"/dicom-web{path}", f"Cookie: {SESSION}")).status == int(status[:3])
        here.primary_is_down()
        assert (await here.search(f"Cookie: {SESSION}")).status == (200 if known else 503)


async def test_a_check_that_fails_ends_the_wait(tmp_path: Path) -> None:
    async with site(tmp_path, passwords=True) as here:
        here.primary_is_down()

        async def broken(head: RequestHead, address: str) -> bool:
            raise RuntimeError("the thread is gone")

        here.admission.check = broken  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            answered = await here.search(f"Authorization: {basic('anna', PASSWORD)}")
        assert (answered.status, answered.upstream) == (401, "none")


async def test_a_cookie_that_the_primary_takes_back_is_forgotten(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True) as here:
        await here.search(f"Cookie: {SESSION}")
        await here.remembered()
        here.stage.primary.script = always(answer(b"bye", "200 OK", "Set-Cookie: JSESSIONID=; Max-Age=0"))
        await here.stage.ask("/logout", f"Cookie: {SESSION}")
        here.primary_is_down()
        assert (await here.search(f"Cookie: {SESSION}")).status == 503


async def test_where_the_primary_refuses_nobody_nothing_is_remembered(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True) as here:
        here.logins.open_ = True
        assert (await here.search("Cookie: made=0123456789abcdef")).status == 200
        assert here.admission.remembered is not None
        await here.stage.primary.received(2)  # the probe, which got in
        here.primary_is_down()
        assert (await here.search("Cookie: made=0123456789abcdef")).status == 503
        assert here.stage.backup.requests == []


async def test_the_probe_asks_as_the_same_caller_and_shows_nothing(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True) as here:
        await here.search(f"Cookie: {SESSION}")
        await here.remembered()
        probes = [one for one in here.stage.primary.requests[1:] if one.target != "/ping"]
        assert [one.target for one in probes] == ["/dicom-web/studies?limit=1"] * 2
        assert [one.header("cookie") for one in probes] == [None, "failover-probe=0000000000000000"]
        assert {one.header("host") for one in probes} == {"pacs.example"}
        assert {one.header("x-forwarded-for") for one in probes} == {"127.0.0.1"}
        assert {one.header("authorization") for one in probes} == {None}


async def test_it_outlasts_a_restart(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True) as here:
        await here.search(f"Cookie: {SESSION}")
        await here.remembered()
    async with site(tmp_path, remember=True) as here:
        here.primary_is_down()
        assert (await here.search(f"Cookie: {SESSION}")).upstream == "backup"


async def test_a_slow_401_of_the_primary_is_not_beaten_by_the_archive(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True, passwords=True) as here:
        here.stage.primary.script = silent
        caller = await here.stage.caller()
        await caller.send(b"GET /dicom-web/studies/1/series/2/instances/3 HTTP/1.1\r\nHost: a\r\n\r\n")
        await here.stage.primary.received()
        here.stage.verdict(PRIMARY, Verdict.SUSPECT)
        here.stage.primary.script = always(answer(b"log in", "401 Unauthorized"))
        second = await here.search("Cookie: JSESSIONID=ffffffffffffffffffff")
        assert (second.status, second.upstream) == (401, "primary")
        assert here.stage.backup.requests == []
        caller.close()


async def test_a_stranger_is_neither_rescued_nor_given_the_other_answer(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True) as here:
        here.stage.primary.script = always(answer(b"broken", "500 Internal Server Error"))
        assert (await here.search()).status == 500
        here.stage.primary.script = die
        stowed = here.stage.ask(SEARCH, "Content-Type: multipart/related", method="POST", body=b"x")
        assert (await stowed).status in (502, 503)
        assert here.stage.backup.requests == []


# -- our own logins ---------------------------------------------------------------------------------


def form(user: str, password: str, to: str = SEARCH) -> bytes:
    return f"user={quote(user)}&password={quote(password)}&to={quote(to)}".encode()


FORM = "Content-Type: application/x-www-form-urlencoded"


async def log_in(here: Site, body: bytes, *lines: str) -> Answered:
    return await here.stage.ask("/.failover/login", FORM, *lines, method="POST", body=body)


def cookie(answered: Answered) -> str:
    given = answered.header("set-cookie")
    assert given is not None
    match = re.fullmatch(r"(failover-session=[\w.-]+); Path=/; HttpOnly; SameSite=Lax; Max-Age=43200", given)
    assert match is not None, given
    return match[1]


async def test_a_login_opens_the_archive_and_its_cookie_reaches_no_upstream(tmp_path: Path) -> None:
    async with site(tmp_path, passwords=True) as here:
        here.primary_is_down()
        refused = await here.stage.ask("/patients", "Accept: text/html", "User-Agent: Mozilla/5.0")
        assert (refused.status, refused.upstream) == (401, "none")
        assert b'action="/.failover/login"' in refused.body
        assert b'name="to" value="/patients"' in refused.body
        assert "Basic" not in (refused.header("www-authenticate") or "Basic")
        done = await log_in(here, form("anna", PASSWORD, "/dicom-web/studies?PatientID=1"))
        assert (done.status, done.header("location")) == (303, "/dicom-web/studies?PatientID=1")
        session = cookie(done)
        found = await here.search(f"Cookie: a=b; {session}")
        assert (found.status, found.upstream) == (200, "backup")
        assert (await here.stage.ask("/.failover/", f"Cookie: {session}")).upstream == "backup"
        assert {one.header("cookie") for one in here.stage.backup.requests} == {None}
        assert (await here.search(f"Cookie: {session}x")).status == 401
        here.stage.phase(Phase.ON_PRIMARY)
        await here.search(f"Cookie: a=b; {session}")
        assert here.stage.primary.requests[-1].header("cookie") == "a=b"


async def test_under_tls_the_cookie_is_for_tls_alone(tmp_path: Path) -> None:
    over_tls = ["X-Forwarded-Proto: https", "X-Forwarded-Host: pacs.example", "X-Forwarded-For: 10.9.9.9"]
    async with site(tmp_path, passwords=True, trusted_proxies=["127.0.0.1"]) as here:
        here.primary_is_down()
        done = await log_in(here, form("anna", PASSWORD), "Origin: https://pacs.example", *over_tls)
        given = done.header("set-cookie") or ""
        session, _, rest = given.partition(";")
        assert session.startswith("__Host-failover-session=")
        assert rest == " Path=/; HttpOnly; SameSite=Lax; Max-Age=43200; Secure"
        assert (await here.search(f"Cookie: {session}", *over_tls)).upstream == "backup"
        assert (await here.search(f"Cookie: {session}")).status == 401  # shown over plain HTTP
        plain = session.removeprefix("__Host-")
        assert (await here.search(f"Cookie: {plain}", *over_tls)).status == 401


async def test_wrong_passwords_are_refused_and_then_made_to_wait(tmp_path: Path) -> None:
    async with site(tmp_path, passwords=True) as here:
        for user, password in [("anna", "wrong password"), ("berta", PASSWORD)] * 5:
            answered = await log_in(here, form(user, password))
            assert (answered.status, answered.header("set-cookie")) == (401, None)
            assert b"User or password is wrong." in answered.body
        answered = await log_in(here, form("anna", PASSWORD))
        assert (answered.status, answered.header("set-cookie")) == (429, None)
        assert 0 < int(answered.header("retry-after") or 0) <= 31
        assert here.tried == ["refused"] * 10 + ["too_often"]


async def test_each_try_is_counted_once(tmp_path: Path) -> None:
    async with site(tmp_path, passwords=True) as here:
        here.primary_is_down()
        await log_in(here, form("anna", PASSWORD))
        for _ in range(2):  # the second is believed, not looked at
            assert (await here.search(f"Authorization: {basic('anna', PASSWORD)}")).status == 200
        assert (await here.search(f"Authorization: {basic('anna', 'wrong')}")).status == 401
        assert here.tried == ["accepted", "accepted", "refused"]


@pytest.mark.parametrize("to", [
    "//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "", "/a\r\nX: y",
    "/\t/evil.example", '/"><script>',
])  # fmt: skip
async def test_a_login_leads_nowhere_else(tmp_path: Path, to: str) -> None:
    async with site(tmp_path, passwords=True) as here:
        answered = await log_in(here, form("anna", PASSWORD, to))
        location = answered.header("location") or ""
        assert answered.status == 303
        assert location == "/.failover/" or re.fullmatch(r"/[!-~]*", location)
        assert not location.startswith(("//", "/\\"))
        assert not {"<", ">", '"'} & set(location)
        assert b"<script>" not in (await here.stage.ask("/.failover/login?to=" + quote(to))).body
        many = await here.stage.ask("/.failover/login?" + "&".join(["a=1"] * 40))
        assert (many.status, many.whole) == (200, True)


@pytest.mark.parametrize("line", [
    "Sec-Fetch-Site: cross-site", "Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: same-site",
])  # fmt: skip
async def test_a_form_of_another_site_logs_nobody_in(tmp_path: Path, line: str) -> None:
    async with site(tmp_path, passwords=True) as here:
        assert (await log_in(here, form("anna", PASSWORD), line)).status == 403
        good = await log_in(here, form("anna", PASSWORD), "Origin: http://pacs.example")
        assert good.status == 303


@pytest.mark.parametrize(("body", "lines", "status"), [
    (b"user=anna", [FORM], 400), (b"", [FORM], 400), (b"\xff=\xff", [FORM], 400),
    (form("anna", PASSWORD), ["Content-Type: application/json"], 400),
    (b"user=" + b"a" * 9000, [FORM], 413),
    (form("anna", PASSWORD) + b"&user=berta", [FORM], 400),
])  # fmt: skip
async def test_what_is_no_login(tmp_path: Path, body: bytes, lines: list[str], status: int) -> None:
    async with site(tmp_path, passwords=True) as here:
        answered = await here.stage.ask("/.failover/login", *lines, method="POST", body=body)
        assert (answered.status, answered.header("set-cookie")) == (status, None)
        assert (await here.stage.ask("/.failover/login")).status == 200
        assert here.stage.backup.requests == []


async def test_log_out(tmp_path: Path) -> None:
    async with site(tmp_path, passwords=True) as here:
        assert (await here.stage.ask("/.failover/logout")).status == 405
        answered = await here.stage.ask("/.failover/logout", FORM, method="POST", body=b"")
        assert answered.status == 303
        given = answered.header("set-cookie") or ""
        assert given == "failover-session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"


async def test_machines_show_basic(tmp_path: Path) -> None:
    async with site(tmp_path, passwords=True) as here:
        here.primary_is_down()
        refused = await here.search()
        assert (refused.status, refused.header("www-authenticate")) == (
            401, 'Basic realm="archive", charset="UTF-8"',
        )  # fmt: skip
        good = f"Authorization: {basic('anna', PASSWORD)}"
        for _ in range(2):
            found = await here.search(good)
            assert (found.status, found.upstream) == (200, "backup")
        assert (await here.search(f"Authorization: {basic('anna', 'wrong password')}")).status == 401
        assert {one.header("authorization") for one in here.stage.backup.requests} == {None}
        assert (await here.stage.ask("/.failover/", good)).upstream == "backup"


async def test_who_is_checked_while_the_primary_hangs_moves_when_it_fits(tmp_path: Path) -> None:
    async with site(tmp_path, passwords=True) as here:
        here.stage.primary.script = silent
        caller = await here.stage.caller()
        good = f"Authorization: {basic('anna', PASSWORD)}".encode()
        await caller.send(b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % good)
        await here.stage.primary.received()
        here.stage.verdict(PRIMARY, Verdict.SUSPECT)
        answered = await caller.answer()
        assert (answered.status, answered.upstream) == (200, "backup")
        caller.close()


async def test_without_a_password_file_there_is_no_login(tmp_path: Path) -> None:
    async with site(tmp_path, remember=True) as here:
        here.primary_is_down()
        assert (await here.search()).status == 503
        assert (await here.stage.ask("/.failover/login")).status == 403


# -- two systems, one name --------------------------------------------------------------------------


async def test_cookies_of_two_systems_never_collide_and_a_session_outlasts_the_outage(tmp_path: Path) -> None:
    async with web_stage(tmp_path, foreign_backup=True) as stage:
        page = ["Accept: text/html"]
        stage.primary.script = always(answer(b"p", "200 OK", "Set-Cookie: sid=primary; Path=/"))
        stage.backup.script = always(answer(b"b", "200 OK", "Set-Cookie: sid=backup; Path=/"))
        jar: dict[str, str] = {}

        async def browse() -> str | None:
            shown = "; ".join(f"{name}={value}" for name, value in jar.items())
            answered = await stage.ask("/app", *page, *([f"Cookie: {shown}"] if shown else []))
            name, _, value = (answered.header("set-cookie") or "").partition(";")[0].partition("=")
            jar[name] = value
            return answered.upstream

        assert await browse() == UpstreamName.PRIMARY
        stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
        assert await browse() == UpstreamName.BACKUP
        assert await browse() == UpstreamName.BACKUP
        assert jar == {"sid": "primary", "failover-backup-sid": "backup"}
        assert [one.header("cookie") for one in stage.backup.requests] == [None, "sid=backup"]
        stage.phase(Phase.ON_PRIMARY)
        assert await browse() == UpstreamName.PRIMARY
        assert stage.primary.requests[-1].header("cookie") == "sid=primary"


async def test_urls_of_a_primary_that_builds_them_from_its_own_name(tmp_path: Path) -> None:
    async with web_stage(tmp_path) as stage:
        own = f"http://127.0.0.1:{stage.primary.port}"
        stage.primary.script = always(answer(b"", "302 Found", f"Location: {own}/app?x=1"))
        assert (await stage.ask("/old")).header("location") == "http://pacs.example/app?x=1"
        body = f'[{{"00081190":{{"vr":"UR","Value":["{own}/dicom-web/studies/1"]}}}}]'.encode()
        stage.primary.script = always(answer(body, "200 OK", "Content-Type: application/dicom+json"))
        answered = await stage.ask(SEARCH)
        assert answered.body == body.replace(own.encode(), b"http://pacs.example")
        # Longer than what is held: it streams, in chunks.
        long = b'[{"00081190":{"vr":"UR","Value":["%b/a"]}},{"x":"%b"}]' % (own.encode(), b"y" * 2**21)
        stage.primary.script = always(answer(long, "200 OK", "Content-Type: application/dicom+json"))
        for target in (SEARCH, "/dicom-web/studies/1/metadata", "/dicom-web/x"):
            answered = await stage.ask(target)
            assert answered.whole
            assert answered.body == long.replace(own.encode(), b"http://pacs.example")


def from_host(received: Received) -> str:
    return f"http://{received.header('host')}"


def from_x_forwarded(received: Received) -> str:
    return f"{received.header('x-forwarded-proto')}://{received.header('x-forwarded-host')}"


def from_forwarded(received: Received) -> str:
    """As Orthanc reads it: cut at `;`, quotes are part of the name."""
    told = dict(part.split("=", 1) for part in (received.header("forwarded") or "").split(";"))
    return f"{told['proto']}://{told['host']}"


@pytest.mark.parametrize("base", [from_host, from_x_forwarded, from_forwarded])
async def test_urls_of_a_primary_that_builds_them_from_what_it_is_told(
    tmp_path: Path, base: Callable[[Received], str]
) -> None:
    async def script(received: Received, talk: Talk) -> None:
        await talk.send(
            answer(b"", "302 Found", f"Location: {base(received)}/app", "Set-Cookie: s=1; Path=/app")
        )

    async with web_stage(tmp_path) as stage:
        stage.primary.script = script
        answered = await stage.ask("/old", "Host: pacs.example:8080")
        assert answered.header("location") == "http://pacs.example:8080/app"
        assert answered.header("set-cookie") == "s=1; Path=/app"
