"""Logins by the hospital's identity provider, through the proxy, with a provider that signs real tokens."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from failover.clients.identity_provider import Client
from failover.clock import Clock, ManualClock, SystemClock
from failover.credentials import transactions
from failover.credentials.password_file import PasswordFile, set_password
from failover.credentials.sessions import Sessions
from failover.model import Phase, Verdict
from failover.proxy.admission import Admission
from failover.proxy.passwords import Passwords
from failover.proxy.provider_logins import ProviderLogins
from tests.fakes.backend import always, answer
from tests.fakes.callers import Answered, ask
from tests.fakes.identity_provider import FakeProvider, ec_key, public, rsa_key
from tests.fakes.web_stage import Stage, web_stage
from tests.peers.authority import Authority, Issued

pytestmark = pytest.mark.integration

SEARCH = "/dicom-web/studies"
BROWSER = ["Accept: text/html", "User-Agent: Mozilla/5.0"]
LOGIN = "/.failover/oidc/login"
CALLBACK = "/.failover/oidc/callback"


@dataclass
class Browser:
    """Keeps cookies as a browser does, for one site, and follows where it is led."""

    stage: Stage
    provider: FakeProvider
    jar: dict[str, str]
    lines: tuple[str, ...] = ()

    async def get(self, target: str, *lines: str) -> Answered:
        shown = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        cookie = [f"Cookie: {shown}"] if shown else []
        answered = await self.stage.ask(target, *BROWSER, *self.lines, *cookie, *lines)
        for name, value in answered.headers:
            if name.lower() == "set-cookie":
                pair, _, attributes = value.partition(";")
                kept, _, content = pair.partition("=")
                self.jar[kept] = content
                if "Max-Age=0" in attributes:
                    del self.jar[kept]
        return answered

    async def to_provider(self, target: str) -> str:
        """Ask for a page and go where that leads; return the way to the provider."""
        led = await self.get(target)
        assert (led.status, led.upstream) == (302, "none")
        there = await self.get(led.header("location") or "")
        assert there.status == 303, there.body
        return there.header("location") or ""

    async def at_provider(self, url: str) -> str:
        """Log in there; return the path by which it leads back."""
        parts = urlsplit(url)
        back = await ask(self.provider.port, f"{parts.path}?{parts.query}", f"Host: {parts.netloc}")
        assert back.status == 302, back.body
        return (back.header("location") or "").removeprefix("http://pacs.example").removeprefix(
            "https://pacs.example"
        )  # fmt: skip

    async def log_in(self, target: str) -> Answered:
        """All the way; return the answer to the return."""
        return await self.get(await self.at_provider(await self.to_provider(target)))


@dataclass
class Site:
    stage: Stage
    provider: FakeProvider
    counted: list[str]
    shown: list[bool]
    """Whether the provider could be used, each time that was found out."""

    def browser(self, *lines: str) -> Browser:
        return Browser(self.stage, self.provider, {}, lines)


@asynccontextmanager
async def site(
    folder: Path, *, secret: str | None = None, groups: list[str] | None = None, passwords: bool = False,
    clock: Clock | None = None, origin: str = "http://pacs.example", tls: Issued | None = None,
    ca_file: Path | None = None, **listen: Any,
) -> AsyncIterator[Site]:  # fmt: skip
    """In backup mode, and nobody is admitted by address."""
    now = clock or SystemClock()
    provider = await FakeProvider(secret=secret, clock=now, tls=tls).start()
    counted: list[str] = []
    shown: list[bool] = []
    if secret is not None:
        (folder / "secret").write_text(secret + "\n")
        (folder / "secret").chmod(0o600)
    client = Client(
        provider.issuer, "failover", f"{origin}{CALLBACK}", folder / "secret" if secret else None, ca_file
    )  # fmt: skip
    logins = ProviderLogins(
        client, now, origin=origin, scopes=["openid", "groups"], groups_claim="groups", groups=groups,
        counts=counted.append, shows=shown.append,
    )  # fmt: skip
    users = None
    if passwords:
        set_password(folder / "passwords", "anna", "correct horse")
        users = Passwords(PasswordFile(folder / "passwords", now), now)

    def kept_of(user: str) -> str | None:
        return logins.stamp if user.startswith("oidc:") else None

    sessions = Sessions(b"k" * 32, kept_of, lambda: now.wall().timestamp())
    doors = Admission(now, passwords=users, provider=logins, sessions=sessions)
    async with web_stage(folder, admission=doors, **listen) as stage:
        stage.admitted.clear()
        stage.backup.script = always(answer(b'["the archive"]'))
        stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
        try:
            yield Site(stage, provider, counted, shown)
        finally:
            await provider.stop()


async def test_nobody_reads_who_did_not_log_in_and_who_did_comes_back_to_the_page(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        browser = here.browser()
        assert (await browser.get(SEARCH, "Accept: application/dicom+json")).status == 401
        assert here.stage.backup.requests == []
        done = await browser.log_in("/viewer?StudyInstanceUIDs=1.2.3&a=%2F")
        assert (done.status, done.header("location")) == (303, "/viewer?StudyInstanceUIDs=1.2.3&a=%2F")
        assert list(browser.jar) == ["failover-session"]
        found = await browser.get(SEARCH, "Accept: application/dicom+json")
        assert (found.status, found.upstream, found.body) == (200, "backup", b'["the archive"]')
        assert {one.header("cookie") for one in here.stage.backup.requests} == {None}
        assert here.counted == ["accepted"]
        # The provider heard nothing of the page, and got a challenge, not the verifier.
        assert "StudyInstanceUIDs" not in str(here.provider.seen)
        assert set(here.provider.seen[0]) == {
            "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge",
            "code_challenge_method",
        }  # fmt: skip
        assert (await here.browser().get("/viewer")).header("location") == f"{LOGIN}?to=/viewer"


async def test_the_cookies_of_a_login(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        browser = here.browser()
        there = await browser.get(f"{LOGIN}?to=/")
        given = there.header("set-cookie") or ""
        assert re.fullmatch(
            r"failover-login-[\w-]{8}=[\w.-]+; Path=/; HttpOnly; SameSite=Lax; Max-Age=600", given
        ), given  # fmt: skip
        back = await browser.at_provider(there.header("location") or "")
        done = await browser.get(back)
        lines = [value for name, value in done.headers if name == "Set-Cookie"]
        assert re.fullmatch(
            r"failover-session=[\w.=-]+; Path=/; HttpOnly; SameSite=Lax; Max-Age=43200", lines[0]
        )  # fmt: skip
        assert lines[1].startswith(given.partition("=")[0] + "=; ")
        assert (done.header("cache-control"), done.header("location")) == ("no-store", "/")


async def test_under_tls_all_cookies_are_for_tls_alone(tmp_path: Path) -> None:
    over_tls = ["X-Forwarded-Proto: https", "X-Forwarded-Host: pacs.example", "X-Forwarded-For: 10.9.9.9"]
    async with site(tmp_path, origin="https://pacs.example", trusted_proxies=["127.0.0.1"]) as here:
        browser = here.browser(*over_tls)
        there = await browser.get(f"{LOGIN}?to=/a")
        assert re.match(r"__Host-failover-login-[\w-]{8}=", there.header("set-cookie") or "")
        assert (there.header("set-cookie") or "").endswith("; Secure")
        done = await browser.get(await browser.at_provider(there.header("location") or ""))
        assert (done.status, done.header("location")) == (303, "/a")
        assert list(browser.jar) == ["__Host-failover-session"]
        assert (await browser.get(SEARCH)).upstream == "backup"
        browser.lines = ()  # the same cookie, shown over plain HTTP
        assert (await browser.get(SEARCH)).status == 401


async def test_a_state_is_used_once_and_by_the_browser_that_began(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        mine, other = here.browser(), here.browser()
        back = await mine.at_provider(await mine.to_provider("/a"))
        await other.to_provider("/b")
        stolen = await other.get(back)
        assert (stolen.status, stolen.header("set-cookie")) == (400, None)
        assert b"another browser" in stolen.body
        jar = dict(mine.jar)
        assert (await mine.get(back)).status == 303
        mine.jar = jar  # a browser that kept what it was told to drop
        again = await mine.get(back)
        assert (again.status, again.header("set-cookie")) == (400, None)
        assert here.provider.asked.count("token") == 1
        assert here.counted == ["refused", "accepted", "refused"]


@pytest.mark.parametrize("query", [
    "", "?", "?code=a", "?state=x&code=a", "?state={state}&state={state}&code=a",
    "?" + "&".join(["a=1"] * 40),
])  # fmt: skip
async def test_what_is_no_return(tmp_path: Path, query: str) -> None:
    async with site(tmp_path) as here:
        browser = here.browser()
        state = parse_qs(urlsplit(await browser.to_provider("/a")).query)["state"][0]
        answered = await browser.get(CALLBACK + query.replace("{state}", state))
        assert (answered.status, answered.header("set-cookie")) == (400, None)
        assert "token" not in here.provider.asked
        posted = await here.stage.ask(CALLBACK, method="POST", body=b"")
        assert (posted.status, posted.header("allow")) == (405, "GET")


@pytest.mark.parametrize("to", [
    "//evil.example/", "/\\evil.example", "https://evil.example/", "javascript:alert(1)", "", "/a\r\nX: y",
    "/\t/evil.example", '/"><script>', "/%0d%0aX: y", "///evil.example", "/\\/evil.example",
    "\\\\evil.example",
])  # fmt: skip
async def test_a_login_leads_nowhere_else(tmp_path: Path, to: str) -> None:
    async with site(tmp_path) as here:
        browser = here.browser()
        there = await browser.get(f"{LOGIN}?to={quote(to, safe='')}")
        done = await browser.get(await browser.at_provider(there.header("location") or ""))
        location = done.header("location") or ""
        assert done.status == 303
        assert location == "/.failover/" or re.fullmatch(r"/[!-~]*", location)
        assert not location.startswith(("//", "/\\"))
        assert not {"<", ">", '"', "\r", "\n"} & set(location)


@pytest.mark.parametrize(("says", "algorithm"), [
    ({"iss": "http://127.0.0.1:1/realm"}, "ES256"), ({"aud": "other"}, "ES256"), ({"exp": 1}, "ES256"),
    ({"nonce": "of another login"}, "ES256"), ({"iat": 1}, "ES256"), ({"sub": None}, "ES256"),
    ({}, "none"), ({}, "HS256"),
])  # fmt: skip
async def test_a_token_that_proves_nothing(tmp_path: Path, says: dict[str, Any], algorithm: str) -> None:
    async with site(tmp_path) as here:
        here.provider.says, here.provider.algorithm = says, algorithm
        if algorithm != "ES256":
            shown = str(public(here.provider.key, None)["x"]).encode()
            here.provider.forged_with = shown if algorithm == "HS256" else b""
        browser = here.browser()
        done = await browser.log_in("/a")
        assert (done.status, done.header("set-cookie")) == (403, None)
        assert b"did not confirm who you are" in done.body
        assert here.counted == ["refused"]
        assert here.stage.backup.requests == []


async def test_a_group_that_may_not(tmp_path: Path) -> None:
    async with site(tmp_path, groups=["radiology", "surgery"]) as here:
        here.provider.groups = ["porters"]
        browser = here.browser()
        done = await browser.log_in("/a")
        assert (done.status, done.header("set-cookie")) == (403, None)
        assert b"none of the groups" in done.body
        assert (await browser.get("/a")).header("location") == f"{LOGIN}?to=/a"
        here.provider.groups = ["porters", "surgery"]
        assert (await browser.log_in("/a")).status == 303
        assert here.counted == ["not_allowed", "accepted"]


async def test_new_keys_are_found_and_not_asked_for_by_everyone(tmp_path: Path) -> None:
    clock = ManualClock()
    async with site(tmp_path, clock=clock) as here:
        assert (await here.browser().log_in("/a")).status == 303
        here.provider.key, here.provider.kid = ec_key(1), "second"
        assert (await here.browser().log_in("/a")).status == 403  # looked for 10 s ago at the earliest
        await clock.advance(11)
        assert (await here.browser().log_in("/a")).status == 303
        assert here.provider.asked.count("keys") == 2
        here.provider.key, here.provider.kid, here.provider.algorithm = rsa_key(), "third", "PS256"
        await clock.advance(11)
        assert (await here.browser().log_in("/a")).status == 303
        assert here.provider.asked.count("keys") == 3


async def test_a_provider_that_is_down_opens_nothing_and_says_so(tmp_path: Path) -> None:
    clock = ManualClock()
    async with site(tmp_path, clock=clock) as here:
        browser = here.browser()
        await browser.log_in("/a")
        await here.provider.stop()
        await clock.advance(31)
        for _ in range(2):
            away = await here.browser().get(f"{LOGIN}?to=/a")
            assert (away.status, away.header("set-cookie")) == (503, None)
            assert int(away.header("retry-after") or 0) > 0
            assert b"does not answer" in away.body
            assert b"/.failover/oidc/login?to=/a" in away.body
        assert (await browser.get(SEARCH)).upstream == "backup"  # who is logged in goes on
        await here.provider.listen(here.provider.port)
        await clock.advance(3)
        assert (await here.browser().log_in("/a")).status == 303
        assert here.counted == ["accepted", "unavailable", "unavailable", "accepted"]


@pytest.mark.parametrize("broken", ["token", "keys", "openid-configuration"])
async def test_a_provider_that_breaks_on_the_way(tmp_path: Path, broken: str) -> None:
    clock = ManualClock()
    async with site(tmp_path, clock=clock) as here:
        browser = here.browser()
        back = await browser.at_provider(await browser.to_provider("/a"))
        here.provider.broken[broken] = 500
        here.provider.kid = "new"
        await clock.advance(31)
        done = await browser.get(back)
        assert (done.status, done.header("set-cookie")) == (503, None)
        assert int(done.header("retry-after") or 0) > 0
        assert here.counted == ["unavailable"]


@pytest.mark.parametrize("document", [
    {"issuer": "http://127.0.0.1:1/realm"}, {"authorization_endpoint": None}, {"jwks_uri": "ftp://a/keys"},
    {"token_endpoint": "/token"}, {"authorization_endpoint": "http://a/\r\nX: y"},
])  # fmt: skip
async def test_a_document_that_cannot_be_gone_by(tmp_path: Path, document: dict[str, Any]) -> None:
    async with site(tmp_path) as here:
        here.provider.document = document
        assert (await here.browser().get(f"{LOGIN}?to=/a")).status == 503


@pytest.mark.parametrize(
    "methods", [None, ["client_secret_basic", "client_secret_post"], ["client_secret_post"]]
)
async def test_a_client_with_a_secret(tmp_path: Path, methods: list[str] | None) -> None:
    async with site(tmp_path, secret="s/e c:r+e%t") as here:
        if methods is not None:
            here.provider.document = {"token_endpoint_auth_methods_supported": methods}
        if methods != ["client_secret_post"]:
            here.provider.secret = "s%2Fe+c%3Ar%2Be%25t"  # as RFC 6749 2.3.1 has it sent
        assert (await here.browser().log_in("/a")).status == 303
        (tmp_path / "secret").write_text("another\n")
        refused = await here.browser().log_in("/a")
        assert (refused.status, refused.header("set-cookie")) == (503, None)


async def test_who_says_no_at_the_provider(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        for error, status in (("access_denied", 403), ("temporarily_unavailable", 503)):
            browser = here.browser()
            state = parse_qs(urlsplit(await browser.to_provider("/a")).query)["state"][0]
            answered = await browser.get(f"{CALLBACK}?state={state}&error={error}")
            assert (answered.status, answered.header("set-cookie")) == (status, None)
        assert "token" not in here.provider.asked


async def test_made_up_errors_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They need no account, and are no failed tries: they must not fill what is kept of logins."""
    monkeypatch.setattr(transactions, "_MOST_REDEEMED", 2)
    async with site(tmp_path) as here:
        stranger = here.browser()
        for _ in range(3):
            state = parse_qs(urlsplit(await stranger.to_provider("/a")).query)["state"][0]
            assert (await stranger.get(f"{CALLBACK}?state={state}&error=server_error")).status == 503
        assert (await here.browser().log_in("/a")).status == 303


