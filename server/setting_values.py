"""How values of settings are written: bytes with a unit, lists with commas, hosts, origins, keys.

A value that cannot be used raises ValueError with the remedy; ``server.commandline`` puts flag and
value in front of it.
"""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#*]+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", re.IGNORECASE)


def parse_bytes(value: object) -> object:
    """``"2GiB"``, ``"512MB"`` or ``"1048576"`` as bytes; other types are left to the field."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if not match:
        raise ValueError("give bytes as a number with a unit, for example 2GiB or 512MiB")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def parse_list(value: object) -> object:
    """``"a,b"`` as ``("a", "b")``; a YAML list stays one."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def parse_json_object(value: object) -> object:
    """A JSON object written into a flag as a mapping; any other text stays text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return json.loads(value)
    return value


def check_host(value: str) -> str:
    """A host that images may come from. Raises ValueError."""
    if not _HOST.fullmatch(value):
        raise ValueError("give hosts such as images.example, *.cdn.example or images.example:8443")
    return value


def check_origin(value: str) -> str:
    """What a browser sends as ``Origin``, or ``*``. Raises ValueError."""
    if value != "*" and not _ORIGIN.fullmatch(value):
        raise ValueError("give origins such as https://app.example:8443, without a path, or *")
    return value


def parse_keys(value: object) -> object:
    """Like ``parse_list``; an empty text is no way to ask for a server without keys."""
    keys = parse_list(value)
    if isinstance(value, str) and not keys:
        raise ValueError("is empty; give a key, or leave it out for a server without keys")
    return keys


ByteSize = Annotated[int, BeforeValidator(parse_bytes)]
Host = Annotated[str, AfterValidator(check_host)]
Hosts = Annotated[tuple[Host, ...], NoDecode, BeforeValidator(parse_list)]
Origin = Annotated[str, AfterValidator(check_origin)]
Origins = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(parse_list)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(parse_keys)]
