"""``make clients``: every client of ``clients.toml`` against the served demo model.

Each has an environment of its own under ``--environments``, made on first use and again when its
pins change. With ``--table`` what came out is written as a page; any failure is exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.clients import table
from tests.conformance.served import PICTURE, served

HERE = Path(__file__).parent
LIMIT_S = 300
CHECKS = ("image", "stream", "tools", "structured")


@dataclass(frozen=True, slots=True)
class Client:
    """One table of ``clients.toml``."""

    key: str
    client: str
    program: str
    python: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    notes: str = ""

    @property
    def version(self) -> str:
        """Of the package that the table is about."""
        first = (*self.python, *self.node)[0]
        return f"{first.replace('==', ' ')}" if self.python else " ".join(first.rsplit("@", 1))


@dataclass(slots=True)
class Tried:
    """What a client's checks said: "pass", or the error."""

    client: Client
    results: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(said == "pass" for said in self.results.values())


def read(file: Path = HERE / "clients.toml") -> list[Client]:
    """All clients, in the file's order."""
    return [Client(key, **_tuples(made)) for key, made in tomllib.loads(file.read_text()).items()]


def _tuples(made: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in made.items()}


def install(client: Client, folder: Path) -> None:
    """Make the client's environment unless it stands with these pins."""
    stamp, pins = folder / ".made", "\n".join((*client.python, *client.node))
    if stamp.is_file() and stamp.read_text() == pins:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if client.python:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", *client.python], check=True)
    else:
        (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
        npm = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run([*npm, *client.node], cwd=folder, check=True)
    stamp.write_text(pins)


def run(client: Client, folder: Path, url: str) -> Tried:
    """Run the client's program in its environment."""
    environment = {
        **os.environ,
        "CLIENT_BASE_URL": f"{url}/v1",
        "CLIENT_API_KEY": "none",
        "CLIENT_PICTURE": str(PICTURE),
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        ended = subprocess.run(
            _command(client, folder),
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return Tried(client, {"run": f"not done after {LIMIT_S} s"})
    if ended.stdout.strip():
        last = ended.stdout.strip().splitlines()[-1]
        if last.startswith("{"):
            tried = Tried(client, json.loads(last))
            if not tried.passed:
                sys.stderr.write(ended.stderr)
            return tried
    sys.stderr.write(ended.stderr)
    return Tried(client, {"run": f"ended with {ended.returncode} and said nothing"})


def _command(client: Client, folder: Path) -> list[str]:
    if client.python:
        return [str(folder / "bin" / "python"), str(HERE / client.program)]
    for file in ("checks.mjs", client.program):  # Node looks for packages beside the program
        shutil.copy(HERE / file, folder / file)
    return ["node", str(folder / client.program)]


def main() -> int:
    """Install, serve, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make clients")
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="page to write")
    parser.add_argument("--only", nargs="*", help="keys of clients.toml")
    arguments = parser.parse_args()
    clients = [one for one in read() if not arguments.only or one.key in arguments.only]
    folders = {one.key: arguments.environments.resolve() / one.key for one in clients}
    for client in clients:
        install(client, folders[client.key])
    tried = []
    with served() as server:
        for client in clients:
            tried.append(run(client, folders[client.key], server.url))
            sys.stdout.write(f"{client.key}: {json.dumps(tried[-1].results)}\n")
            sys.stdout.flush()
    if arguments.table and not arguments.only:
        arguments.table.write_text(table.page(tried), encoding="utf-8")
    return 0 if all(one.passed for one in tried) else 1


if __name__ == "__main__":
    sys.exit(main())
