"""The identity provider over HTTP: what it can do (OpenID Connect Discovery 1.0), its keys, code for token.

It answers what the provider says; what an ID token is worth is judged elsewhere. All that comes is small,
soon, and from where the issuer's own document leads: no redirect is followed, no proxy of the environment
asked.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus, urlsplit

import aiohttp
import structlog

from failover.clients.http_tls import connect_failure, tls_options
from failover.clock import Clock
from failover.credentials.client_secret import read_secret
from failover.errors import LoginRefused, ProviderUnavailable, TlsUnusable
from failover.model import ClientTls

_log = structlog.get_logger(__name__)

Json = dict[str, Any]
# A person waits for each answer, in a browser that has been sent away from a page.
_CONNECT_S: Final = 2.0
_ANSWER_S: Final = 5.0
# The largest document known has 8 KB, the largest set of keys 30 KB, a token of some hundred groups 20 KB.
_MOST_BYTES: Final = 512 * 1024
# Whoever is sent to the provider should find it alive: younger than this, its document says so.
_ALIVE_S: Final = 30.0
# One that failed is not asked again at once: a hundred who press "again" are one question.
_FAILED_S: Final = 2.0
# Keys that the provider withdrew are believed no longer than this.
_KEYS_S: Final = 3600.0
# A token that names a key which nobody knows makes us look for new ones no more often than this.
_LOOK_AGAIN_S: Final = 10.0
# RFC 6749 5.2: what says that the code is worth nothing. All other errors say that we are.
_OF_THE_CODE: Final = "invalid_grant"
_OURS: Final = frozenset((
    "invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Client:
    """How the provider knows us."""

    issuer: str
    client_id: str
    redirect_uri: str
    secret_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """What we need of the provider's configuration."""

    authorization: str
    token: str
    keys: str
    secret_in_body: bool
    """It takes the client's secret in the form alone (`client_secret_post`)."""
    names_itself: bool
    """It tells its issuer with each code (RFC 9207)."""


