"""Drives an ``EngineCore`` by hand and looks into its books after every step."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import dyvte
from dyvte.attention import AttentionBackend
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.events import EngineRequest, TokenEvent
from dyvte.engine.sequence import RequestState
from dyvte.errors import EngineError
from dyvte.kv_cache import PagedCache, RunCache
from dyvte.params import ExitOptions, FinishReason, SamplingParams
from dyvte.prompt import Prompt
from tests import tiny

GREEDY = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
PAGE = 8
PAGE_BYTES = 2 * PAGE * 2 * 8 * 4  # keys and values, 2 heads of 8, float32


def small(pages: int, **settings: Any) -> EngineConfig:
    """A pool of that many pages of 8 rows."""
    defaults: dict[str, Any] = {"max_model_len": 64, "page_size": PAGE}
    return EngineConfig(kv_cache_memory=pages * PAGE_BYTES, **(defaults | settings))


class Driver:
    """An engine core, its requests by name, and everything that it said."""

    def __init__(
        self,
        model: dyvte.Model,
        config: EngineConfig | None = None,
        attention: AttentionBackend | None = None,
    ) -> None:
        self.core = build_core(model, config, attention)
        self.states: dict[str, RequestState] = {}
        self.events: dict[str, list[TokenEvent]] = defaultdict(list)
        self.errors: dict[str, list[EngineError]] = defaultdict(list)

    @property
    def ledger(self) -> Any:
        return self.core.scheduler.ledger

    def add(
        self,
        name: str,
        prompt: Prompt,
        sampling: SamplingParams = GREEDY,
        exits: ExitOptions | None = None,
        cache_salt: str = "",
    ) -> RequestState:
        state = self.core.check(EngineRequest(name, prompt, sampling, exits, cache_salt))
        self.core.add(state)
        self.states[name] = state
        return state

    def step(self) -> None:
        for emission in self.core.step():
            name = emission.state.request.request_id
            if emission.error is not None:
                self.errors[name].append(emission.error)
            else:
                assert not self.errors[name], f"{name} spoke after it failed"
                self.events[name].append(emission.event)
        self.check_books()

    def run(self, most: int = 400) -> None:
        for _ in range(most):
            if not self.core.has_work:
                return
            self.step()
        raise AssertionError(f"still busy after {most} steps: {self.core.scheduler}")

    def tokens(self, name: str, index: int = 0) -> list[int]:
        """What choice ``index`` was told, checked against its sequence."""
        events = [event for event in self.events[name] if event.index == index]
        told = [event.token_id for event in events if event.token_id is not None]
        assert told == self.states[name].choices[index].token_ids
        return told

    def reason(self, name: str, index: int = 0) -> FinishReason | None:
        return self.states[name].choices[index].finish_reason

    def check_books(self) -> None:
        """Every page is free or in a table, and the rows that are held fit the pages."""
        held = {
            page
            for seq in self.ledger.sequences
            for layer in range(tiny.LAYERS)
            for page in self.ledger.table(seq, layer)
        }
        assert len(self.ledger._free) + len(held) == self.ledger.num_pages
        cache = self.core.runner.cache
        for seq, rows in cache._lengths.items():
            for layer, count in enumerate(rows):
                assert count <= self.ledger.capacity(seq, layer), (seq, rows)

    def check_empty(self) -> None:
        """Nothing is left of any request."""
        cache, scheduler = self.core.runner.cache, self.core.scheduler
        assert self.ledger.num_free == self.ledger.num_pages
        assert not cache._lengths
        assert isinstance(cache, PagedCache) or (isinstance(cache, RunCache) and not cache._runs)
        assert [*scheduler.waiting, *scheduler.running, *scheduler.group] == []
        assert not self.core._sequences
        assert self.core._stepper.prefill is None
        assert all(state.image_rows is None for state in self.states.values())
