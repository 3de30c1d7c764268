"""Hostile text costs what its length costs: four times the text, about four times the time.

Processor time of this process, the best of several runs; quadratic work would take sixteen times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson
import pytest
from starlette.datastructures import Headers

import dyvte
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.handle import AsyncEngine
from dyvte.engine.info import describe
from dyvte.errors import PromptTooLong
from server.api.body import parse_object
from server.api.translate import translate
from server.api.validation import parse_chat
from server.detokenize import Detokenizer
from server.settings import Settings

TIMES, TOO_MUCH = 4, 10

HOSTILE: Mapping[str, Callable[[int], Any]] = {
    "plain": lambda size: "a" * size,
    "placeholders": lambda size: "<image>" * (size // 7),
    "specials": lambda size: "<s></s><pad>" * (size // 12),
    "nearly specials": lambda size: "<imag<imag" * (size // 10),
    "brackets": lambda size: "<" * size,
    "private use": lambda size: "\ue000" * size,
    "parts": lambda size: [{"type": "text", "text": "<image>"}] * (size // 32),
    "spaces": lambda size: " " * size,
}


@pytest.fixture(scope="module")
def engine(tiny_model: dyvte.Model) -> AsyncEngine:
    core = build_core(tiny_model, EngineConfig())
    return AsyncEngine(core, describe(tiny_model, core))


def seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_prompt_costs_time_in_proportion_to_its_length(kind: str, engine: AsyncEngine) -> None:
    """CVE-2025-46560: placeholders were replaced one by one, each time in the whole text."""

    def prepare(size: int) -> Callable[[], None]:
        message = {"role": "user", "content": HOSTILE[kind](size)}
        raw = orjson.dumps({"model": "tiny", "messages": [message]})

        def work() -> None:
            job = translate(parse_chat(parse_object(raw)), Headers(), engine, Settings())
            with suppress(PromptTooLong):
                engine.check(engine.prepare(job.messages), job.sampling, job.exits)

        return work

    prepare(1000)()
    assert seconds(prepare(TIMES * 5000)) < TOO_MUCH * seconds(prepare(5000)) + 0.01


@pytest.mark.parametrize("answer", [b"a", b"ab", b"\xf0\x9f"])
def test_an_answer_costs_time_in_proportion_to_its_length(answer: bytes) -> None:
    """Stop strings that nearly match, and characters that never end."""

    def read(count: int) -> Callable[[], None]:
        def work() -> None:
            text = Detokenizer(lambda _: answer, ("a" * 200 + "b", "abab" * 40 + "c"))
            for token in range(count):
                text.push(token)
            text.flush()

        return work

    assert seconds(read(TIMES * 400)) < TOO_MUCH * seconds(read(400)) + 0.01
