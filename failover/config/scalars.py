"""How one scalar of the configuration is read: durations, sizes, ports, truths, networks. Pure.

Every scalar arrives as text, so that `port: 011112`, `site: no` and the AE title `ON` mean what they say.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo

from failover.addresses import Network
from failover.model import AeTitle, parse_ae_title

_SECONDS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final[Mapping[str, int]] = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)")
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
_AUTHORITY: Final = re.compile(r"(?:\[[0-9a-f:.]+\]|[a-z0-9_][a-z0-9_.-]{0,252})(?::([0-9]{1,5}))?")
_NUMBERS: Final = re.compile(r"[0-9.]+")  # such a name is an address with an error
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")

# A longer value is cut in a message.
_LONGEST_SHOWN: Final = 60


def shown(value: object) -> str:
    """Return `value` as a message shows it."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a block of keys"
    if isinstance(value, list):
        return "a list"
    text = str(value)
    if not text:
        return "empty"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def parse_duration(value: object) -> float:
    """Return seconds. `200ms 5s 10m 2h 7d`; a bare number is refused: its unit would be a guess."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)  # a default of ours, in seconds
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"must be a duration such as 200ms, 5s, 10m, 2h or 7d, is {shown(value)}")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(value: object) -> int:
    """Return bytes. `512KiB 64MiB 1.2TB`; a bare number is refused."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(str(value).strip())
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"must be a size such as 64MiB or 1.2TB, is {shown(value)}")
    return int(float(match[1]) * _BYTES[match[2]])


def parse_whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value).strip()
    if not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError(f"must be a whole number, is {shown(value)}")
    return int(text)


def parse_port(value: object) -> int:
    number = parse_whole(value)
    if not 1 <= number <= 65535:
        raise ValueError(f"must be 1 to 65535, is {shown(value)}")
    return number


def parse_truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "yes", "on"):
        return True
    if text in ("false", "no", "off"):
        return False
    raise ValueError(f"must be true or false, is {shown(value)}")


def parse_network(value: object) -> Network:
    try:
        return ipaddress.ip_network(str(value).strip(), strict=False)
    except ValueError:
        raise ValueError(f"must be an address or a network such as 10.1.2.0/24, is {shown(value)}") from None


def parse_text(value: object) -> str:
    """Return one line of printable text."""
    if isinstance(value, dict | list) or value is None or not str(value).strip():
        raise ValueError(f"must be text, is {shown(value)}")
    text = str(value).strip()
    if not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


def parse_host(value: object) -> str:
    """Return a host name or address; an IPv6 address may stand in brackets."""
    text = str(value).strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if isinstance(value, dict | list) or not _HOST.fullmatch(text) or _NUMBERS.fullmatch(text):
            raise ValueError(f"must be a name or an address alone, is {shown(value)}") from None
    return text


def parse_authority(value: object) -> str:
    """Return a host with or without a port, in lower case."""
    match = _AUTHORITY.fullmatch(str(value).strip().lower())
    if isinstance(value, dict | list) or match is None or int(match[1] or 1) not in range(1, 65536):
        raise ValueError(f"must be a name with or without a port, is {shown(value)}")
    return match[0]


def parse_pattern(value: object) -> str:
    """Return a regular expression that compiles."""
    try:
        re.compile(str(value))
    except re.error as error:
        raise ValueError(f"must be a regular expression ({error.msg}), is {shown(value)}") from None
    return str(value)


def parse_path(value: object, where: ValidationInfo) -> Path:
    """Return an absolute path; a relative one is relative to the folder of the file."""
    if isinstance(value, dict | list) or not str(value).strip() or "\0" in str(value):
        raise ValueError(f"must be a path, is {shown(value)}")
    path = Path(str(value)).expanduser()
    folder = (where.context or {}).get("folder", Path())
    return Path(folder, path).absolute()


def parse_url(value: object) -> str:
    text = str(value).strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be http://host:port or https://host:port, is {shown(value)}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(
            f"must be scheme, host and port alone (its URL space is the callers'), is {shown(value)}"
        )
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise ValueError(f"the port must be 1 to 65535, is {shown(value)}") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def parse_issuer(value: object) -> str:
    """Return an issuer exactly as it is written: its tokens repeat it to the letter."""
    text = str(value).strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f"must be the https URL that the provider calls its issuer, is {shown(value)}")
    if parts.query or parts.fragment or parts.username:
        raise ValueError(f"must be a URL without query and fragment, is {shown(value)}")
    return text


def parse_url_path(value: object) -> str:
    text = "/" + str(value).strip().strip("/")
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", text):
        raise ValueError(f"must be a URL path such as /dicom-web, is {shown(value)}")
    return text


def _ae_title(value: object) -> AeTitle:
    try:
        return parse_ae_title(str(value))
    except ValueError as error:
        raise ValueError(f"{error} (an AE title)") from None


Text = Annotated[str, BeforeValidator(parse_text)]
Host = Annotated[str, BeforeValidator(parse_host)]
Authority = Annotated[str, BeforeValidator(parse_authority)]
Pattern = Annotated[str, BeforeValidator(parse_pattern)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Whole = Annotated[int, BeforeValidator(parse_whole)]
Port = Annotated[int, BeforeValidator(parse_port)]
Truth = Annotated[bool, BeforeValidator(parse_truth)]
Net = Annotated[Network, BeforeValidator(parse_network), PlainSerializer(str)]
FilePath = Annotated[Path, BeforeValidator(parse_path)]
Url = Annotated[str, BeforeValidator(parse_url)]
Issuer = Annotated[str, BeforeValidator(parse_issuer)]
UrlPath = Annotated[str, BeforeValidator(parse_url_path)]
Ae = Annotated[AeTitle, BeforeValidator(_ae_title)]
