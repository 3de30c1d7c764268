"""One request as the client sees it: sent, streamed, timed.

Reads OpenAI's SSE: content deltas give the times, the usage chunk the token counts, and a
``dyvte`` object, where the server sends one, the exit.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

DETAIL = 200


@dataclass(frozen=True, slots=True)
class Exit:
    """What our servers say of a request's visual tokens."""

    policy: str
    exit_layer: int | None
    saved_ratio: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that was answered; all times in seconds since it was due.

    ``arrivals`` are the times of the chunks with text; an answer without any has the time of its
    end. ``tokens`` comes from usage or, without it, counts those chunks.
    """

    arrivals: tuple[float, ...]
    total: float
    tokens: int
    prompt_tokens: int | None = None
    exit: Exit | None = None

    @property
    def ttft(self) -> float:
        """Time to the first text."""
        return self.arrivals[0]

    @property
    def tpot(self) -> float | None:
        """Mean time per token after the first; None if there was only one."""
        if self.tokens < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Times between successive chunks (ITL where a server sends a chunk per token)."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not answered, and the server's or the network's reason."""

    reason: str
    total: float


async def ask(client: httpx.AsyncClient, body: bytes, due: float) -> Answer | Failure:
    """Send ``body`` to ``chat/completions`` and read the stream to its end. Never raises."""
    reader = _Reader(due)
    try:
        async with client.stream("POST", "chat/completions", content=body) as response:
            if response.status_code != httpx.codes.OK:
                text = _reason(await response.aread())
                return Failure(f"HTTP {response.status_code}: {text}", time.perf_counter() - due)
            async for event in _events(response):
                reader.take(event)
    except (httpx.HTTPError, ValueError) as error:
        return Failure(f"{type(error).__name__}: {error}"[:DETAIL], time.perf_counter() - due)
    return reader.result()


class _Reader:
    """Gathers the events of one stream."""

    def __init__(self, due: float) -> None:
        self._due = due
        self._arrivals: list[float] = []
        self._usage: dict[str, Any] = {}
        self._exit: Exit | None = None
        self._error: str | None = None
        self._ended: float | None = None

    def take(self, event: dict[str, Any]) -> None:
        now = time.perf_counter() - self._due
        if event.get("error"):
            self._error = _message(event)
        self._usage = event.get("usage") or self._usage
        if report := event.get("dyvte"):
            self._exit = Exit(
                policy=str(report.get("policy")),
                exit_layer=report.get("exit_layer"),
                saved_ratio=float((report.get("flops") or {}).get("saved_ratio", 0.0)),
            )
        choices = event.get("choices") or ()
        if any(_text(choice) for choice in choices):
            self._arrivals.append(now)
        if any(choice.get("finish_reason") for choice in choices):
            self._ended = now

    def result(self) -> Answer | Failure:
        total = time.perf_counter() - self._due
        if self._error is not None:
            return Failure(self._error, total)
        if self._ended is None:
            return Failure("the stream ended without a finish_reason", total)
        return Answer(
            arrivals=tuple(self._arrivals) or (self._ended,),
            total=total,
            tokens=self._usage.get("completion_tokens") or len(self._arrivals),
            prompt_tokens=self._usage.get("prompt_tokens"),
            exit=self._exit,
        )


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue  # comments keep a connection alive and say nothing
        data = line[5:].strip()
        if data == "[DONE]":
            return
        event = orjson.loads(data)
        if not isinstance(event, dict):
            raise ValueError(f"an event that is no object: {data[:DETAIL]}")
        yield event


def _text(choice: dict[str, Any]) -> str:
    delta = choice.get("delta") or {}
    return delta.get("content") or delta.get("reasoning_content") or ""


def _reason(body: bytes) -> str:
    try:
        return _message(orjson.loads(body))
    except (orjson.JSONDecodeError, AttributeError):
        return body.decode(errors="replace").strip()[:DETAIL]


def _message(body: dict[str, Any]) -> str:
    error = body.get("error")
    text = error.get("message") if isinstance(error, dict) else error
    return str(text or body)[:DETAIL]
