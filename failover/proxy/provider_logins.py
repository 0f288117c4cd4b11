"""Logins by the identity provider, from the way there to who came back (OpenID Connect Core 3.1, RFC 9700).

Imports what checks signatures, so the router imports it only where a provider is configured.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from typing import Final

import structlog

from failover.aio import cancel_and_wait, spawn
from failover.clients.identity_provider import Client, IdentityProvider, authorization_url
from failover.clock import Clock
from failover.credentials import claims, id_token
from failover.credentials.attempts import Attempts
from failover.credentials.transactions import Transaction, Transactions
from failover.errors import LoginRefused, ProviderUnavailable
from failover.proxy.provider import Begun, Finished, Outcome, Returned

_log = structlog.get_logger(__name__)

# So many codes are exchanged at once; each is one request to the provider. What comes beyond is told to wait.
_MOST_AT_ONCE: Final = 32
# RFC 6749 4.1.2.1: the provider's own troubles. All other errors are the caller's "no", or ours.
_ITS_TROUBLE: Final = ("server_error", "temporarily_unavailable")
_LONGEST_CODE: Final = 4096
# A small request a minute, and one more each hour for the keys.
_WATCH_EVERY_S: Final = 60.0


class ProviderLogins:
    """The `ProviderCheck` that looks itself."""

    def __init__(
        self, client: Client, clock: Clock, *, origin: str, scopes: Collection[str], groups_claim: str,
        groups: Collection[str] | None, counts: Callable[[str], None] = lambda result: None,
        shows: Callable[[bool], None] = lambda up: None,
    ) -> None:  # fmt: skip
        """`counts` is told how each return ended, `shows` whether the provider can be used."""
        self.origin = origin
        self.stamp = claims.stamp(client.issuer, client.client_id, groups_claim, groups)
        self._client = client
        self._provider = IdentityProvider(client, clock)
        self._clock = clock
        self._scope = " ".join(scopes)
        self._groups_claim, self._groups = groups_claim, groups
        self._counts, self._shows = counts, shows
        self._trouble: str | None = ""  # "": not known yet
        self._watching: asyncio.Task[None] | None = None
        self._transactions = Transactions(os.urandom(32), os.urandom)
        self._attempts = Attempts()
        self._at_once = 0

    def start(self) -> None:
        self._watching = spawn(self._watch(), name="watch the identity provider")

    async def close(self) -> None:
        await cancel_and_wait(self._watching)
        await self._provider.close()

    async def _watch(self) -> None:
        """Find out in calm what would keep people out in an outage."""
        while True:
            try:
                await self._provider.document()
                await self._provider.keys()
            except ProviderUnavailable as error:
                self._saw(str(error))
            else:
                self._saw(None)
            await self._clock.sleep(_WATCH_EVERY_S)

    def _saw(self, trouble: str | None) -> None:
        self._shows(trouble is None)
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("identity provider available")
        else:
            _log.warning("identity provider unavailable", reason=trouble)

    async def begin(self, to: str) -> Begun:
        try:
            document = await self._provider.document()
        except ProviderUnavailable as error:
            self._saw(str(error))
            self._counts(Outcome.UNAVAILABLE)
            raise
        one, cookie = self._transactions.begin(to, self._clock.monotonic())
        fields = {
            "response_type": "code",
            "client_id": self._client.client_id,
            "redirect_uri": self._client.redirect_uri,
            "scope": self._scope,
            "state": one.state,
            "nonce": one.nonce,
            "code_challenge": one.challenge,
            "code_challenge_method": "S256",
        }
        return Begun(authorization_url(document, fields), one.id, cookie)

    async def finish(self, returned: Returned, address: str) -> Finished:
        finished = await self._finish(returned, address)
        self._counts("refused" if finished.outcome is Outcome.STALE else finished.outcome)
        return finished

    async def _finish(self, returned: Returned, address: str) -> Finished:
        now_s = self._clock.monotonic()
        wait_s = self._attempts.wait_s(address, now_s)
        if wait_s > 0:
            return Finished(Outcome.TOO_OFTEN, wait_s=wait_s)
        if self._at_once >= _MOST_AT_ONCE:
            return Finished(Outcome.BUSY)
        # Without a code there is nothing to redeem: else whoever makes up errors could fill what is kept.
        look = self._transactions.find if returned.error else self._transactions.redeem
        one = look(returned.state, returned.cookies, now_s)
        if one is None:
            return Finished(Outcome.STALE)
        # Counted before it is known: a hundred at once are a hundred tries.
        self._attempts.failed(address, now_s)
        self._at_once += 1
        try:
            finished = await self._who(one, returned)
        except ProviderUnavailable as error:
            _log.warning("login failed at the identity provider", peer=address, reason=str(error))
            finished = Finished(Outcome.UNAVAILABLE, to=one.to)
        except LoginRefused as error:
            _log.warning("login refused", peer=address, reason=str(error))
            finished = Finished(Outcome.REFUSED, to=one.to)
        finally:
            self._at_once -= 1
        if finished.outcome is not Outcome.REFUSED:
            self._attempts.forgive(address)
        return finished

    async def _who(self, one: Transaction, returned: Returned) -> Finished:
        """Raises ProviderUnavailable, LoginRefused."""
        issuer, client_id = self._client.issuer, self._client.client_id
        document = await self._provider.document()
        if returned.issuer != issuer and (returned.issuer or document.names_itself):
            raise LoginRefused("another identity provider has answered (iss)")
        if returned.error in _ITS_TROUBLE:
            raise ProviderUnavailable(f"it says {returned.error}")
        if returned.error or not 0 < len(returned.code) <= _LONGEST_CODE:
            raise LoginRefused("the identity provider says no")
        token = await self._provider.id_token(returned.code, one.verifier)
        said = await self._verified(token)
        wall_s = self._clock.wall().timestamp()
        began_s = wall_s - (self._clock.monotonic() - one.began_s)
        subject = claims.subject_of(said, claims.Expected(issuer, client_id, one.nonce, began_s, wall_s))
        if not claims.is_allowed(said, self._groups_claim, self._groups):
            return Finished(Outcome.NOT_ALLOWED, who=subject, to=one.to)
        return Finished(Outcome.ACCEPTED, claims.session_name(issuer, subject), subject, one.to)

    async def _verified(self, token: str) -> dict[str, object]:
        try:
            return id_token.claims_of(token, await self._provider.keys())
        except id_token.UnknownKey:
            return id_token.claims_of(token, await self._provider.keys(unknown=True))
