"""Questions about the same pictures, an engine that keeps prefixes, and one that keeps none."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch

import dyvte
from dyvte import ExitOptions
from dyvte.engine.image_cache import content_key
from dyvte.engine.stats import RequestStats
from dyvte.prompt import IMAGE, Prompt
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small

ROOM = 1 << 24
EXITS = {
    "off": ExitOptions(policy="off"),
    **{str(i): ExitOptions(policy="fixed", exit_layer=i) for i in range(tiny.LAYERS)},
    "gate": ExitOptions(policy="gate", aggressiveness=0.5),
    "gate .9": ExitOptions(policy="gate", aggressiveness=0.9, min_layer=1),
    "gate .2": ExitOptions(policy="gate", aggressiveness=0.2),
}


def asking(picture: int, question: int, images: int = 1, gap: int = 1, turns: int = 1) -> Prompt:
    """A question (5 ids a turn) about some pictures with ``gap`` ids of text between them."""
    draw = torch.Generator().manual_seed(picture)
    pixels = torch.randn(images, 3, tiny.SIDE, tiny.SIDE, generator=draw)
    ids = [tiny.BOS, 17, 18]
    for index in range(images):
        ids += [*([20 + index] * gap if index else []), IMAGE]
    words = torch.Generator().manual_seed(1000 + question)
    ids += torch.randint(5, tiny.VOCAB - 3, (5 * turns,), generator=words).tolist()
    shown = {"pixel_values": pixels}
    return Prompt(ids, shown, image_key=content_key(shown))


def warm(pages: int = 400, memory: int = ROOM, **limits: Any) -> Any:
    return small(pages, prefix_cache_memory=memory, max_model_len=96, **limits)


class Reused(Driver):
    """A driver whose books know what is merely kept."""

    def check_empty(self) -> None:
        self.core.prefixes.clear()
        assert not self.core.prefixes._keys
        assert not self.ledger._kept
        super().check_empty()

    def ask(self, name: str, prompt: Prompt, exits: str, salt: str = "") -> RequestStats:
        """One request by itself, to its end."""
        state = self.add(name, prompt, GREEDY, EXITS[exits], salt)
        self.run()
        return self.core.stats_of(state)


class Cold:
    """What each request gets on an engine without a cache, remembered between examples."""

    def __init__(self, model: dyvte.Model) -> None:
        self.model = model
        self.of = cache(self._of)

    def _of(
        self, exits: str, picture: int, question: int, images: int, gap: int, turns: int = 1
    ) -> tuple[list[int], RequestStats]:
        driver = Driver(self.model, small(400, max_model_len=96))
        prompt = asking(picture, question, images, gap, turns)
        state = driver.add("r", prompt, GREEDY, EXITS[exits])
        driver.run()
        return driver.tokens("r"), driver.core.stats_of(state)

    def same(self, driver: Driver, name: str, exits: str, *asked: int) -> RequestStats:
        """Check that ``name`` got what it gets without a cache; its account."""
        tokens, cold = self.of(exits, *asked)
        stats = driver.core.stats_of(driver.states[name])
        assert driver.tokens(name) == tokens
        assert stats.exit_layer == cold.exit_layer
        assert stats.tokens_per_layer == cold.tokens_per_layer
        assert stats.kv_tokens_per_layer == cold.kv_tokens_per_layer
        assert stats.kv_bytes == cold.kv_bytes
        assert stats.flops == replace(cold.flops, avoided_by_cache=stats.flops.avoided_by_cache)
        assert torch.allclose(
            torch.tensor(stats.gate_logits), torch.tensor(cold.gate_logits), atol=1e-4
        )
        return stats
