"""``servers.toml``: which servers there are, how each is started, under which settings it runs.

An entry is a column of the table: a server, or a server under one of its ``variants`` (extra
fields of the request). A server whose program is not on this machine is passed over.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.peers.bodies import Length


@dataclass(frozen=True, slots=True)
class Server:
    """``ready``: what answers once the server does. ``versions``: distributions of ``python``
    whose versions are written down.
    """

    name: str
    command: tuple[str, ...]
    port: int
    model: str
    peer: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    workloads: tuple[str, ...] = ()
    length: Length = Length.IGNORE_EOS
    ready: str = "/v1/models"
    python: str = ""
    versions: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Base URL of its API."""
        return f"{self.root}/v1/"

    @property
    def installed(self) -> bool:
        """True if its program can be run."""
        return shutil.which(self.command[0]) is not None

    def entries(self) -> list[Entry]:
        """Itself under each of its variants."""
        if not self.variants:
            return [Entry(self)]
        return [Entry(self, name, extra) for name, extra in self.variants.items()]


@dataclass(frozen=True, slots=True)
class Entry:
    """A column: ``server`` with ``extra`` merged into every request."""

    server: Server
    variant: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As records and tables call it."""
        return f"{self.server.name} {self.variant}".strip()

    def takes(self, workload: str) -> bool:
        """True if this server is measured under ``workload``."""
        return not self.server.workloads or workload in self.server.workloads


def read_servers(path: Path, names: Mapping[str, str]) -> list[Server]:
    """All servers of a file; ``$word`` in commands and environments stands for ``names[word]``.

    Raises ValueError that says what is wrong with which server.
    """
    tables = tomllib.loads(path.read_text(encoding="utf-8")).get("server", [])
    servers = [_server(table, names) for table in tables]
    ports = [server.port for server in servers]
    if len(set(ports)) < len(ports):
        raise ValueError(f"{path}: two servers on one port")
    return servers


def chosen(servers: Sequence[Server], only: Sequence[str] | None) -> list[Server]:
    """Those of ``only``, or all that are installed. Raises ValueError for one that cannot be."""
    known = {server.name: server for server in servers}
    for name in only or ():
        if name not in known:
            raise ValueError(f"no server {name}: there are {', '.join(known)}")
        if not known[name].installed:
            raise ValueError(f"server {name}: no program {known[name].command[0]}")
    return [server for server in servers if (server.name in only if only else server.installed)]


def _server(table: Mapping[str, Any], names: Mapping[str, str]) -> Server:
    name = table.get("name", "?")
    try:
        places = {**names, "port": str(table["port"])}
        return Server(
            name=table["name"],
            command=tuple(_filled(word, places) for word in table["command"]),
            port=table["port"],
            model=_filled(table["model"], places),
            peer=table.get("peer", False),
            environment={
                key: _filled(value, places) for key, value in table.get("environment", {}).items()
            },
            request=table.get("request", {}),
            variants=table.get("variants", {}),
            workloads=tuple(table.get("workloads", ())),
            length=Length(table.get("length", Length.IGNORE_EOS)),
            ready=table.get("ready", "/v1/models"),
            python=_filled(table.get("python", ""), places),
            versions=tuple(table.get("versions", ())),
        )
    except KeyError as error:
        raise ValueError(f"server {name}: no {error}") from None


def _filled(text: str, places: Mapping[str, str]) -> str:
    return Template(text).substitute(places)
