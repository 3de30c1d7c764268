"""What ``dyvte batch`` does behind its flags: the second composition root.

The service is that of ``dyvte serve`` without a door: no socket, no keys, no waiting line that
turns anybody away.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
from fastapi import FastAPI

from server.__main__ import open_engine, reason_of
from server.app import create_app
from server.batch.account import Account
from server.batch.answers import Answers
from server.batch.lines import BadLine, Book, Line, count_lines, read_lines
from server.batch.run import Entry, Runner
from server.commandline import add_flag, settings_of
from server.lifecycle import OpenEngine
from server.settings import ConfigError, Settings
from server.tracing import traced

# What has a meaning only where requests come from elsewhere.
DOOR = frozenset(
    "host port api_key api_key_file ssl_certfile ssl_keyfile cors_origins metrics metrics_key "
    "metrics_compat max_waiting max_waiting_tokens header_timeout body_timeout write_timeout "
    "keep_alive drain_timeout shadow_share shadow_seed log_level log_format playground".split()
)
OPEN_DOOR = {
    "api_key": (),
    "api_key_file": None,
    "cors_origins": (),
    "metrics": False,
    "max_waiting_tokens": 2**62,
    "body_timeout": 1e9,
    "drain_timeout": 0.0,
    "shadow_share": 0.0,
}

OnProgress = Callable[[Account], None]


def add_flags(parser: ArgumentParser) -> None:
    """The flags of ``dyvte serve`` that a batch has as well."""
    for name, field in Settings.model_fields.items():
        if name not in DOOR:
            add_flag(parser, name, field)


def batch_settings(typed: Mapping[str, object]) -> Settings:
    """Settings from what was typed, environment and file. Raises ConfigError."""
    settings = settings_of(typed)
    waiting = at_once(settings) - settings.max_num_seqs
    return settings.model_copy(update={**OPEN_DOOR, "max_waiting": waiting})


def at_once(settings: Settings) -> int:
    """Lines in flight: what the engine runs, and some that are prepared meanwhile."""
    return settings.max_num_seqs + max(4, settings.max_num_seqs // 4)


def urls_of(app: FastAPI) -> frozenset[str]:
    """The routes that a line may name."""
    paths = (
        path
        for route in app.routes
        if "POST" in (getattr(route, "methods", None) or ())
        and (path := str(getattr(route, "path", ""))).startswith("/v1/")
    )
    return frozenset(path for path in paths if "{" not in path)


def check_files(source: Path, target: Path) -> None:
    """Raises ConfigError."""
    if not source.is_file():
        raise ConfigError(f"--input {source}: is no file; give JSON lines, one request a line")
    if target.exists() and not target.is_file():
        raise ConfigError(f"--output {target}: is no file; give one to write or to go on with")
    if target.exists() and os.path.samefile(source, target):
        raise ConfigError(f"--output {target}: is the input; give another file")


async def answer_file(
    source: Path,
    target: Path,
    settings: Settings,
    on_progress: OnProgress = lambda account: None,
    opening: OpenEngine | None = None,
) -> Account:
    """Answer what is unanswered of ``source`` in ``target``; tell after every line.

    ``opening`` stands in for the engine that the settings ask for. Raises ConfigError (files,
    model), BatchStopped, OSError.
    """
    check_files(source, target)
    book, failures = Book(), list[Exception]()
    with Answers(target, book) as answers:
        account = Account(count_lines(source))
        app = create_app(
            settings, opening or (lambda: open_engine(settings)), on_failure=failures.append
        )
        with traced(app, settings):
            async with app.router.lifespan_context(app):
                await app.state.loading
                if failures:
                    raise ConfigError(reason_of(failures[0], settings))
                app.state.lifecycle.engine().observe(account)
                lines = read_lines(source, book, urls_of(app), settings.max_body)
                await _answer(app, settings, lines, _Counting(account, answers, on_progress))
        account.strangers = book.unclaimed
    return account


class _Counting:
    """Writes answers and counts them."""

    def __init__(self, account: Account, answers: Answers, on_progress: OnProgress) -> None:
        self._account, self._answers, self._on_progress = account, answers, on_progress
        self._began = time.monotonic()

    def deliver(self, entry: Entry) -> None:
        """One line of output."""
        self._answers.write(entry)
        self._account.take(entry)
        self._tell()

    def skip(self) -> None:
        """A line that an earlier run dealt with."""
        self._account.earlier += 1
        self._tell()

    def _tell(self) -> None:
        self._account.seconds = time.monotonic() - self._began
        self._on_progress(self._account)


async def _answer(
    app: FastAPI, settings: Settings, lines: Iterator[Line | BadLine | None], counting: _Counting
) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://batch", timeout=None
    ) as client:
        runner = Runner(client, lines, counting.deliver, counting.skip, settings.max_bodies)
        await runner.run(at_once(settings))
