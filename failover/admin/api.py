"""The admin listener: status, route, decisions, events, the live stream, metrics, and the page's files.

What the router does is behind `Operations`; who may ask is in `guards`. Every answer but /metrics and the
page is JSON; an error is `{"error": "sentence"}`, never a stack trace.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from failover.admin import page
from failover.admin.guards import actor_of, bearer_token, deny
from failover.admin.headline import with_headline
from failover.admin.operations import Operations
from failover.admin.questions import (
    parse_owed_question,
    parse_plan_question,
    parse_quarantine_question,
    parse_split_question,
)
from failover.admin.requests import (
    BadRequest,
    parse_decision_request,
    parse_protection_request,
    parse_route_request,
)
from failover.config.schema import ListenAdmin
from failover.credentials.tokens import Tokens, read_tokens
from failover.errors import FailoverError, Refused, Unprocessable

_log = structlog.get_logger(__name__)

# A request of an operator has a few hundred bytes; beyond this it is refused with 413.
LONGEST_BODY_BYTES: Final = 64 * 1024
# Watchers hear something at least so often, so that silence tells them that the router is gone.
STREAM_BEAT_S: Final = 1.0
# Changes closer together than this are told as one.
STREAM_PACE_S: Final = 0.1
# A watcher that takes nothing for so long is let go.
STREAM_STALL_S: Final = 30.0
# A new watcher is told so many past events.
STREAM_PAST_EVENTS: Final = 50
# Watchers at once; beyond this 503: a forgotten wall of screens must not starve the router.
MOST_STREAMS: Final = 100

# The page asks for the token itself, and whether we live is no secret.
WITHOUT_TOKEN: Final = frozenset({"/-/healthy", "/-/ready", *page.FILES})
# Who asks, put there by the guard.
ACTOR: Final = web.RequestKey("actor", str)
ACTOR_HEADER: Final = "X-Failover-Actor"
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def admin_app(operations: Operations, listen: ListenAdmin) -> web.Application:
    """Return the application for `listen.admin`. Reads the token file once; raises OSError when it cannot."""
    tokens = read_tokens(listen.token_file) if listen.token_file is not None else None
    app = web.Application(
        middlewares=[_answer_errors, _guard(tokens, listen)], client_max_size=LONGEST_BODY_BYTES
    )
    api = _Api(operations)
    app.on_shutdown.append(api.end_streams)
    app.on_response_prepare.append(_set_headers)
    app.add_routes(
        [
            web.get("/api/status", api.status),
            web.put("/api/route", api.route),
            web.post("/api/decisions", api.decisions),
            web.get("/api/events", api.events),
            web.get("/api/owed", api.owed),
            web.get("/api/split", api.split),
            web.get("/api/archive/plan", api.plan),
            web.post("/api/archive/protection", api.protection),
            web.get("/api/quarantine", api.quarantine),
            web.get("/api/stream", api.stream),
            web.get("/metrics", api.metrics),
            web.get("/-/healthy", api.healthy),
            web.get("/-/ready", api.ready),
            *(web.get(path, page.handler(path)) for path in page.FILES),
        ]
    )
    return app


class _Api:
    """The handlers."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._streams = 0
        self._ending = asyncio.Event()

    async def status(self, _request: web.Request) -> web.Response:
        return web.json_response(with_headline(self._operations.status()))

    async def route(self, request: web.Request) -> web.Response:
        wanted = parse_route_request(await request.read())
        return web.json_response(with_headline(await self._operations.change_route(wanted, request[ACTOR])))

    async def decisions(self, request: web.Request) -> web.Response:
        wanted = parse_decision_request(await request.read())
        return web.json_response(with_headline(await self._operations.decide(wanted, request[ACTOR])))

    async def events(self, request: web.Request) -> web.Response:
        return web.json_response(self._operations.events(_since(request) or 0))

    async def owed(self, request: web.Request) -> web.Response:
        return web.json_response(await self._operations.owed(parse_owed_question(_query(request))))

    async def split(self, request: web.Request) -> web.Response:
        return web.json_response(await self._operations.split(parse_split_question(_query(request))))

    async def plan(self, request: web.Request) -> web.Response:
        return web.json_response(await self._operations.plan(parse_plan_question(_query(request))))

    async def protection(self, request: web.Request) -> web.Response:
        wanted = parse_protection_request(await request.read())
        return web.json_response(await self._operations.protect(wanted, request[ACTOR]))

    async def quarantine(self, request: web.Request) -> web.Response:
        question = parse_quarantine_question(_query(request))
        return web.json_response(await self._operations.quarantine(question))

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._operations.metrics(), headers={"Content-Type": _METRICS_TYPE})

    async def healthy(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(self, _request: web.Request) -> web.Response:
        awaited = self._operations.not_ready()
        return web.Response(text=f"{awaited or 'ready'}\n", status=503 if awaited else 200)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """One JSON object a line, `{"status": …, "events": […new ones…]}`, at each change and each second."""
        since = _since(request)
        if self._streams >= MOST_STREAMS:
            return _error(503, f"{MOST_STREAMS} watchers are connected, that is the most")
        self._streams += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            response.headers["X-Accel-Buffering"] = "no"  # nginx before us must not collect lines
            await response.prepare(request)
            with suppress(ConnectionError, TimeoutError):  # it went away, or does not read what it asked for
                await self._tell(response, since)
            return response
        finally:
            self._streams -= 1

    async def _tell(self, response: web.StreamResponse, since: int | None) -> None:
        events = self._operations.events(since or 0)
        if since is None:
            events = events[-STREAM_PAST_EVENTS:]
        last = since or 0
        while True:
            last = max([last, *(int(event["id"]) for event in events)])
            line = json.dumps({"status": with_headline(self._operations.status()), "events": events})
            async with asyncio.timeout(STREAM_STALL_S):
                await response.write(line.encode() + b"\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_BEAT_S):
                    await self._operations.changed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_PACE_S):
                    await self._ending.wait()
            if self._ending.is_set():
                return
            events = self._operations.events(last)

    async def end_streams(self, _app: web.Application) -> None:
        self._ending.set()
        self._operations.changed.fire()


def _guard(tokens: Tokens | None, listen: ListenAdmin) -> Middleware:
    """Let a request through only when `guards` has nothing against it, and say who acts."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if len(request.headers.getall("Host", [])) > 1:
            return _error(400, "more than one Host")
        denial = deny(request.method, request.path, request.headers, listen.hosts)
        if denial is not None:
            _log.warning("admin request denied", status=denial.status, path=request.path, peer=request.remote)
            return _error(denial.status, denial.message)
        token_name: str | None = None
        if tokens is not None and request.path not in WITHOUT_TOKEN:
            token_name = tokens.name_of(bearer_token(request.headers.get("Authorization")) or "")
            if token_name is None:
                _log.warning("admin token missing or unknown", path=request.path, peer=request.remote)
                answer = _error(401, "a token is needed: Authorization: Bearer …")
                answer.headers["WWW-Authenticate"] = 'Bearer realm="failover"'
                return answer
        request[ACTOR] = actor_of(token_name, request.headers.get(ACTOR_HEADER))
        return await handler(request)

    return guard


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what was raised into a status and one sentence."""
    try:
        return await handler(request)
    except BadRequest as error:
        return _error(400, str(error))
    except Refused as error:
        return _error(409, str(error))
    except Unprocessable as error:
        return _error(422, str(error))
    except web.HTTPMethodNotAllowed as error:
        answer = _error(405, f"{request.method} is not possible here")
        answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return answer
    except web.HTTPRequestEntityTooLarge:
        return _error(413, f"the body has more than {LONGEST_BODY_BYTES} bytes")
    except web.HTTPException as error:
        return _error(error.status, error.reason.lower())
    except FailoverError as error:
        _log.warning("admin request failed", path=request.path, error=str(error))
        return _error(503, str(error))
    except ConnectionError:
        raise  # the one who asked went away: nobody is there to answer
    except Exception as error:
        _log.exception("admin request failed", path=request.path)
        return _error(500, f"internal error: {type(error).__name__}")


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "failover"


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


def _query(request: web.Request) -> dict[str, str]:
    if len(request.query) != len(set(request.query)):
        raise BadRequest("a parameter is given twice")
    return dict(request.query)


def _since(request: web.Request) -> int | None:
    """The id in `?since=`, None when it is not given."""
    text = request.query.get("since")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest("since: must be the id of an event")
    return int(text)
