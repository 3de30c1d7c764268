"""The requests of one run, as dictionaries, made before the clock starts.

All servers of a round are asked the same words, each in an order of its own, about pictures of
its own: the tokens are as many for everyone, and no cache knows a request from another server's
turn, from the same server under another setting, or from a run that was discarded. What a
conversation's model is said to have answered is made up, for the same reason.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmarks.peers.workloads import TURNS, Pictures, Workload
from dyvte.bench.workload import WORDS, noise

QUESTION_WORDS = 36
TURN_WORDS = 12
ANSWER_WORDS = 16
SIDE = 336
SIDES = (224, 336, 672, 1024)

Message = dict[str, Any]


class Length(StrEnum):
    """How a server is told that an answer has so many tokens and no fewer."""

    IGNORE_EOS = "ignore_eos"  # vLLM's fields, which ours has as well
    GENERATION_CONFIG = "generation_config"  # `transformers serve`


@dataclass(frozen=True, slots=True)
class Source:
    """Where a run's words and pictures come from.

    ``seed`` (the round's) draws the words, sizes and moments; ``salt`` (the turn's) their order
    and the pictures.
    """

    seed: int
    salt: str

    def words(self, place: str, count: int) -> str:
        """``count`` words: the same for a seed and place, in the salt's order."""
        drawn = random.Random(f"{self.seed}/{place}").choices(WORDS, k=count)
        random.Random(f"{self.salt}/{place}").shuffle(drawn)
        return " ".join(drawn)

    def picture(self, place: str, side: int = SIDE) -> Message:
        """One content part."""
        png = noise(random.Random(f"{self.salt}/{place}/picture"), side)
        url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}


def conversations(workload: Workload, source: Source) -> Iterator[list[Message]]:
    """The messages of each request of ``workload``."""
    if workload.pictures is Pictures.TALK:
        for talk in range(workload.requests // TURNS):
            yield from _turns(source, f"{workload.name}/{talk}")
        return
    shared = source.picture("shared") if workload.pictures is Pictures.SAME else None
    mix = _mix(workload, source)
    for index in range(workload.requests):
        place = f"{workload.name}/{index}"
        question = source.words(place, QUESTION_WORDS) + "?"
        if workload.pictures is Pictures.EACH:
            picture: Message | None = source.picture(place)
        elif workload.pictures is Pictures.MIXED:
            picture = source.picture(place, mix[index]) if mix[index] else None
        else:
            picture = shared
        yield [_user(question, picture)]


def body(messages: list[Message], model: str, tokens: int, length: Length) -> dict[str, Any]:
    """One streamed request for exactly ``tokens`` tokens, greedy."""
    request: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }
    if length is Length.GENERATION_CONFIG:
        config = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
        return request | {"generation_config": json.dumps(config)}
    usage = {"stream_options": {"include_usage": True}}
    return request | usage | {"ignore_eos": True, "min_tokens": tokens}


def _mix(workload: Workload, source: Source) -> list[int]:
    """Sides of the pictures of a mixed run, 0 for the half that has none, in random order."""
    half = workload.requests // 2
    sides = [SIDES[k % len(SIDES)] for k in range(workload.requests - half)] + [0] * half
    random.Random(f"{source.seed}/mix").shuffle(sides)
    return sides


def _turns(source: Source, place: str) -> Iterator[list[Message]]:
    question = source.words(f"{place}/0", TURN_WORDS) + "?"
    messages = [_user(question, source.picture(place))]
    for turn in range(1, TURNS + 1):
        yield list(messages)
        answer = source.words(f"{place}/{turn}/answer", ANSWER_WORDS) + "."
        question = source.words(f"{place}/{turn}", TURN_WORDS) + "?"
        messages += [{"role": "assistant", "content": answer}, _user(question, None)]


def _user(question: str, picture: Message | None) -> Message:
    if picture is None:
        return {"role": "user", "content": question}
    return {"role": "user", "content": [picture, {"type": "text", "text": question}]}
