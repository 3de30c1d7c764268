"""What ``dyvte batch`` does behind its flags: the second composition root.

The service is that of ``dyvte serve`` without a door: no socket, no keys, no waiting line that
turns anybody away.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import httpx
from fastapi import FastAPI

from server.__main__ import open_engine, reason_of
from server.app import create_app
from server.batch.account import Account
from server.batch.answers import Answers
from server.batch.lines import Book, Line, count_lines, read_lines
from server.batch.run import Entry, Runner, to_ask
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
        counting = _Counting(Account(count_lines(source)), answers, on_progress)
        app = create_app(
            settings, opening or (lambda: open_engine(settings)), on_failure=failures.append
        )
        lines = to_ask(
            read_lines(source, book, urls_of(app), settings.max_body),
            counting.deliver,
            counting.skip,
        )
        if (first := next(lines, None)) is not None:  # else no model need be loaded
            await _ask(app, settings, failures, chain([first], lines), counting)
        counting.account.strangers = book.unclaimed
    return counting.account


class _Counting:
    """Writes answers and counts them; seconds from ``began``."""

    def __init__(self, account: Account, answers: Answers, on_progress: OnProgress) -> None:
        self.account, self._answers, self._on_progress = account, answers, on_progress
        self.began = time.monotonic()

    def deliver(self, entry: Entry) -> None:
        """One line of output."""
        self._answers.write(entry)
        self.account.take(entry)
        self._tell()

    def skip(self) -> None:
        """A line that an earlier run dealt with."""
        self.account.earlier += 1
        self._tell()

    def _tell(self) -> None:
        self.account.seconds = time.monotonic() - self.began
        self._on_progress(self.account)


async def _ask(
    app: FastAPI,
    settings: Settings,
    failures: Sequence[Exception],
    lines: Iterator[Line],
    counting: _Counting,
) -> None:
    """Load the model and ask it ``lines``. Raises ConfigError, BatchStopped, OSError."""
    with traced(app, settings):
        async with app.router.lifespan_context(app):
            await app.state.loading
            if failures:
                raise ConfigError(reason_of(failures[0], settings))
            app.state.lifecycle.engine().observe(counting.account)
            counting.began = time.monotonic()
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://batch", timeout=None
            ) as client:
                runner = Runner(client, lines, counting.deliver, settings.max_bodies)
                await runner.run(at_once(settings))
