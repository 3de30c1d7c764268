"""The engine on a GPU against the same on the CPU, and with torch's own eye on every wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import dyvte
from dyvte import ExitOptions, PruneOptions, SamplingParams
from tests import tiny
from tests.engine.driver import GREEDY, Driver, small
from tests.engine.reuse import asking

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

EXITS = {
    "off": ExitOptions("off"),
    "fixed": ExitOptions("fixed", exit_layer=1),
    "gate": ExitOptions("gate", aggressiveness=0.5),
    "fastv": ExitOptions("off", prune=PruneOptions("fastv")),
    "divprune": ExitOptions("off", prune=PruneOptions("divprune")),
}
LONG = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)


def on_cuda(model: dyvte.Model, dtype: str) -> dyvte.Model:
    return dyvte.load(model.name, device="cuda", dtype=dtype)


@contextmanager
def watched() -> Iterator[None]:
    """A copy or an operation that holds up the host raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_float32_gives_the_tokens_of_the_cpu_whatever_shares_a_batch(
    tiny_model: dyvte.Model,
) -> None:
    driver = Driver(on_cuda(tiny_model, "float32"), small(2000, max_model_len=128))
    for index, exits in enumerate(EXITS.values()):
        driver.add(f"{index}", tiny.prompt(index, images=1 + index % 3), GREEDY, exits)
        driver.step()
    driver.run()
    for index, exits in enumerate(EXITS.values()):
        prompt = tiny.prompt(index, images=1 + index % 3)
        alone = tiny.alone(tiny_model, prompt, sampling=GREEDY, exits=exits)
        assert driver.tokens(f"{index}") == alone.token_ids
        assert driver.core.stats_of(driver.states[f"{index}"]).exit_layer == alone.exit_layer
    driver.check_empty()


def test_images_that_arrive_beside_a_stream_are_seen_rightly(tiny_model: dyvte.Model) -> None:
    """Encoded on their own stream, image by image, and used behind it; then found in the cache."""
    config = small(2000, max_step_rows=4, max_model_len=128, prefix_cache_memory=1 << 22)
    driver = Driver(on_cuda(tiny_model, "float32"), config)
    driver.add("stream", tiny.prompt(0, images=0), LONG)
    driver.step()
    for question in range(3):
        driver.add(f"{question}", asking(0, question, images=3), GREEDY, EXITS["gate"])
        while not driver.events[f"{question}"]:
            driver.step()
    driver.run()
    for question in range(3):
        prompt = asking(0, question, images=3)
        alone = tiny.alone(tiny_model, prompt, sampling=GREEDY, exits=EXITS["gate"])
        assert driver.tokens(f"{question}") == alone.token_ids
    assert driver.core.stats_of(driver.states["0"]).timings.vision > 0


@pytest.mark.parametrize("exits", EXITS)
@pytest.mark.parametrize("graphs", [False, True])
def test_no_step_holds_up_the_host_unseen(
    graphs: bool, exits: str, tiny_model: dyvte.Model
) -> None:
    """Waiting for an event, as for the tokens, is what the engine means to do, and is not told."""
    config = small(4000, page_size=256, max_num_seqs=2, cuda_graphs=graphs)
    driver = Driver(on_cuda(tiny_model, "bfloat16"), config)
    if driver.core.runner.graphs is not None:
        driver.core.runner.graphs.capture()
    for params in (GREEDY, SamplingParams(max_tokens=4, temperature=0.8, top_p=0.9, seed=1)):
        with watched():
            driver.add(f"{params.seed}", tiny.prompt(1, images=2), params, EXITS[exits])
            driver.run()
    assert not any(driver.errors.values())
