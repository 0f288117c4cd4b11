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

from failover.model import AeTitle, parse_ae_title

_SECONDS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final[Mapping[str, int]] = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_duration(value: object) -> float:
    """Return seconds. `200ms 5s 10m 2h 7d`; a bare number is refused: its unit would be a guess."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)  # a default of ours, in seconds
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"must be a duration such as 200ms, 5s, 10m, 2h or 7d, is {value}")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(value: object) -> int:
    """Return bytes. `512KiB 64MiB 1.2TB`; a bare number is refused."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(str(value).strip())
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"must be a size such as 64MiB or 1.2TB, is {value}")
    return int(float(match[1]) * _BYTES[match[2]])


def parse_whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value).strip()
    if not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError(f"must be a whole number, is {value}")
    return int(text)


def parse_port(value: object) -> int:
    number = parse_whole(value)
    if not 1 <= number <= 65535:
        raise ValueError(f"must be 1 to 65535, is {number}")
    return number


def parse_truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "yes", "on"):
        return True
    if text in ("false", "no", "off"):
        return False
    raise ValueError(f"must be true or false, is {value}")


def parse_network(value: object) -> Network:
    try:
        return ipaddress.ip_network(str(value).strip(), strict=False)
    except ValueError:
        raise ValueError(f"must be an address or a network such as 10.1.2.0/24, is {value}") from None


def parse_path(value: object, where: ValidationInfo) -> Path:
    """Return an absolute path; a relative one is relative to the folder of the file."""
    path = Path(str(value)).expanduser()
    folder = (where.context or {}).get("folder", Path())
    return Path(folder, path).absolute()


def parse_url(value: object) -> str:
    text = str(value).strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be http://host:port or https://host:port, is {value}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"must be scheme, host and port alone (its URL space is the callers'), is {value}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise ValueError(f"the port must be 1 to 65535, is {value}") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def parse_url_path(value: object) -> str:
    text = "/" + str(value).strip().strip("/")
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", text):
        raise ValueError(f"must be a URL path such as /dicom-web, is {value}")
    return text


def _ae_title(value: object) -> AeTitle:
    try:
        return parse_ae_title(str(value))
    except ValueError as error:
        raise ValueError(f"{error} (an AE title)") from None


Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Whole = Annotated[int, BeforeValidator(parse_whole)]
Port = Annotated[int, BeforeValidator(parse_port)]
Truth = Annotated[bool, BeforeValidator(parse_truth)]
Net = Annotated[Network, BeforeValidator(parse_network), PlainSerializer(str)]
FilePath = Annotated[Path, BeforeValidator(parse_path)]
Url = Annotated[str, BeforeValidator(parse_url)]
UrlPath = Annotated[str, BeforeValidator(parse_url_path)]
Ae = Annotated[AeTitle, BeforeValidator(_ae_title)]
