"""Finds the router of an operator's command and asks it. Leaves what is printed to the commands.

Plain http.client: a proxy of the environment must never stand between an operator and the router.
"""

from __future__ import annotations

import getpass
import http.client
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import typer

from failover.cli.exits import Exit, leave
from failover.cli.options import AdminOption, ConfigOption, TokenFileOption, config_path

if TYPE_CHECKING:
    import ssl

    from failover.config.schema import ListenTls

DEFAULT_ADMIN: Final = "http://127.0.0.1:9470"
# The router answers in milliseconds; a change waits for the disk. Beyond this it is not reachable.
TIMEOUT_S: Final = 10.0
# The stream has a line each second.
STREAM_TIMEOUT_S: Final = 5.0
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, for which the ssl module has no name
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Unreachable(Exception):
    """No router answers there; the message says where and why."""


class Denied(Exception):
    """The router answered no: `status` is HTTP's, the message the router's sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RouterClient:
    """One router's admin API."""

    url: str
    token: str | None = None
    tls: ListenTls | None = None
    """listen.admin.tls of the configuration that named the router: its very certificate is wanted then."""

    def stream(self, since: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield `{"status", "events"}` at each change and each second. Raises Unreachable when it ends."""
        connection = self._connect(STREAM_TIMEOUT_S)
        try:
            path = "/api/stream" if since is None else f"/api/stream?since={since}"
            response = self._send(connection, "GET", path, None)
            _raise_for(response.status, b"" if response.status == 200 else response.read())
            while line := response.readline():
                yield json.loads(line)
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise Unreachable(f"{self.url} stopped answering: {_why(error)}") from error
        finally:
            connection.close()
        raise Unreachable(f"{self.url} ended the stream")

    def ask(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON that the router answers. Raises Unreachable, Denied."""
        connection = self._connect(TIMEOUT_S)
        try:
            response = self._send(connection, method, path, content)
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"no router answers at {self.url}: {_why(error)}; is it running? --admin URL names another"
            ) from error
        finally:
            connection.close()
        _raise_for(response.status, body)
        try:
            return json.loads(body)
        except ValueError:
            raise Unreachable(f"what answers at {self.url} is no failover router") from None

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme != "https":
            return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        context = None if self.tls is None else _pinned(self.tls)
        return http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=timeout_s, context=context
        )

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        content: Mapping[str, Any] | None,
    ) -> http.client.HTTPResponse:
        headers = {"X-Failover-Actor": quote(_user())}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        body = None
        if content is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(content).encode()
        connection.request(method, urlsplit(self.url).path.rstrip("/") + path, body=body, headers=headers)
        return connection.getresponse()


@contextmanager
def a_sentence_at_the_end() -> Iterator[None]:
    """Turn what the router or the operator's Ctrl-C says into a line and the exit code of the contract."""
    try:
        yield
    except Unreachable as error:
        leave(Exit.UNREACHABLE, str(error))
    except Denied as error:
        if error.status == 401:
            leave(Exit.USAGE, "the router wants a token it knows: --token-file FILE or FAILOVER_TOKEN_FILE")
        mistaken = 400 <= error.status < 500 and error.status != 409
        leave(Exit.USAGE if mistaken else Exit.FAILED, str(error))
    except KeyboardInterrupt:
        raise typer.Exit(int(Exit.DONE)) from None


def find_router(admin: str | None, config: Path | None, token_file: Path | None) -> RouterClient:
    """Return the client for the router that the options, environment and configuration name (DESIGN 5).

    Ends with exit code 2 and a line for each problem when one of them cannot be used.
    """
    url, tls = _admin_url(admin, config)
    return RouterClient(url, _token(token_file), tls)


def finds_router(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, whose first parameter is a RouterClient, the options that find one in its place."""

    @wraps(command)
    def found(
        config: Path | None = None, admin: str | None = None, token_file: Path | None = None, **own: Any
    ) -> None:
        command(find_router(admin, config, token_file), **own)

    _, *own = signature(command, eval_str=True).parameters.values()
    options = (("config", ConfigOption), ("admin", AdminOption), ("token_file", TokenFileOption))
    found.__signature__ = Signature(  # type: ignore[attr-defined]
        [each.replace(kind=Parameter.KEYWORD_ONLY) for each in own]
        + [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in options]
    )
    return found


def _admin_url(admin: str | None, config: Path | None) -> tuple[str, ListenTls | None]:
    url = admin or os.environ.get("FAILOVER_ADMIN")
    if url:
        return _checked_url(url), None
    path = config_path(config)
    if config is None and not os.environ.get("FAILOVER_CONFIG") and not path.exists():
        return DEFAULT_ADMIN, None
    from failover.config.load import load_listen_admin
    from failover.errors import ConfigurationError

    try:
        listen = load_listen_admin(path)
    except ConfigurationError as error:
        leave(Exit.USAGE, *error.problems)
    host = _WILDCARDS.get(listen.host, listen.host)
    scheme = "http" if listen.tls is None else "https"
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{listen.port}", listen.tls


def _pinned(tls: ListenTls) -> ssl.SSLContext:
    """Return a context that believes the router's own certificate alone, whatever name and date are in it.

    The file tells more than an issuer could, and an expired certificate must not keep an operator out.
    Where callers need a certificate we show the router's: who may read its key may use it.
    """
    import ssl

    from failover.certificates import first_pem
    from failover.errors import TlsUnusable

    try:
        context = ssl.create_default_context(cadata=first_pem(tls.cert_file))
        if tls.client_ca_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (TlsUnusable, OSError) as error:
        leave(Exit.USAGE, f"listen.admin.tls: {error}")
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    return context


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        leave(Exit.USAGE, f"the admin URL must be like {DEFAULT_ADMIN}, is {url}")
    return url.rstrip("/")


def _token(token_file: Path | None) -> str | None:
    named = token_file or (os.environ.get("FAILOVER_TOKEN_FILE") or None)
    if named is None:
        return None
    from failover.credentials.tokens import own_token

    try:
        return own_token(Path(named))
    except ValueError as error:
        leave(Exit.USAGE, str(error))


def _user() -> str:
    # Behind sudo the person is more use to the audit trail than "root".
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


def _raise_for(status: int, body: bytes) -> None:
    if status == 200:
        return
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {status}"
    raise Denied(status, message)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
