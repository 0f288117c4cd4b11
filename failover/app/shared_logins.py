"""Logins at several web workers: what they and the router tell each other of them.

The router alone checks passwords, counts tries, probes and writes. On the line of a worker (`web_words`):
router → worker   {"logins": {"key", "learnt"}}: it begins, and this is all that it knows; {"learnt"}: news
worker → router   {"learnt"}: refused; {"candidate"}: accepted by the primary, to be probed
Passwords are asked for by a question each, and so are logins at the identity provider: the router begins
and ends them, whichever worker the browser meets. The folder of the sockets is ours alone (0700), nothing of
it is logged, and nothing is kept of a password but whether it fits.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from failover.control import Handler, Json, ask
from failover.credentials.password_file import PasswordFile
from failover.credentials.remembered import Known, Learnt
from failover.errors import ControlError, ProviderUnavailable
from failover.proxy.admission import Admission, Candidate
from failover.proxy.passwords import Busy, Tried
from failover.proxy.provider import Begun, Finished, Outcome, Returned

_log = structlog.get_logger(__name__)

BY_FORM: Final = "password.by_form"
BY_BASIC: Final = "password.by_basic"
BEGIN_LOGIN: Final = "provider.begin"
FINISH_LOGIN: Final = "provider.finish"
# Document, code, and keys twice, 5 s each, and then some.
_PROVIDER_WITHIN_S: Final = 25.0
# All that may wait before it, a fifth of a second each, and then some.
_CHECKED_WITHIN_S: Final = 15.0


class AskedOfTheRouter:
    """The `PasswordCheck` of a web worker. A router that is away is `Busy`: tries would not be counted."""

    def __init__(self, users: PasswordFile, router: Path) -> None:
        self._users = users
        self._router = router

    def kept_of(self, user: str) -> str | None:
        kept = self._users.hash_of(user)
        return None if kept is None else str(kept)

    async def by_form(self, user: str, password: str, address: str) -> Tried:
        return await self._ask(BY_FORM, user, password, address)

    async def by_basic(self, user: str, password: str, address: str) -> Tried:
        return await self._ask(BY_BASIC, user, password, address)

    async def _ask(self, method: str, user: str, password: str, address: str) -> Tried:
        question = {"user": user, "password": password, "address": address}
        try:
            told = await ask(self._router, method, question, timeout_s=_CHECKED_WITHIN_S)
        except ControlError as error:
            _log.warning("no password can be checked: the router does not answer", reason=str(error))
            raise Busy from None
        if told["busy"]:
            raise Busy
        return Tried(bool(told["fits"]), float(told["wait_s"]))

    def close(self) -> None:
        """The thread is the router's."""


class ProviderAtTheRouter:
    """The `ProviderCheck` of a web worker. A router that is away is `Busy`: it knows what was redeemed."""

    def __init__(self, origin: str, stamp: str, router: Path) -> None:
        self.origin = origin
        self.stamp = stamp
        self._router = router

    def start(self) -> None:
        """The router looks after the provider."""

    async def begin(self, to: str) -> Begun:
        told = await self._ask(BEGIN_LOGIN, {"to": to})
        if "begun" not in told:
            raise ProviderUnavailable("the router cannot reach it")
        return Begun(*told["begun"])

    async def finish(self, returned: Returned, address: str) -> Finished:
        told = await self._ask(FINISH_LOGIN, {"returned": list(returned), "address": address})
        outcome, user, who, to, wait_s = told["finished"]
        return Finished(Outcome(outcome), user, who, to, float(wait_s))

    async def _ask(self, method: str, question: Json) -> Json:
        try:
            return await ask(self._router, method, question, timeout_s=_PROVIDER_WITHIN_S)
        except ControlError as error:
            _log.warning("nobody can log in: the router does not answer", reason=str(error))
            raise Busy from None

    async def close(self) -> None:
        """The connections are the router's."""


def answers(admission: Admission) -> dict[str, Handler]:
    """Return how the router answers its workers."""
    return {**_password_answers(admission), **_provider_answers(admission)}


def _provider_answers(admission: Admission) -> dict[str, Handler]:
    provider = admission.provider
    if provider is None:
        return {}

    async def begin(question: Json) -> Json:
        try:
            return {"begun": list(await provider.begin(str(question["to"])))}
        except ProviderUnavailable:
            return {}

    async def finish(question: Json) -> Json:
        return {"finished": list(await provider.finish(Returned(*question["returned"]), question["address"]))}

    return {BEGIN_LOGIN: begin, FINISH_LOGIN: finish}


def _password_answers(admission: Admission) -> dict[str, Handler]:
    passwords = admission.passwords
    if passwords is None:
        return {}

    async def by_form(question: Json) -> Json:
        try:
            tried = await passwords.by_form(*_asked(question))
        except Busy:
            return {"busy": True}
        return {"busy": False, "fits": tried.fits, "wait_s": tried.wait_s}

    async def by_basic(question: Json) -> Json:
        # What one worker has asked is known for the next one: a machine with an old password tries once.
        tried = await admission.try_basic(*_asked(question))
        if tried is None:
            return {"busy": True}
        return {"busy": False, "fits": tried.fits, "wait_s": tried.wait_s}

    return {BY_FORM: by_form, BY_BASIC: by_basic}


def _asked(question: Json) -> tuple[str, str, str]:
    return str(question["user"]), str(question["password"]), str(question["address"])


# -- on the line ------------------------------------------------------------------------------------


class Told:
    """The router's side: `begin` for a worker that joins, `heard` for its words; `say` tells all of them."""

    def __init__(self, admission: Admission, key: bytes, say: Callable[[Json], None]) -> None:
        self._admission = admission
        self._key = key
        if admission.remembered is not None:
            admission.remembered.tell = lambda learnt: say({"learnt": learnt_told(learnt)})

    def begin(self) -> Json:
        remembered = self._admission.remembered
        learnt = Learnt() if remembered is None else remembered.everything()
        return {"logins": {"key": self._key.hex(), "learnt": learnt_told(learnt)}}

    def heard(self, word: Json) -> None:
        """Raises KeyError, TypeError or ValueError for what no worker tells."""
        if self._admission.remembered is None:
            return
        if "learnt" in word:
            self._admission.remembered.take(learnt_read(word["learnt"]))
        if "candidate" in word:
            self._admission.candidate(candidate_read(word["candidate"]))


def learnt_told(learnt: Learnt) -> Json:
    return {
        "accepted": [[_text(digest), at_s] for digest, at_s in learnt.accepted],
        "refused": [[_text(digest), at_s] for digest, at_s in learnt.refused],
        "dropped": [_text(digest) for digest in learnt.dropped],
    }


def learnt_read(told: Json) -> Learnt:
    """Raises KeyError, TypeError or ValueError for what `learnt_told` does not make."""
    return Learnt(
        accepted=_known(told["accepted"]),
        refused=_known(told["refused"]),
        dropped=tuple(_bytes(digest) for digest in told["dropped"]),
    )


def candidate_told(one: Candidate) -> list[Any]:
    return [_text(one.host), _text(one.forwarded), _text(one.digest), one.asked_s]


def candidate_read(told: list[Any]) -> Candidate:
    """Raises TypeError or ValueError for what `candidate_told` does not make."""
    host, forwarded, digest, asked_s = told
    return Candidate(_bytes(host), _bytes(forwarded), _bytes(digest), float(asked_s))


def _known(told: list[Any]) -> tuple[Known, ...]:
    return tuple((_bytes(digest), float(at_s)) for digest, at_s in told)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
