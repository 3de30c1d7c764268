"""Memory that layers hold from one to the next, and what they compute in it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dyvte
from dyvte.exits.view import Queries
from dyvte.kernels import ops
from dyvte.models import fused, workspace
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.workspace import LEAST, MOST, Workspace
from tests import tiny
from tests.models.test_fused import EXITS, GREEDY, MODELS, Attends, adapter_of, same

WIDE = LEAST // 4  # float32 numbers of the smallest piece that is held
LIKE = torch.zeros(1)
needs_kernels = pytest.mark.skipif(not ops.available(), reason="needs a C++ compiler")


def taken(space: Workspace, name: str, rows: int, width: int = WIDE, like: Tensor = LIKE) -> Tensor:
    found = space.take(name, like, rows, width)
    assert found is not None
    assert found.shape == (rows, width)
    return found


def test_a_piece_is_taken_again_and_grows_with_what_is_asked_for() -> None:
    space = Workspace()
    first = taken(space, "a", 2)
    assert taken(space, "a", WIDE, 2).data_ptr() == first.data_ptr()
    assert taken(space, "b", 2).data_ptr() != first.data_ptr()
    larger = taken(space, "a", 3)
    assert taken(space, "a", 2).data_ptr() == larger.data_ptr()
    assert taken(space, "a", 2, like=LIKE.bfloat16()).dtype == torch.bfloat16


def test_huge_pieces_are_new_each_time_and_small_ones_the_allocator_s() -> None:
    space = Workspace()
    huge = MOST // WIDE // 4 + 1
    first = taken(space, "a", huge)
    assert taken(space, "a", huge).data_ptr() != first.data_ptr()
    assert space.take("a", LIKE, 1, WIDE - 1) is None


def test_threads_have_pieces_of_their_own() -> None:
    space, places = Workspace(), []
    own = taken(space, "a", 1)
    other = threading.Thread(target=lambda: places.append(taken(space, "a", 1).data_ptr()))
    other.start()
    other.join()
    assert len(places) == 1
    assert places != [own.data_ptr()]


def test_a_piece_from_inference_can_be_written_to_outside() -> None:
    space = Workspace()
    with torch.inference_mode():
        taken(space, "a", 1)
    assert taken(space, "a", 1).fill_(2.0).sum() == 2 * WIDE


def test_queries_that_are_kept_are_a_copy() -> None:
    kept, rows = Queries(), torch.ones(4, 2, 8)
    kept.take(0, rows, None, None, 1.0)  # type: ignore[arg-type]
    rows.zero_()
    assert kept.q_THD is not None
    assert kept.q_THD.sum() == 64


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Everything in memory that is held, so many rows at a time."""

    def set_rows(rows: int) -> None:
        monkeypatch.setattr(fused, "BLOCK_ROWS", rows)
        monkeypatch.setattr(workspace, "LEAST", 0)

    return set_rows


def ran(adapter: DecoderAdapter, hidden: Tensor) -> list[Tensor]:
    """What each layer makes of the rows that the one before it made."""
    positions = torch.arange(len(hidden))
    found, rows = [hidden], hidden
    for layer in range(tiny.LAYERS):
        rotary = adapter.rotary(rows, positions)
        rows = adapter.run_layer(layer, rows, rotary, Attends())
        found.append(rows)
    return found


@needs_kernels
@pytest.mark.parametrize("name", ["llama", "llama, wide, with biases", "qwen3"])
@torch.inference_mode()
def test_layers_in_blocks_and_held_memory_make_the_bits_of_whole_ones(
    name: str, tmp_path: Any, in_blocks: Callable[[int], None]
) -> None:
    """And none overwrites what another made, nor what it was given."""
    adapter = adapter_of(dyvte.load(MODELS[name].save(tmp_path), dtype="float32"))
    torch.manual_seed(0)
    hidden = torch.randn(45, adapter.decoder.hidden_size)
    whole = [each.clone() for each in ran(adapter, hidden)]
    for rows in (1, 7, 44, 45):
        in_blocks(rows)
        for found, expected in zip(ran(adapter, hidden), whole, strict=True):
            assert torch.equal(found, expected)


@needs_kernels
@torch.inference_mode()
def test_bfloat16_layers_in_blocks_are_close_to_whole_ones(
    tmp_path: Any, in_blocks: Callable[[int], None]
) -> None:
    """Products are oneDNN's, whose kernels follow the number of rows."""
    adapter = adapter_of(dyvte.load(MODELS["qwen2, wide"].save(tmp_path), dtype="bfloat16"))
    torch.manual_seed(0)
    hidden = torch.randn(45, adapter.decoder.hidden_size).bfloat16()
    whole = [each.clone() for each in ran(adapter, hidden)]
    in_blocks(7)
    for found, expected in zip(ran(adapter, hidden), whole, strict=True):
        torch.testing.assert_close(found, expected, atol=0.04, rtol=0.02)


@needs_kernels
@pytest.mark.parametrize("exits", EXITS)
def test_a_model_in_blocks_and_held_memory_answers_and_exits_as_plain_does(
    exits: str,
    tiny_model: dyvte.Model,
    plain_model: dyvte.Model,
    in_blocks: Callable[[int], None],
) -> None:
    prompts = [tiny.prompt(seed, images=seed % 3, after=2 + 5 * seed) for seed in range(6)]
    expected = dyvte.generate(plain_model, prompts, GREEDY, EXITS[exits])
    in_blocks(7)
    same(dyvte.generate(tiny_model, prompts, GREEDY, EXITS[exits]), expected)


def test_a_copied_model_sees_the_same_in_memory_of_its_own(tiny_folder: Any) -> None:
    """A tower in our kernels lies in the model, and with it what it computes in."""
    adapter = adapter_of(dyvte.load(tiny_folder, device="cpu", dtype="float32"))
    images = tiny.prompt(1).images
    assert images is not None
    [expected] = adapter.encode_images([images])
    adapter.model = copy.deepcopy(adapter.model)
    [found] = adapter.encode_images([images])
    assert all(map(torch.equal, found, expected))
