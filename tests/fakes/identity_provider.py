"""An identity provider on a real socket: signs real tokens, checks PKCE, codes and clients as real ones do.

What a test sets makes it rotate keys, lie, refuse or break.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from failover.clock import Clock, SystemClock
from failover.model import ServerTls
from failover.tls import server_context
from tests.fakes.logins import basic
from tests.peers.authority import Issued

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@functools.cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key that takes a tenth of a second to find, so it is found once."""
    return rsa.generate_private_key(65537, bits)


@functools.cache
def ec_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public(key: PrivateKey, kid: str | None, **more: str) -> dict[str, Any]:
    """The public half as a JWK."""
    shown = (
        RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        if isinstance(key, rsa.RSAPrivateKey)
        else ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    )
    named = {} if kid is None else {"kid": kid}
    return {**shown, **named, "use": "sig", **more}


@dataclass
class Code:
    nonce: str
    challenge: str
    redirect_uri: str
    used: bool = False


@dataclass
class FakeProvider:
    client_id: str = "failover"
    secret: str | None = None
    subject: str = "8f2c-anna"
    groups: list[str] = field(default_factory=lambda: ["radiology"])
    key: PrivateKey = field(default_factory=ec_key)
    algorithm: str = "ES256"
    forged_with: bytes | None = None
    """Sign with this, though the key is another."""
    kid: str = "first"
    page: bool = False
    """Show a page with a button, as for somebody who is not logged in yet."""
    says: dict[str, Any] = field(default_factory=dict)
    """Claims that the next tokens have instead; None: left out."""
    document: dict[str, Any] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    """Paths that answer with this status."""
    codes: dict[str, Code] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Every path that was asked for."""
    seen: list[dict[str, str]] = field(default_factory=list)
    """The query of each authorization request."""
    issuer: str = ""
    clock: Clock = field(default_factory=SystemClock)
    tls: Issued | None = None

    async def start(self) -> FakeProvider:
        await self.listen(0)
        return self

    async def listen(self, port: int) -> None:
        app = web.Application(middlewares=[self._note])
        app.router.add_get("/realm/.well-known/openid-configuration", self._document)
        app.router.add_get("/realm/keys", self._keys)
        app.router.add_get("/realm/authorize", self._authorize)
        app.router.add_post("/realm/token", self._token)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        context = None
        if self.tls is not None:
            context = server_context(ServerTls(self.tls.cert, self.tls.key))
        site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=context)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        base = "http://127.0.0.1" if self.tls is None else "https://localhost"
        self.issuer = f"{base}:{self.port}/realm"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def token(self, nonce: str, **says: Any) -> str:
        now_s = int(self.clock.wall().timestamp())
        claims = {
            "iss": self.issuer, "sub": self.subject, "aud": self.client_id, "nonce": nonce,
            "iat": now_s, "exp": now_s + 300, "groups": self.groups, **self.says, **says,
        }  # fmt: skip
        kept = {name: value for name, value in claims.items() if value is not None}
        signer: PrivateKey | bytes | str = self.key if self.forged_with is None else self.forged_with or ""
        return jwt.encode(kept, signer, self.algorithm, headers={"kid": self.kid})

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        step = request.path.rpartition("/")[2]
        self.asked.append(step)
        if step in self.broken:
            return web.json_response({"error": "server_error"}, status=self.broken[step])
        answered: web.StreamResponse = await handler(request)
        return answered

    async def _document(self, request: web.Request) -> web.Response:
        return web.json_response({
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            **self.document,
        })  # fmt: skip

    async def _keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [public(self.key, self.kid)]})

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        if self.page and "yes" not in query:
            fields = "".join(f'<input type="hidden" name="{k}" value="{v}">' for k, v in query.items())
            form = f'<form>{fields}<button name="yes" value="1">Yes, it is me</button></form>'
            return web.Response(text=f"<title>Hospital login</title>{form}", content_type="text/html")
        query.pop("yes", None)
        self.seen.append(query)
        assert query["response_type"] == "code"
        assert query["client_id"] == self.client_id
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = Code(query["nonce"], query["code_challenge"], query["redirect_uri"])
        back = {"code": code, "state": query["state"]}
        if self.document.get("authorization_response_iss_parameter_supported"):
            back["iss"] = self.issuer
        return web.Response(status=302, headers={"Location": f"{query['redirect_uri']}?{urlencode(back)}"})

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        shown = request.headers.get("Authorization")
        if self.secret is None:
            known = form.get("client_id") == self.client_id and shown is None
        elif shown is not None:
            known = shown == basic(self.client_id, self.secret)
        else:
            known = (form.get("client_id"), form.get("client_secret")) == (self.client_id, self.secret)
        if not known:
            return web.json_response({"error": "invalid_client"}, status=401)
        code = self.codes.get(form.get("code", ""))
        verifier = form.get("code_verifier", "")
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        fits = code is not None and not code.used and code.redirect_uri == form.get("redirect_uri")
        if code is None or not fits or code.challenge != digest or not 43 <= len(verifier) <= 128:
            return web.json_response({"error": "invalid_grant"}, status=400)
        code.used = True
        answer = {"access_token": "x", "token_type": "Bearer", "id_token": self.token(code.nonce)}
        return web.Response(text=json.dumps(answer), content_type="application/json")