async def test_an_answer_of_another_provider(tmp_path: Path) -> None:
    """RFC 9207: a code of one provider must not be taken to another."""
    async with site(tmp_path) as here:
        browser = here.browser()
        back = await browser.at_provider(await browser.to_provider("/a"))
        mixed = await browser.get(f"{back}&iss=https%3A%2F%2Fevil.example")
        assert mixed.status == 403
    async with site(tmp_path) as here:
        here.provider.document = {"authorization_response_iss_parameter_supported": True}
        browser = here.browser()
        assert (await browser.log_in("/a")).status == 303
        back = await browser.at_provider(await here.browser().to_provider("/b"))
        browser = here.browser()
        back = await browser.at_provider(await browser.to_provider("/a"))
        assert (await browser.get(back.partition("&iss=")[0])).status == 403
        assert here.provider.asked.count("token") == 1


async def test_codes_are_not_tried_without_end(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        for _ in range(10):
            browser = here.browser()
            state = parse_qs(urlsplit(await browser.to_provider("/a")).query)["state"][0]
            assert (await browser.get(f"{CALLBACK}?state={state}&code=guessed")).status == 403
        answered = await here.browser().log_in("/a")
        assert (answered.status, answered.header("set-cookie")) == (429, None)
        assert 0 < int(answered.header("retry-after") or 0) <= 31
        assert here.provider.asked.count("token") == 10


async def test_scripts_pictures_frames_and_machines_are_not_led_away(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        for lines in (
            ["Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty", "Accept: text/html"],
            ["Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image", "Accept: image/png"],
            ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe", "Accept: text/html"],
            ["Accept: application/dicom+json"],
            [],
        ):
            for target in (SEARCH, "/viewer"):
                refused = await here.stage.ask(target, *lines)
                wanted = 'Bearer realm="archive"'
                if refused.status == 503:  # no page: the primary alone has it
                    assert target == "/viewer"
                    continue
                assert (refused.status, refused.header("www-authenticate")) == (401, wanted), lines
        framed = await here.stage.ask(
            "/viewer", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe", *BROWSER
        )
        assert b'href="/.failover/oidc/login?to=/viewer" target="_top"' in framed.body
        led = await here.stage.ask(
            "/viewer", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", *BROWSER
        )
        assert (led.status, led.header("location")) == (302, f"{LOGIN}?to=/viewer")
        head = await here.stage.ask("/viewer", *BROWSER, method="HEAD")
        assert head.status == 401


async def test_beside_passwords_the_page_offers_both(tmp_path: Path) -> None:
    async with site(tmp_path, passwords=True) as here:
        page = await here.browser().get("/viewer")
        assert page.status == 401
        assert b'href="/.failover/oidc/login?to=/viewer"' in page.body
        assert b'action="/.failover/login"' in page.body
        machine = await here.stage.ask(SEARCH)
        challenges = [value for name, value in machine.headers if name == "WWW-Authenticate"]
        assert challenges == ['Basic realm="archive", charset="UTF-8"', 'Bearer realm="archive"']
        script = await here.stage.ask(SEARCH, "Sec-Fetch-Mode: cors")
        challenges = [value for name, value in script.headers if name == "WWW-Authenticate"]
        assert challenges == ['Form realm="archive"', 'Bearer realm="archive"']


async def test_whoever_comes_by_another_name_logs_in_at_the_public_one(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        led = await here.stage.ask(f"{LOGIN}?to=/a%26b", "Host: pacs", *BROWSER)
        assert (led.status, led.header("set-cookie")) == (303, None)
        assert led.header("location") == f"http://pacs.example{LOGIN}?to=/a%26b&here=1"
        once = await here.stage.ask(f"{LOGIN}?to=/a&here=1", "Host: pacs", *BROWSER)
        assert (once.header("location") or "").startswith(here.provider.issuer)


async def test_three_tabs_log_in_and_a_fourth_takes_the_place_of_the_first(tmp_path: Path) -> None:
    clock = ManualClock()
    async with site(tmp_path, clock=clock) as here:
        browser, ways = here.browser(), []
        for number in range(4):
            ways.append(await browser.to_provider(f"/{number}"))
            await clock.advance(1)
            assert len(browser.jar) <= 3
        jar = dict(browser.jar)
        statuses = []
        for way in ways:
            browser.jar = dict(jar)
            statuses.append((await browser.get(await browser.at_provider(way))).status)
        assert statuses == [400, 303, 303, 303]


async def test_a_caller_that_leaves_ends_nothing_else(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        browser = here.browser()
        back = await browser.at_provider(await browser.to_provider("/a"))
        caller = await here.stage.caller()
        shown = "; ".join(f"{name}={value}" for name, value in browser.jar.items())
        await caller.send(f"GET {back} HTTP/1.1\r\nHost: pacs.example\r\nCookie: {shown}\r\n\r\n".encode())
        caller.close()
        async with asyncio.timeout(10):
            while here.counted != ["accepted"]:
                await here.stage.ask("/ping")
        assert (await here.browser().log_in("/a")).status == 303


async def test_in_calm_the_primary_alone_decides(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        browser = here.browser()
        await browser.log_in("/a")
        here.stage.phase(Phase.ON_PRIMARY)
        here.stage.primary.script = always(answer(b"yours"))
        assert (await browser.get("/a")).upstream == "primary"
        assert (await here.browser().get("/a")).upstream == "primary"
        browser.jar["failover-login-abcdefgh"] = "under.way"
        browser.jar["lang"] = "de"
        await browser.get("/a")
        assert here.stage.primary.requests[-1].header("cookie") == "lang=de"


async def test_a_provider_that_goes_away_is_noticed_in_calm(tmp_path: Path) -> None:
    clock = ManualClock()
    async with site(tmp_path, clock=clock) as here:

        async def seen(up: bool) -> None:
            async with asyncio.timeout(20):
                while here.shown[-1:] != [up]:
                    await here.stage.ask("/ping")

        await seen(True)
        here.provider.broken["openid-configuration"] = 503
        await clock.advance(61)
        await seen(False)
        here.provider.broken = {}
        await clock.advance(61)
        await seen(True)
        here.provider.broken["keys"] = 500
        await clock.advance(3601)
        await clock.advance(61)
        await seen(False)
        assert (await here.browser().get("/a")).header("location") == f"{LOGIN}?to=/a"


async def test_by_tls_the_provider_must_show_a_certificate_that_counts(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    issued = authority.issue("localhost")
    async with site(tmp_path, tls=issued, ca_file=authority.ca_file) as here:
        assert here.provider.issuer.startswith("https://localhost:")
        there = await here.browser().get(f"{LOGIN}?to=/a")
        assert (there.header("location") or "").startswith(here.provider.issuer)
    async with site(tmp_path, tls=issued) as here:
        away = await here.browser().get(f"{LOGIN}?to=/a")
        assert (away.status, away.header("set-cookie")) == (503, None)
        assert here.provider.asked == []
