"""EAGLE beyond its golden case: other mixtures and orders of towers, sizes, exits, cost."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

import dyvte
from dyvte import ExitOptions, ModelError, Prompt, PromptError
from dyvte.models.families.eagle.model import native_name, tower_class
from dyvte.models.originals import eagle
from dyvte.models.originals.files import decoder_settings
from dyvte.prompt import IMAGE
from tests import tiny
from tests.golden.test_eagle_original import GREEDY, HERE, TOWERS, WIDTHS, expected, model, pixels

CHECKPOINT = HERE / "checkpoint"
CONFIG = json.loads((CHECKPOINT / "config.json").read_text())
INSIDE = "model.vision_tower.vision_towers."
PROJECTOR = "model.mm_projector.0.weight"
VICUNA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "vocab_size": 32000,
}
X4 = (0, 1, 3, 4)
"""X4 is X5 without SAM."""


@cache
def weights() -> dict[str, Tensor]:
    return load_file(CHECKPOINT / "model.safetensors")


def mixture(folder: Path, towers: Sequence[int]) -> Path:
    """The checkpoint with only some towers, in that order, and the projector's columns of them."""
    shutil.copytree(CHECKPOINT, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    names = ";".join(TOWERS[index] for index in towers)
    width = sum(WIDTHS[index] for index in towers)
    changed = CONFIG | {"mm_vision_tower": names, "mm_hidden_size": width}
    (folder / "config.json").write_text(json.dumps(changed))
    state = {name: tensor for name, tensor in weights().items() if not name.startswith(INSIDE)}
    for place, index in enumerate(towers):
        old, new = f"{INSIDE}{index}.", f"{INSIDE}{place}."
        for name, tensor in weights().items():
            if name.startswith(old):
                state[new + name.removeprefix(old)] = tensor
    columns = torch.arange(sum(WIDTHS)).split(WIDTHS)
    chosen = torch.cat([columns[index] for index in towers])
    state[PROJECTOR] = weights()[PROJECTOR][:, chosen].contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load(folder: Path) -> dyvte.Model:
    return dyvte.load(folder, device="cpu", dtype="float32")


def test_channels_follow_the_order_of_the_names(tmp_path: Path) -> None:
    """Towers in another order, with the projector's columns in that order, give the same rows."""
    other = load(mixture(tmp_path / "m", (4, 2, 0, 3, 1)))
    [[rows]] = other.adapter.encode_images([{"pixel_values": pixels()}])
    torch.testing.assert_close(rows, expected()["image_features"], atol=5e-5, rtol=0)


def test_x4_is_x5_without_sam(tmp_path: Path) -> None:
    four = load(mixture(tmp_path / "m", X4))
    adapter: Any = four.adapter
    stored = expected()["vision_features"].split(WIDTHS, dim=1)
    channels = torch.cat([stored[index] for index in X4], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(adapter.model.see(pixels())[0], channels, atol=2e-5, rtol=0)
    prompt = Prompt(expected()["input_ids"][0].tolist(), {"pixel_values": pixels()})
    [result] = dyvte.generate(four, prompt, GREEDY)
    assert len(result.token_ids) == 12
    cost = four.adapter.vision_flops({"pixel_values": pixels()})
    assert cost < model().adapter.vision_flops({"pixel_values": pixels()})


@pytest.fixture(scope="module")
def two_towers(tmp_path_factory: pytest.TempPathFactory) -> dyvte.Model:
    """The two towers that cost least."""
    return load(mixture(tmp_path_factory.mktemp("eagle") / "m", (0, 1)))


def prompt_of(*images: Tensor, more: Sequence[int] = (294, 267)) -> Prompt:
    """Some text, the pictures with a line break each, a question."""
    ids = [1, 291, 272, *[token for _ in images for token in (IMAGE, 13)], *more]
    return Prompt(ids, {"pixel_values": torch.cat(images)} if images else None)


def test_a_batch_of_prompts_and_exits_is_each_alone(two_towers: dyvte.Model) -> None:
    """None, one and two pictures; three exits."""
    other = pixels().flip(-1)
    prompts = [prompt_of(), prompt_of(pixels()), prompt_of(other, pixels()), prompt_of(other)]
    exits = [ExitOptions("off"), ExitOptions("off"), *(fixed(layer) for layer in (0, 1))]
    together = dyvte.generate(two_towers, prompts, GREEDY, exits)
    assert [result.tokens_per_layer for result in together] == [
        *([5] * 3, [1030] * 3),
        *([2055, 7, 7], [1030, 1030, 6]),
    ]
    for prompt, leave, packed in zip(prompts, exits, together, strict=True):
        [alone] = dyvte.generate(two_towers, prompt, GREEDY, leave)
        assert alone.token_ids == packed.token_ids
        assert alone.logits is not None
        assert packed.logits is not None
        torch.testing.assert_close(alone.logits, packed.logits, atol=5e-5, rtol=0)


def fixed(layer: int | None) -> ExitOptions:
    """An exit behind ``layer``; None for none."""
    return ExitOptions("off") if layer is None else ExitOptions("fixed", exit_layer=layer)


@pytest.mark.parametrize("exit_layer", [0, 1, None])
def test_an_exit_is_masking_the_visual_keys(
    exit_layer: int | None, two_towers: dyvte.Model
) -> None:
    """Against ``transformers``' own Llama over the original tensors, every row kept."""
    prompt = prompt_of(pixels())
    [result] = dyvte.generate(two_towers, prompt, GREEDY, fixed(exit_layer))
    [[image]] = two_towers.adapter.encode_images([{"pixel_values": pixels()}])
    assert result.logits is not None
    oracle = dense(prompt.token_ids, result.token_ids, image, exit_layer)
    torch.testing.assert_close(result.logits, oracle, atol=2e-4, rtol=0)


@torch.inference_mode()
def dense(
    ids: Sequence[int], generated: Sequence[int], image: Tensor, exit_layer: int | None
) -> Tensor:
    """Logits ``[generated, V]`` with the visual keys hidden in all layers behind the exit."""
    config = LlamaConfig(**decoder_settings(CONFIG), attn_implementation="eager")
    reference = LlamaForCausalLM(config).eval()
    state = {k: v.float() for k, v in weights().items() if k in reference.state_dict()}
    reference.load_state_dict(state)
    at = ids.index(IMAGE)
    table = reference.get_input_embeddings()
    rows = [table(torch.tensor(ids[:at])), image]
    rows += [table(torch.tensor([*ids[at + 1 :], *generated[:-1]]))]
    hidden = torch.cat(rows)
    visual = torch.zeros(len(hidden), dtype=torch.bool)
    visual[at : at + len(image)] = True
    layers = reference.model.layers
    for layer in layers[exit_layer + 1 :] if exit_layer is not None else ():
        layer.register_forward_pre_hook(hiding(visual), with_kwargs=True)
    logits: Tensor = reference(inputs_embeds=hidden[None], use_cache=False).logits[0]
    return logits[-len(generated) :]


def hiding(keys: Tensor) -> Callable[..., Any]:
    """A hook that runs a layer under a causal mask in which ``keys`` are hidden."""
    seen = torch.ones(len(keys), len(keys), dtype=torch.bool).tril() & ~keys
    seen |= torch.eye(len(keys), dtype=torch.bool)
    mask = torch.zeros(1, 1, *seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return lambda _, args, kwargs: (args, {**kwargs, "attention_mask": mask})


@pytest.mark.parametrize("name", ["x4", "x5"])
def test_published_checkpoints_have_our_names_and_shapes(name: str, tmp_path: Path) -> None:
    """From a config alone, with the sizes that no file of a checkpoint says."""
    listed = HERE / f"state_dict_shapes_eagle_{name}_7b.json.gz"
    shapes: dict[str, list[int]] = json.loads(gzip.decompress(listed.read_bytes()))
    towers = TOWERS if name == "x5" else [TOWERS[index] for index in X4]
    config = CONFIG | VICUNA_7B | {"mm_vision_tower": ";".join(towers)}
    built: Any = eagle.build(tmp_path, config, torch.bfloat16).adapter
    wanted = {native_name(key, towers): shape for key, shape in shapes.items()}
    wanted.pop(None)
    assert {key: list(value.shape) for key, value in built.model.state_dict().items()} == wanted
    unused = [key for key in shapes if native_name(key, towers) is None]
    assert all("freqs_" in key or ".head." in key for key in unused)


def test_published_sizes_are_what_the_shapes_say() -> None:
    listed = HERE / "state_dict_shapes_eagle_x5_7b.json.gz"
    shapes = json.loads(gzip.decompress(listed.read_bytes()))
    for index, name in enumerate(TOWERS):
        kind = tower_class(name)
        read = kind.configured(**kind.sizes(eagle.tower_shapes(shapes, index)))
        assert read.to_dict() == kind.configured().to_dict()


def test_heads_of_the_small_towers_are_as_the_fixture_says() -> None:
    """And ``tower_configs.json`` may be that very file."""
    said = json.loads((HERE / "tiny_tower_configs.json").read_text())
    shapes = {name: list(tensor.shape) for name, tensor in weights().items()}
    for index, name in enumerate(TOWERS):
        kind = tower_class(name)
        sizes = kind.sizes(eagle.tower_shapes(shapes, index))
        heads = said[kind.kind].get("num_attention_heads", said[kind.kind].get("num_heads"))
        assert sizes.get("num_attention_heads") == heads
        assert sizes.get("num_hidden_layers") == said[kind.kind].get(
            "num_hidden_layers", said[kind.kind].get("depth")
        )


def test_a_file_in_the_folder_overrides_the_heads(tmp_path: Path) -> None:
    said = {"clip": {"num_attention_heads": 4}, "eva": {"num_heads": 8}, "convnext": {}}
    (tmp_path / "tower_configs.json").write_text(json.dumps(said))
    heads = eagle.read_heads(tmp_path)
    assert heads == {"clip": 4, "eva": 8}
    shapes = {name: list(tensor.shape) for name, tensor in weights().items()}
    towers = dict(eagle.native_config(CONFIG, shapes, heads).towers or ())
    assert towers["clip-448"]["num_attention_heads"] == 4
    assert towers["det-1024"]["num_attention_heads"] == 8
    assert towers["pix2struct-1024"]["num_attention_heads"] == 2


def test_stored_rotary_tables_are_not_needed_but_tell_the_heads(tmp_path: Path) -> None:
    tables = {f"rope_win.freqs_{part}": torch.zeros(256, 16) for part in ("cos", "sin")}
    folder = mixture(tmp_path / "m", (3, 1))
    state = load_file(folder / "model.safetensors")
    state |= {f"{INSIDE}0.vision_tower.{name}": table for name, table in tables.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    adapter: Any = load(folder).adapter
    with torch.inference_mode():
        rows = adapter.model.towers[0](pixels())[0]
    stored = expected()["vision_features"].split(WIDTHS, dim=1)[3]
    torch.testing.assert_close(rows, stored, atol=2e-5, rtol=0)


def test_cost_of_images_is_what_torch_counts() -> None:
    """On the meta device, where attention comes apart into its products; each tower by itself."""
    adapter: Any = eagle.build(CHECKPOINT, CONFIG, torch.float32).adapter
    pictures = {"pixel_values": torch.empty(2, 3, 1024, 1024, device="meta")}
    with (
        FlopCounterMode(display=False) as counter,
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        adapter.encode_images([pictures])
    counts = counter.get_flop_counts()
    for tower in adapter.model.towers:
        assert sum(counts[type(tower).__name__].values()) == 2 * tower.flops()
    assert counter.get_total_flops() == adapter.vision_flops(pictures)


def test_images_beyond_what_memory_is_meant_for_run_in_turn(
    monkeypatch: pytest.MonkeyPatch, two_towers: dyvte.Model
) -> None:
    images = [{"pixel_values": torch.cat([pixels(), pixels().flip(-1)])}]
    [together] = two_towers.adapter.encode_images(images)
    monkeypatch.setattr("dyvte.models.families.eagle.model.PEAK_BYTES", 1)
    [[first, second]] = two_towers.adapter.encode_images(images)
    torch.testing.assert_close([first, second], together, atol=2e-5, rtol=0)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    ("special", "name"),
    [("</s>", "vicuna_v1"), ("<|start_header_id|>", "llama3"), ("<|im_start|>", "yi_34b")],
)
def test_the_decoders_specials_tell_the_conversation_format(special: str, name: str) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([special], special_tokens=True)
    form = eagle.conversation(tokenizer)
    assert form.name.startswith(name)
    if name == "llama3":
        assert form.default_system.startswith("A chat between a curious user")
        assert form.assistant[0] == "<|start_header_id|>assistant<|end_header_id|>\n\n"


def test_towers_run_in_16_bit() -> None:
    adapter = dyvte.load(CHECKPOINT, device="cpu", dtype="bfloat16").adapter
    [[rows]] = adapter.encode_images([{"pixel_values": pixels()}])
    assert rows.dtype == torch.bfloat16
    apart = (rows.float() - expected()["image_features"]).norm() / expected()[
        "image_features"
    ].norm()
    assert apart < 0.03


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mm_vision_tower": "clip-448;radio-1024"}, "radio-1024"),
        ({"mm_projector_type": "linear"}, "mm_projector_type"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio"),
        ({"mm_vision_tower": "clip-448;convnext-1024"}, "unknown tensor"),
        ({"mm_vision_tower": f"{CONFIG['mm_vision_tower']};sam-1024"}, "no tensors of tower 5"),
        (
            {"mm_vision_tower": ";".join([TOWERS[1], TOWERS[0], *TOWERS[2:]])},
            "tower 0 is no convnext-1024",
        ),
        ({"num_hidden_layers": 4}, "model.layers.3"),
    ],
    ids=["unknown", "projector", "aspect", "fewer", "more", "order", "layers"],
)
def test_folders_that_do_not_fit_are_refused(
    changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(ModelError, match=what):
        load(tmp_path / "m")


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(PromptError, match="1024"):
        model().adapter.visual_rows({"pixel_values": torch.zeros(1, 3, 448, 448)})
