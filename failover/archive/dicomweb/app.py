"""The archive's web side as one application: DICOMweb, the viewer's files, who may ask, errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib import resources
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from failover.addresses import Network, is_within
from failover.archive.codecs import Undecodable
from failover.archive.decoders import Decoders
from failover.archive.dicomweb import rendered, retrieve, search, store, wado_uri
from failover.archive.dicomweb.accept import NotAcceptable
from failover.archive.dicomweb.asking import ROOM, Described, Room, is_via_router, prefix
from failover.archive.dicomweb.at_once import SEARCHES, Searches
from failover.archive.dicomweb.views import BadView
from failover.archive.expected import ExpectedMoves
from failover.archive.extents import FrameTables
from failover.archive.index import Index
from failover.archive.instances import Instances
from failover.archive.kept_metadata import KeptMetadata
from failover.archive.ledger import Ledger
from failover.archive.paths import INDEX
from failover.archive.pixels import NoPixels, NoSuchFrame
from failover.archive.queries import Level
from failover.archive.rendering import NoSuchRegion
from failover.clock import Clock
from failover.config.schema import LOOPBACK, Configuration
from failover.errors import LimitExceeded, MalformedMultipart, UnreadableDataSet
from failover.metrics import ArchiveMetrics

_log = structlog.get_logger(__name__)
VIEWER: Final = "/.failover"
WADO_URI: Final = "/wado"
_BEGAN: Final = web.RequestKey("answer_began", bool)
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
}


def web_app(
    index: Index,
    instances: Instances,
    expected: ExpectedMoves,
    ledger: Ledger,
    configuration: Configuration,
    metrics: ArchiveMetrics,
    clock: Clock,
    *,
    decoder_ready: bool = False,
) -> web.Application:
    """Return the application for `archive.web`. `decoder_ready`: its first picture waits for no imports."""
    archive = configuration.archive
    decoders, transcoders = Decoders(workers=2), Decoders(workers=2)
    kept = KeptMetadata(archive.data_dir)
    kept.forget_all_but(archive.data_dir / INDEX)
    access = archive.access.web if archive.access is not None else None
    networks = LOOPBACK if access is None else access.addresses
    # Bodies of STOW are streamed by our own parser: aiohttp's limit is for bodies that it holds itself.
    app = web.Application(middlewares=[_guard(networks), _answering(metrics)], client_max_size=1 << 20)
    app[ROOM] = Room(
        index=index,
        instances=instances,
        expected=expected,
        decoders=decoders,
        transcoders=transcoders,
        frame_tables=FrameTables(),
        described=Described(),
        kept=kept,
        clock=clock,
        dicomweb_path=archive.web.dicomweb_path,
        max_store_bytes=archive.web.max_store_bytes,
        fails_outside_window=archive.outside_window == "fail",
    )

    async def close(_app: web.Application) -> None:
        await decoders.close()
        await transcoders.close()
        kept.close()

    async def have_a_decoder(_app: web.Application) -> None:
        await decoders.start_one()

    if decoder_ready:
        app.on_startup.append(have_a_decoder)
    app.on_cleanup.append(close)
    app.on_response_prepare.append(_set_headers)
    _add_dicomweb(app, archive.web.dicomweb_path.rstrip("/"))
    app.router.add_get(WADO_URI, wado_uri.retrieve_instance)
    _add_viewer(app, index, ledger, configuration)
    app[SEARCHES] = Searches(app[ROOM], metrics, _HEADERS, _admits(networks))
    return app


def _add_dicomweb(app: web.Application, root: str) -> None:
    study, series, instance = "/studies/{study}", "/series/{series}", "/instances/{instance}"
    levels = (study, study + series, study + series + instance)
    # In the order in which they are compared: paths without a name in them, then what a viewer asks for slice
    # by slice.
    app.add_routes(
        [
            web.get(f"{root}/studies", partial(search.search, level=Level.STUDY)),
            web.get(f"{root}/series", partial(search.search, level=Level.SERIES)),
            web.get(f"{root}/instances", partial(search.search, level=Level.IMAGE)),
            web.post(f"{root}/studies", store.store),
        ]
    )
    for level in reversed(levels):
        app.router.add_get(f"{root}{level}", retrieve.instances)
        if level == levels[2]:
            _add_frames(app, f"{root}{level}")
        app.router.add_get(f"{root}{level}/metadata", retrieve.metadata)
        app.router.add_get(f"{root}{level}/rendered", rendered.rendered)
        app.router.add_get(f"{root}{level}/thumbnail", rendered.thumbnail)
    app.add_routes(
        [
            web.get(f"{root}{study}/series", partial(search.search, level=Level.SERIES)),
            web.get(f"{root}{study}/instances", partial(search.search, level=Level.IMAGE)),
            web.get(f"{root}{study}{series}/instances", partial(search.search, level=Level.IMAGE)),
            web.post(f"{root}{study}", store.store),
        ]
    )


def _add_frames(app: web.Application, instance: str) -> None:
    app.add_routes(
        [
            web.get(f"{instance}/frames/{{frames}}", retrieve.frames),
            web.get(f"{instance}/frames", retrieve.frames),
            web.get(f"{instance}/frames/{{frames}}/rendered", rendered.rendered),
            web.get(f"{instance}/frames/{{frames}}/thumbnail", rendered.thumbnail),
            web.get(f"{instance}/bulkdata/{{path:.+}}", retrieve.bulk_data),
        ]
    )


def _add_viewer(app: web.Application, index: Index, ledger: Ledger, configuration: Configuration) -> None:
    folder = resources.files("failover.archive") / "viewer"
    files = {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.is_file() and entry.name[entry.name.rfind(".") :] in _TYPES
    }

    async def file(request: web.Request) -> web.Response:
        name = request.match_info.get("name") or "index.html"
        body = files.get(name)
        if body is None:
            raise web.HTTPNotFound(text="no such page")
        kind = _TYPES[name[name.rfind(".") :]]
        return web.Response(
            body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"}
        )

    async def state(request: web.Request) -> web.Response:
        """What the viewer shows all the time: site, window, debt, and where DICOMweb is for this caller."""
        window, numbers = index.window, ledger.numbers()
        return web.json_response(
            {
                "site": configuration.site,
                "dicomweb": prefix(request),
                "via_router": is_via_router(request),
                "window": {
                    "from": None if window.first_day is None else window.first_day.isoformat(),
                    "complete": window.complete,
                    "sentence": window.sentence(),
                },
                "owed": numbers.lag_objects,
                "held": index.numbers(),
            },
            headers={"Cache-Control": "no-store"},
        )

    async def home(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"{VIEWER}/", "Cache-Control": "no-store"})

    app.router.add_get("/", home)
    app.router.add_get(VIEWER, home)
    app.router.add_get(f"{VIEWER}/", file)
    app.router.add_get(f"{VIEWER}/api/state", state)
    app.router.add_get(f"{VIEWER}/download/{{study}}", retrieve.download)
    app.router.add_get(f"{VIEWER}/{{name}}", file)


def _admits(networks: Sequence[Network]) -> Callable[[str], bool]:
    @lru_cache(maxsize=4096)  # a caller asks thousands of times
    def is_admitted(remote: str) -> bool:
        return is_within(remote, networks)

    return is_admitted


def _guard(networks: Sequence[Network]) -> Middleware:
    """Let in only whom archive.access.web names (DESIGN 4.5)."""

    is_admitted = _admits(networks)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_admitted(request.remote or ""):
            return web.Response(status=403, text="this address is not admitted")
        return await handler(request)

    return guard


def _answering(metrics: ArchiveMetrics) -> Middleware:
    """Turn what handlers raise into statuses, and count."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _answered(request, handler)
        metrics.requests.labels(_route(request), str(response.status)).inc()
        return response

    return answer


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (ConnectionError, TimeoutError):
        raise  # the caller went away
    except Exception as error:
        if request.get(_BEGAN):
            # The head is out: only a connection that breaks says that the rest is missing.
            _log.error("an answer broke off", route=_route(request), error=type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the answer broke off") from error
        return _refused(request, error)


def _refused(request: web.Request, problem: Exception) -> web.Response:
    """Return the answer for what a handler raised before it began to answer."""
    try:
        raise problem
    except web.HTTPException as error:
        return web.Response(status=error.status, text=error.text, headers=_kept(error))
    except (MalformedMultipart, LimitExceeded, BadView, NoSuchRegion) as error:
        return web.Response(status=400, text=str(error))
    except NotAcceptable as error:
        return web.Response(status=406, text=str(error))
    except (NoPixels, NoSuchFrame) as error:
        return web.Response(status=404, text=str(error))
    except FileNotFoundError:
        _log.error("an object's file is gone")
        return web.Response(status=404, text="its file is gone")
    except (UnreadableDataSet, Undecodable) as error:
        return web.Response(status=406, text=str(error))
    except Exception:
        _log.exception("a request failed", route=_route(request))
        return web.Response(status=500, text="internal error")


def _kept(error: web.HTTPException) -> dict[str, str]:
    return {
        name: error.headers[name]
        for name in ("Warning", "Allow", "Retry-After", "Content-Range")
        if name in error.headers
    }


def _route(request: web.Request) -> str:
    last = request.path.rstrip("/").rpartition("/")[2]
    if request.path.startswith(VIEWER):
        return "page"
    if request.method == "POST":
        return "stow"
    if last in ("rendered", "thumbnail"):
        return "rendered"
    return "qido" if last in ("studies", "series", "instances") else "wado"


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    request[_BEGAN] = True
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
