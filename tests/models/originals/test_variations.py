"""Original layouts under settings that no golden has, against the same model in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dyvte
from dyvte import ExitOptions, Prompt, SamplingParams
from dyvte.prompt import IMAGE
from tests.models.originals import dense, drawn
from tests.models.originals.dense import Weights

FEATURES, LOGITS = 5e-5, 2e-4
GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, return_logits=True)
PROMPTS = {
    "text around images": [1, 5, 9, IMAGE, 20, 21, IMAGE, 30, 31, 32],
    "an image first, one text token last": [IMAGE, IMAGE, 17],
    "images side by side": [1, 8, IMAGE, IMAGE, 12, 13],
    "text alone": [1, 40, 41, 42, 43],
}


@dataclass(frozen=True)
class Reference:
    """A drawn checkpoint: its decoder, and ``rows(images)`` of each image."""

    llm: Mapping[str, Any]
    weights: Weights
    rows: Callable[[Mapping[str, Tensor]], Sequence[Tensor]]

    def logits(
        self, ids: Sequence[int], rows: Sequence[Tensor], more: Sequence[int], layer: int | None
    ) -> Tensor:
        """Behind the prompt and behind each of ``more``."""
        images, pieces, visual = iter(rows), [], []
        table = dense.embedding(self.weights)
        for token in [*ids, *more]:
            piece = next(images) if token == IMAGE else table[token][None]
            pieces.append(piece)
            visual += [token == IMAGE] * len(piece)
        out = dense.decode(self.llm, self.weights, torch.cat(pieces), torch.tensor(visual), layer)
        return out[-1 - len(more) :]


def llava(folder: Path, tower: Mapping[str, Any] | None = None, **changes: Any) -> Reference:
    config = drawn.llava(folder, tower, **changes)
    weights, seeing = Weights.of(folder), Weights.of(folder / "vision_tower")
    seen = drawn.said("llava-original", "checkpoint", "vision_tower") | dict(tower or {})

    def rows(images: Mapping[str, Tensor]) -> Sequence[Tensor]:
        states = dense.clip(seeing, seen, images["pixel_values"])
        return list(dense.llava_rows(config, weights, states))

    return Reference(config, weights, rows)


def internvl(folder: Path, variant: str, **changes: Any) -> Reference:
    config = drawn.internvl(folder, variant, **changes)
    weights = Weights.of(folder)

    def rows(images: Mapping[str, Tensor]) -> Sequence[Tensor]:
        tower = config["vision_config"]
        states = dense.intern_vit(weights.at("vision_model"), tower, images["pixel_values"])
        tiles = dense.internvl_rows(config, weights, states)
        return [few.flatten(0, 1) for few in tiles.split(images["num_tiles"].tolist())]

    return Reference(config["llm_config"], weights.at("language_model"), rows)


def vila(folder: Path, **changes: Any) -> Reference:
    config = drawn.vila(folder, **changes)
    weights = Weights.of(folder / "llm")
    seeing, joining = Weights.of(folder / "vision_tower"), Weights.of(folder / "mm_projector")

    def rows(images: Mapping[str, Tensor]) -> Sequence[Tensor]:
        states = dense.clip(seeing, config["tower"], images["pixel_values"])
        chosen = states[config["mm_vision_select_layer"]]
        return list(dense.vila_rows(joining, chosen, by_columns=True))

    return Reference(config["llm"], weights, rows)


QWEN2, INTERNLM2, LLAMA = "qwen2-ln", "internlm2-ln", "llama-rms-v1"
ONE_KEY_HEAD = {"num_key_value_heads": 1}
VARIATIONS: dict[str, Callable[[Path], Reference]] = {
    "llava, last layer": lambda f: llava(f, mm_vision_select_layer=-1),
    "llava, third layer, class token kept": lambda f: llava(
        f, mm_vision_select_layer=3, mm_vision_select_feature="cls_patch"
    ),
    "llava, the embedding itself, tied head": lambda f: llava(
        f, mm_vision_select_layer=0, tie_word_embeddings=True
    ),
    "llava, one key head, scaled positions": lambda f: llava(
        f, num_key_value_heads=1, rope_scaling={"type": "linear", "factor": 2.0}
    ),
    "llava, patches that leave a rest": lambda f: llava(f, {"image_size": 60}),
    "internvl, internlm2 with biases": lambda f: internvl(
        f, INTERNLM2, llm=ONE_KEY_HEAD | {"bias": True}, select_layer=-2
    ),
    "internvl, v1 over cells of 4 x 4": lambda f: internvl(
        f, LLAMA, downsample_ratio=0.25, select_layer=3
    ),
    "internvl, v1 of a tower with biases and without norms of queries": lambda f: internvl(
        f, LLAMA, tower={"qkv_bias": True, "qk_normalization": False}, select_layer=-1
    ),
    "internvl, qwen2, tied, norms of queries, no biases": lambda f: internvl(
        f,
        QWEN2,
        llm={"tie_word_embeddings": True},
        tower={"qkv_bias": False, "qk_normalization": True},
    ),
    "internvl, no cells joined": lambda f: internvl(f, QWEN2, downsample_ratio=1.0),
    "vila, even grid, last layer": lambda f: vila(
        f, tower={"image_size": 64}, mm_vision_select_layer=-1
    ),
    "vila, one key head, tied": lambda f: vila(
        f, llm=ONE_KEY_HEAD | {"tie_word_embeddings": True}, mm_vision_select_layer=1
    ),
}


def pictures(reference: Reference, model: dyvte.Model, seed: int) -> dict[str, Tensor]:
    """Two images; where they are cut, of three tiles and of one."""
    adapter: Any = model.adapter
    shape = getattr(adapter, "image_shape", None)
    draw = torch.Generator().manual_seed(seed)
    if shape is not None:
        return {"pixel_values": torch.randn(2, *shape, generator=draw)}
    pixels = torch.randn(4, 3, 56, 56, generator=draw)
    return {"pixel_values": pixels, "num_tiles": torch.tensor([3, 1])}


@pytest.mark.parametrize("name", VARIATIONS)
def test_rows_and_answers_are_those_of_the_dense_model(name: str, tmp_path: Path) -> None:
    """Every prompt without an exit, leaving after the first and after the last layer: one batch."""
    reference = VARIATIONS[name](tmp_path / "model")
    model = dyvte.load(tmp_path / "model", device="cpu", dtype="float32")
    layers = (None, 0, model.adapter.decoder.num_layers - 1)
    asked = [(ids, layer) for ids in PROMPTS.values() for layer in layers]
    images = pictures(reference, model, seed=3)
    expected = reference.rows(images)
    [rows] = model.adapter.encode_images([images])
    for ours, theirs in zip(rows, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=FEATURES, rtol=0)
    prompts = [Prompt(ids, images if IMAGE in ids else None) for ids, _ in asked]
    exits = [
        ExitOptions(policy="off") if e is None else ExitOptions(policy="fixed", exit_layer=e)
        for _, e in asked
    ]
    results = dyvte.generate(model, prompts, GREEDY, exits)
    for (ids, layer), result in zip(asked, results, strict=True):
        oracle = reference.logits(ids, expected, result.token_ids[:-1], layer)
        assert result.logits is not None
        torch.testing.assert_close(result.logits, oracle, atol=LOGITS, rtol=0)
