"""An engine behind its thread, started and stopped around a test, and ways to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import dyvte
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.events import TokenEvent
from dyvte.engine.handle import AsyncEngine
from dyvte.engine.info import describe
from dyvte.engine.shadow import ShadowConfig
from dyvte.engine.stats import RequestStats, ShadowStats, StepStats, UnfinishedStats


@asynccontextmanager
async def running(
    model: dyvte.Model, max_waiting: int = 8, shadows: ShadowConfig | None = None, **settings: Any
) -> AsyncIterator[AsyncEngine]:
    """A started engine; every page must be free when it has stopped."""
    core = build_core(model, EngineConfig(**settings))
    engine = AsyncEngine(core, describe(model, core), max_waiting, shadows)
    await engine.start()
    yield engine
    await engine.stop()
    ledger = core.scheduler.ledger
    assert ledger.num_free == ledger.num_pages


async def all_of(stream: AsyncIterator[Sequence[TokenEvent]]) -> list[TokenEvent]:
    return [event async for events in stream for event in events]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.steps: list[StepStats] = []
        self.finished: list[RequestStats] = []
        self.unfinished: list[UnfinishedStats] = []
        self.shadows: list[ShadowStats] = []

    def on_step(self, step: StepStats) -> None:
        self.steps.append(step)

    def on_finish(self, stats: RequestStats) -> None:
        self.finished.append(stats)

    def on_unfinished(self, stats: UnfinishedStats) -> None:
        self.unfinished.append(stats)

    def on_shadow(self, shadow: ShadowStats) -> None:
        self.shadows.append(shadow)
