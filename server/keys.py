"""API keys: who a request is from, and what the operator allows them.

Keys come from a setting or from a file, one a line: ``KEY [NAME] [concurrent=N] [per_minute=N]``,
``#`` begins a comment. The file is read again when it has changed, so that a key can be taken
away without a restart; one that cannot be read any more leaves the old keys in force. Only hashes
are kept, and all of them are compared, so that time tells nothing about which one came close.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog

from server.settings import ConfigError, Settings

LOOK_AGAIN_S = 1.0
_LIMITS = ("concurrent", "per_minute")

log = structlog.get_logger("dyvte.server")


@dataclass(frozen=True, slots=True)
class Client:
    """The holder of a key. ``name`` goes to logs; None is no limit.

    ``concurrent`` bounds its requests that run or wait, ``per_minute`` those that come.
    """

    name: str
    concurrent: int | None = None
    per_minute: int | None = None


class Keyring:
    """All keys by hash. Without any and without a file every door is open."""

    def __init__(self, keys: Sequence[str] = (), path: Path | None = None) -> None:
        self._path = path
        self._fixed = {_hash(key): Client(f"key-{i}") for i, key in enumerate(keys, start=1)}
        self._stamp: tuple[int, int, int] | None = None
        self._looked = 0.0
        self._clients = dict(self._fixed)
        if path is not None:
            self._read(path)

    @classmethod
    def of(cls, settings: Settings) -> Keyring:
        """The keys that an operator gives. Raises ConfigError."""
        keys = [key.get_secret_value() for key in settings.api_key]
        return cls(keys, settings.api_key_file)

    @property
    def guards(self) -> bool:
        """True where a request needs a key."""
        return self._path is not None or bool(self._fixed)

    def holder(self, key: str) -> Client | None:
        """Whose key it is; None if nobody's."""
        self._look_again()
        given, found = _hash(key), None
        for known, client in self._clients.items():
            if hmac.compare_digest(given, known):
                found = client
        return found

    def _look_again(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked < LOOK_AGAIN_S:
            return
        self._looked = now
        try:
            if _stamp(self._path) != self._stamp:
                self._read(self._path)
                log.info("keys", read=len(self._clients))
        except (ConfigError, OSError) as error:
            if self._stamp is not None:
                log.error("keys could not be read again; the old ones hold", reason=str(error))
            self._stamp = None

    def _read(self, path: Path) -> None:
        """Raises ConfigError; then nothing has changed."""
        try:
            stamp, text = _stamp(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not text"
            raise ConfigError(f"--api-key-file {path}: {reason}; give a readable file") from error
        self._clients = self._fixed | parse_keys(text, str(path))
        self._stamp, self._looked = stamp, time.monotonic()


def parse_keys(text: str, where: str) -> dict[bytes, Client]:
    """The clients of a key file by their keys' hashes. Raises ConfigError naming the line."""
    clients: dict[bytes, Client] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            client = _client(words[1:], f"line-{number}")
        except ValueError as error:
            raise ConfigError(f"--api-key-file {where}: line {number}: {error}") from error
        if _hash(words[0]) in clients or client.name in {c.name for c in clients.values()}:
            raise ConfigError(f"--api-key-file {where}: line {number}: key or name is there twice")
        clients[_hash(words[0])] = client
    if not clients:
        raise ConfigError(f"--api-key-file {where}: holds no key; write one a line")
    return clients


def _client(words: Sequence[str], name: str) -> Client:
    limits: dict[str, int] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not equals:
            name = word
        elif field not in _LIMITS or not value.isdecimal() or int(value) < 1:
            raise ValueError("write KEY NAME concurrent=N per_minute=N, N at least 1")
        else:
            limits[field] = int(value)
    return Client(name, limits.get("concurrent"), limits.get("per_minute"))


def _hash(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