class IdentityProvider:
    """One provider. Belongs to one loop; `close` ends its connections."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self.client = client
        self._clock = clock
        self._tls = ClientTls(ca_file=client.ca_file) if client.issuer.startswith("https:") else None
        self._session: aiohttp.ClientSession | None = None
        self._document: Document | None = None
        self._document_s = self._failed_s = float("-inf")
        self._keys_s = self._keys_failed_s = self._looked_s = float("-inf")
        self._failure = ""
        self._document_turn = asyncio.Lock()
        self._keys_turn = asyncio.Lock()
        self._keys: Sequence[Json] = ()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    # -- what it can do

    async def document(self) -> Document:
        """Return what it can do, as it said within the last half minute. Raises ProviderUnavailable."""
        async with self._document_turn:
            now_s = self._clock.monotonic()
            if self._document is not None and now_s - self._document_s < _ALIVE_S:
                return self._document
            if now_s - self._failed_s < _FAILED_S:
                raise ProviderUnavailable(self._failure)
            return await self._ask_document()

    async def _ask_document(self) -> Document:
        url = self.client.issuer.rstrip("/") + "/.well-known/openid-configuration"
        try:
            status, content = await self._ask("GET", url)
            if status != 200:
                raise ProviderUnavailable(f"its configuration: HTTP {status}")
            document = _read(content, self.client.issuer)
        except ProviderUnavailable as error:
            self._failed_s, self._failure = self._clock.monotonic(), str(error)
            raise
        self._document, self._document_s = document, self._clock.monotonic()
        return document

    # -- its keys

    async def keys(self, *, unknown: bool = False) -> Sequence[Json]:
        """Return the keys that it signs with. Raises ProviderUnavailable.

        `unknown`: a token names another key. They are asked for again, unless that was done just now.
        """
        async with self._keys_turn:
            now_s = self._clock.monotonic()
            kept = bool(self._keys) and now_s - self._keys_s < _KEYS_S
            if kept and (not unknown or now_s - self._looked_s < _LOOK_AGAIN_S):
                return self._keys
            if now_s - self._keys_failed_s < _FAILED_S:
                raise ProviderUnavailable("its keys could not be had just now")
            self._looked_s = now_s
            try:
                self._keys = await self._ask_keys()
            except ProviderUnavailable:
                self._keys_failed_s = self._clock.monotonic()
                raise
            self._keys_s = self._clock.monotonic()
            return self._keys

    async def _ask_keys(self) -> Sequence[Json]:
        document = await self.document()
        status, content = await self._ask("GET", document.keys)
        found = content.get("keys")
        if status != 200 or not isinstance(found, list):
            raise ProviderUnavailable(f"its keys: HTTP {status}")
        return [key for key in found if isinstance(key, dict)]

    # -- code for token

    async def id_token(self, code: str, verifier: str) -> str:
        """Return the ID token for `code` (RFC 6749 4.1.3). Raises LoginRefused, ProviderUnavailable."""
        document, client = await self.document(), self.client
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": client.redirect_uri,
            "code_verifier": verifier,
        }
        fields = {}
        if client.secret_file is None:
            form["client_id"] = client.client_id
        else:
            try:
                secret = await asyncio.to_thread(read_secret, client.secret_file)
            except ValueError as error:
                raise ProviderUnavailable(str(error)) from None
            if document.secret_in_body:
                form |= {"client_id": client.client_id, "client_secret": secret}
            else:
                # RFC 6749 2.3.1: each is encoded as a field of a form before they are joined.
                pair = f"{quote_plus(client.client_id)}:{quote_plus(secret)}"
                fields["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        status, content = await self._ask("POST", document.token, form, fields)
        if status == 200:
            token = content.get("id_token")
            if not isinstance(token, str):
                raise LoginRefused("the identity provider gave no ID token: does its client have openid?")
            return token
        said = content.get("error")
        if said == _OF_THE_CODE:
            raise LoginRefused("the identity provider refuses the code")
        if isinstance(said, str) and said in _OURS:
            _log.error("the identity provider refuses us: see access.web.oidc", error=said, status=status)
        raise ProviderUnavailable(f"code for token: HTTP {status}")

    async def _ask(
        self, method: str, url: str, form: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> tuple[int, Json]:  # fmt: skip
        """Return status and JSON object, {} for anything else. Raises ProviderUnavailable."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_ANSWER_S, connect=_CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.request(
                method, url, data=form, headers={"Accept": "application/json", **(fields or {})},
                allow_redirects=False, **tls_options(self._tls),
            ) as answer:  # fmt: skip
                content = b""
                async for piece in answer.content.iter_any():
                    content += piece
                    if len(content) > _MOST_BYTES:
                        raise ProviderUnavailable("its answer is too long")
                return answer.status, _object(content)
        except TlsUnusable as error:
            raise ProviderUnavailable(str(error)) from None
        except aiohttp.ClientConnectorError as error:
            raise ProviderUnavailable(connect_failure(error)) from None
        except TimeoutError:
            raise ProviderUnavailable("no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ProviderUnavailable(f"no whole answer: {type(error).__name__}") from None


def authorization_url(document: Document, fields: Mapping[str, str]) -> str:
    """Return where a browser is sent (RFC 6749 3.1: the endpoint may have a query of its own)."""
    joined = "&".join(f"{name}={quote_plus(value)}" for name, value in fields.items())
    return f"{document.authorization}{'&' if '?' in document.authorization else '?'}{joined}"


def _object(content: bytes) -> Json:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(found: Json, issuer: str) -> Document:
    """Raises ProviderUnavailable for a document that is not of `issuer`, or leads out of TLS."""
    # Discovery 4.3: else another provider could pass off its keys as those of this one.
    if found.get("issuer") != issuer:
        raise ProviderUnavailable("its configuration names another issuer than access.web.oidc.issuer")
    methods = found.get("token_endpoint_auth_methods_supported")
    in_body = (
        isinstance(methods, list) and "client_secret_post" in methods and "client_secret_basic" not in methods
    )
    return Document(
        _place(found, "authorization_endpoint", issuer),
        _place(found, "token_endpoint", issuer),
        _place(found, "jwks_uri", issuer),
        secret_in_body=in_body,
        names_itself=found.get("authorization_response_iss_parameter_supported") is True,
    )


def _place(found: Json, name: str, issuer: str) -> str:
    place = found.get(name)
    if not isinstance(place, str) or not _is_safe(place, issuer):
        raise ProviderUnavailable(f"its configuration has no {name}, or one without TLS")
    return place


def _is_safe(place: str, issuer: str) -> bool:
    """Whether `place` is a URL that may stand in a header, by TLS unless the issuer itself has none."""
    if not place.isascii() or not place.isprintable() or {" ", '"', "<", ">", "#"} & set(place):
        return False
    try:
        parts = urlsplit(place)
    except ValueError:
        return False
    return bool(parts.hostname) and parts.scheme in ("https", urlsplit(issuer).scheme)
