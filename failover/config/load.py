"""Read a configuration file: all problems at once, each with key path, line and what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from failover.config import checks
from failover.config.problems import KeyPath, Problem
from failover.config.schema import AccessWeb, Block, Configuration, ListenAdmin
from failover.config.sentences import problem_of
from failover.config.tls_files import tls_findings
from failover.config.tree import Tree, read_tree, without
from failover.credentials.client_secret import read_secret
from failover.credentials.password_file import password_file_problems
from failover.credentials.tokens import token_file_problems, token_file_warning
from failover.errors import ConfigurationError, TlsUnusable
from failover.model import ClientTls

# A configuration has a few kilobytes; what is larger is some other file.
_LARGEST_BYTES: Final = 2**20


def load(path: Path, *, archive_alone: bool = False) -> Configuration:
    """Return the configuration in the file at `path`.

    `archive_alone` is for `failover archive`, which needs no primary. Raises ConfigurationError with one
    finished line for each problem: `failover.yaml:12: listen.web.port: must be 1 to 65535, is 80800`.
    """
    return parse(_text(path), name=path.name, folder=path.absolute().parent, archive_alone=archive_alone)


def load_listen_admin(path: Path) -> ListenAdmin:
    """Return `listen.admin` of the file at `path`, whatever else is wrong there.

    So an operator reaches the router while someone edits its configuration. Raises ConfigurationError.
    """
    return _load_block(path, ("listen", "admin"), ListenAdmin)


def load_access_web(path: Path) -> AccessWeb:
    """Return `access.web` of the file at `path`, whatever else is wrong there.

    So a password file that does not exist yet can be made. Raises ConfigurationError.
    """
    return _load_block(path, ("access", "web"), AccessWeb)


_B = TypeVar("_B", bound=Block)


def _load_block(path: Path, key: tuple[str, str], block: type[_B]) -> _B:
    tree = read_tree(_text(path))
    if tree.plain is None:
        raise _configuration_error(tree.problems, path.name)
    above = tree.plain.get(key[0])
    found = above.get(key[1]) if isinstance(above, dict) else None
    try:
        return block.model_validate(found or {}, context={"folder": path.absolute().parent})
    except ValidationError as error:
        located = [{**e, "loc": (*key, *e["loc"])} for e in error.errors()]
        raise _configuration_error([problem_of(tree, e) for e in located], path.name) from None


def parse(text: str, *, name: str, folder: Path, archive_alone: bool = False) -> Configuration:
    """Return the configuration in `text`; relative paths are relative to `folder`. Raises as `load`."""
    tree = read_tree(text)
    problems = list(tree.problems)
    if tree.plain is None:
        raise _configuration_error(problems, name)
    context = {"folder": folder}
    try:
        configuration = Configuration.model_validate(tree.plain, context=context)
    except ValidationError as error:
        mistakes = [problem_of(tree, e) for e in error.errors()]
        problems += mistakes + _problems_beside(tree, mistakes, context, archive_alone)
        raise _configuration_error(problems, name) from None
    findings = checks.problems(configuration, archive_alone=archive_alone)
    findings += file_findings(configuration, archive_alone=archive_alone)
    problems += [Problem(tree.line(path), path, sentence) for path, sentence in findings]
    if problems:
        raise _configuration_error(problems, name)
    return configuration


def _problems_beside(
    tree: Tree, mistakes: list[Problem], context: dict[str, Path], archive_alone: bool
) -> list[Problem]:
    """Return what `checks` finds in the rest of the file when the keys with `mistakes` are left out.

    So all problems are told at once. What compares two addresses waits until both are known.
    """
    wrong = {mistake.path for mistake in mistakes}
    configuration = None
    while configuration is None:
        try:
            configuration = Configuration.model_validate(without(tree.plain, wrong), context=context)
        except ValidationError as error:  # what was left out must be given: its block goes too
            more = {problem_of(tree, e).path[:-1] for e in error.errors()} - wrong
            if not more:
                return []
            wrong |= more
    findings = checks.problems(configuration, archive_alone=archive_alone, compare_addresses=False)
    findings += file_findings(configuration, archive_alone=archive_alone)
    return [
        Problem(tree.line(path), path, sentence)
        for path, sentence in findings
        if not any(path == other[: len(path)] or other == path[: len(other)] for other in wrong)
    ]


def file_findings(configuration: Configuration, *, archive_alone: bool = False) -> list[checks.Finding]:
    """Return (key path, sentence) for each file or folder that is named and cannot serve."""
    found: list[checks.Finding] = []
    folders: list[tuple[KeyPath, Path]] = [(("archive", "data_dir"), configuration.archive.data_dir)]
    if not archive_alone:
        folders.append((("state_dir",), configuration.state_dir))
        token_file = configuration.listen.admin.token_file
        if token_file is not None:
            path = ("listen", "admin", "token_file")
            found += [(path, f"{token_file}: {sentence}") for sentence in token_file_problems(token_file)]
        web = configuration.access.web
        if web is not None and web.password_file is not None:
            path, named = ("access", "web", "password_file"), web.password_file
            found += [(path, f"{named}: {sentence}") for sentence in password_file_problems(named)]
        found += _provider_findings(web)
        found += tls_findings(configuration)
    for key, folder in folders:
        if folder.exists() and not folder.is_dir():
            found.append((key, f"must be a folder, {folder} is none"))
    return found


def _provider_findings(web: AccessWeb | None) -> Iterator[checks.Finding]:
    oidc = None if web is None else web.oidc
    if oidc is None:
        return
    key = ("access", "web", "oidc")
    if oidc.client_secret_file is not None:
        try:
            read_secret(oidc.client_secret_file)
        except ValueError as error:
            yield (*key, "client_secret_file"), str(error)
    if oidc.ca_file is not None:
        from failover.tls import client_context  # most configurations need no OpenSSL to be read

        try:
            client_context(ClientTls(ca_file=oidc.ca_file))
        except TlsUnusable as error:
            yield (*key, "ca_file"), str(error)


def file_advice(configuration: Configuration) -> list[checks.Finding]:
    """Return (key path, sentence) for each file that will serve, and should not be as it is."""
    token_file = configuration.listen.admin.token_file
    warning = None if token_file is None else token_file_warning(token_file)
    return [] if warning is None else [(("listen", "admin", "token_file"), warning)]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from error
    if len(content) > _LARGEST_BYTES:
        raise ConfigurationError([f"{path}: has more than 1 MiB: no configuration"])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError([f"{path.name}:{line}: file: not UTF-8 at byte {error.start}"]) from None


def _configuration_error(problems: list[Problem], name: str) -> ConfigurationError:
    return ConfigurationError([problem.text(name) for problem in sorted(set(problems))])
