"""Images seen before are not encoded again, and nobody's answer changes by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dyvte
from dyvte.engine.image_cache import ImageCache, content_key
from tests import tiny
from tests.engine.driver import Driver, small

ROOM = 1 << 20


def keyed(prompt: dyvte.Prompt) -> dyvte.Prompt:
    assert prompt.images is not None
    return replace(prompt, image_key=content_key(prompt.images))


class Counting(Driver):
    """A driver that counts the images its tower encodes."""

    def __init__(self, model: dyvte.Model, image_cache_memory: int = ROOM) -> None:
        super().__init__(model, small(400, image_cache_memory=image_cache_memory))
        self.encoded: list[int] = []
        encode = self.core.model.adapter.encode_images
        watched: Any = _Watched(self.core.runner.model, encode, self.encoded)
        self.core.runner.model = watched


class _Watched:
    """The adapter, with a count beside ``encode_images``."""

    def __init__(self, adapter: Any, encode: Any, encoded: list[int]) -> None:
        self._adapter, self._encode, self._encoded = adapter, encode, encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def encode_images(self, images: list[Any]) -> Any:
        self._encoded.append(len(images))
        return self._encode(images)


def test_an_image_seen_before_is_not_encoded_again(tiny_model: dyvte.Model) -> None:
    driver = Counting(tiny_model)
    prompt = keyed(tiny.prompt(1))
    states = []
    for name in ("first", "again"):
        states.append(driver.add(name, prompt))
        driver.run()
    assert sum(driver.encoded) == 1
    assert [state.image_hit for state in states] == [False, True]
    first, again = (driver.core.stats_of(state) for state in states)
    assert first.flops.avoided_by_cache == 0
    assert again.flops.avoided_by_cache == again.flops.vision > 0
    assert again.flops.total == first.flops.total
    assert again.flops.executed == again.flops.total - again.flops.vision
    assert again.timings.vision == 0
    alone = tiny.alone(tiny_model, tiny.prompt(1), sampling=states[0].sampling)
    assert driver.tokens("first") == driver.tokens("again") == alone.token_ids


def test_requests_of_one_step_share_their_image(tiny_model: dyvte.Model) -> None:
    driver = Counting(tiny_model)
    prompts = [keyed(tiny.prompt(seed)) for seed in (1, 2, 1, 1)]
    states = [driver.add(f"{i}", prompt) for i, prompt in enumerate(prompts)]
    driver.run()
    assert driver.encoded == [2]
    assert [state.image_hit for state in states] == [False, False, True, True]
    assert driver.tokens("0") == driver.tokens("2") == driver.tokens("3")


def test_callers_with_another_salt_share_nothing(tiny_model: dyvte.Model) -> None:
    driver = Counting(tiny_model)
    prompt = keyed(tiny.prompt(1))
    for name, salt in (("a", "ann"), ("b", "bob"), ("c", "ann")):
        driver.add(name, prompt, cache_salt=salt)
        driver.run()
    assert driver.encoded == [1, 1]


@pytest.mark.parametrize(("memory", "known"), [(0, True), (ROOM, False)])
def test_without_room_or_key_nothing_is_looked_up(
    tiny_model: dyvte.Model, memory: int, known: bool
) -> None:
    driver = Counting(tiny_model, memory)
    prompt = keyed(tiny.prompt(1)) if known else tiny.prompt(1)
    states = [driver.add(name, prompt) for name in ("a", "b")]
    driver.run()
    assert driver.encoded == [2]
    assert [state.image_hit for state in states] == [None, None]
    assert driver.core.runner.images.held == 0


def test_least_recently_used_goes_first_and_the_budget_holds() -> None:
    cache = ImageCache(max_bytes=3 * 64)
    rows = torch.zeros(4, 4)  # 64 bytes
    for key in (b"a", b"b", b"c"):
        cache.put("", key, [rows])
    assert cache.get("", b"a") is not None
    cache.put("", b"d", [rows])
    assert [cache.get("", key) is not None for key in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]
    cache.put("", b"large", [torch.zeros(64, 4)])
    assert (len(cache), cache.held) == (3, 3 * 64)


def test_kept_rows_do_not_hold_the_batch_they_were_cut_from() -> None:
    cache = ImageCache(ROOM)
    batch = torch.randn(100, 4)
    cache.put("", b"a", list(batch.split(50))[:1])
    (kept,) = cache.get("", b"a") or []
    assert torch.equal(kept, batch[:50])
    assert kept.untyped_storage().nbytes() == kept.nbytes


values = st.lists(st.integers(0, 255), min_size=1, max_size=8)


@given(left=values, right=values)
def test_only_the_same_content_has_the_same_key(left: list[int], right: list[int]) -> None:
    def key(pixels: list[int], **more: Any) -> bytes:
        return content_key({"pixel_values": torch.tensor(pixels, dtype=torch.uint8), **more})

    assert (key(left) == key(right)) == (left == right)
    assert key(left) != content_key({"pixel_values": [torch.tensor(left, dtype=torch.uint8)] * 2})
    assert key(left, image_sizes=[[1, 2]]) != key(left, image_sizes=[[2, 1]])
    floats = {"pixel_values": torch.tensor(left, dtype=torch.float32)}
    assert key(left) != content_key(floats)
    row = {"pixel_values": torch.tensor([left], dtype=torch.uint8)}
    assert key(left) != content_key(row)
