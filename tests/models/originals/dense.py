"""The original layouts once more in plain torch: one prompt, no cache, masks instead of exits.

Reads a checkpoint's own tensors by their own names and shares no code with what it checks; the
goldens under ``tests/golden`` hold it to what the original programs gave.

Shapes: I images or tiles, n patches of one, c tower width, d decoder width, T rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Weights:
    """Named tensors in float32, seen from ``prefix``."""

    tensors: Mapping[str, Tensor]
    prefix: str = ""

    @classmethod
    def of(cls, folder: Path) -> Weights:
        found: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            found |= load_file(file)
        return cls({name: tensor.float() for name, tensor in found.items()})

    def at(self, prefix: str) -> Weights:
        return Weights(self.tensors, f"{self.prefix}{prefix}.")

    def has(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[f"{self.prefix}{name}"]

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self[f"{name}.bias"] if self.has(f"{name}.bias") else None
        return F.linear(x, self[f"{name}.weight"], bias)

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        """Layer norm where it has a bias, else RMS norm."""
        if self.has(f"{name}.bias"):
            return F.layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], eps)
        normed: Tensor = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        return normed * self[f"{name}.weight"]


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, seen: Tensor | None = None) -> Tensor:
    """``[…, rows, heads · D]`` each; ``seen [rows, rows]`` (bool) says which keys a row has."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    mixed: Tensor = scores.softmax(-1) @ v
    return mixed.transpose(-3, -2).flatten(-2)


def _patches(w: Weights, pixels: Tensor) -> Tensor:
    """``[I, n, c]``, row by row."""
    weight = w["patch_embedding.weight"]
    bias = w["patch_embedding.bias"] if w.has("patch_embedding.bias") else None
    return F.conv2d(pixels, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)


def clip(w: Weights, config: Mapping[str, Any], pixels: Tensor) -> list[Tensor]:
    """CLIP's or SigLIP's hidden states: the embedding's, then each layer's output."""
    inner, eps = w.at("vision_model.embeddings"), config["layer_norm_eps"]
    x = _patches(inner, pixels)
    if inner.has("class_embedding"):
        x = torch.cat([inner["class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = x + inner["position_embedding.weight"]
    if w.has("vision_model.pre_layrnorm.weight"):
        x = w.norm("vision_model.pre_layrnorm", x, eps)
    states = [x]
    for index in range(config["num_hidden_layers"]):
        layer = w.at(f"vision_model.encoder.layers.{index}")
        normed, attn = layer.norm("layer_norm1", x, eps), layer.at("self_attn")
        q, k, v = (attn.linear(f"{name}_proj", normed) for name in "qkv")
        x = x + attn.linear("out_proj", _attend(q, k, v, config["num_attention_heads"]))
        inside = layer.linear("mlp.fc1", layer.norm("layer_norm2", x, eps))
        quick = config["hidden_act"] == "quick_gelu"
        inside = inside * torch.sigmoid(1.702 * inside) if quick else _tanh_gelu(inside)
        x = x + layer.linear("mlp.fc2", inside)
        states.append(x)
    return states


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def intern_vit(w: Weights, config: Mapping[str, Any], pixels: Tensor) -> list[Tensor]:
    """InternViT's hidden states."""
    inner, eps = w.at("embeddings"), config["layer_norm_eps"]
    x = _patches(inner, pixels)
    x = torch.cat([inner["class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = x + inner["position_embedding"]
    states = [x]
    for index in range(config["num_hidden_layers"]):
        layer = w.at(f"encoder.layers.{index}")
        q, k, v = layer.linear("attn.qkv", layer.norm("norm1", x, eps)).chunk(3, dim=-1)
        if config["qk_normalization"]:
            q, k = layer.norm("attn.q_norm", q, eps), layer.norm("attn.k_norm", k, eps)
        mixed = _attend(q, k, v, config["num_attention_heads"])
        x = x + layer["ls1"] * layer.linear("attn.proj", mixed)
        inside = F.gelu(layer.linear("mlp.fc1", layer.norm("norm2", x, eps)))
        x = x + layer["ls2"] * layer.linear("mlp.fc2", inside)
        states.append(x)
    return states


def llava_rows(config: Mapping[str, Any], w: Weights, states: Sequence[Tensor]) -> Tensor:
    """``[I, rows, d]``: the selected state through the two layers of ``mm_projector``."""
    chosen = states[config["mm_vision_select_layer"]]
    if config["mm_vision_select_feature"] == "patch":
        chosen = chosen[:, 1:]
    inner = w.at("model.mm_projector")
    return inner.linear("2", F.gelu(inner.linear("0", chosen)))


def vila_rows(w: Weights, chosen: Tensor, by_columns: bool) -> Tensor:
    """2 × 2 cells of a grid filled up with zeros, in either order, then norm and MLP."""
    side = round(chosen.shape[1] ** 0.5)
    cells = _cells(F.pad(chosen.unflatten(1, (side, side)), (0, 0, 0, side % 2, 0, side % 2)), 2)
    rows = w.norm("layers.1", _listed(cells, by_columns), 1e-5)
    return w.linear("layers.4", F.gelu(w.linear("layers.2", rows)))


def internvl_rows(config: Mapping[str, Any], w: Weights, states: Sequence[Tensor]) -> Tensor:
    """``[I, rows, d]``: no class token, cells joined as ``ps_version`` lists them, ``mlp1``."""
    chosen = states[config["select_layer"]][:, 1:]
    side = round(chosen.shape[1] ** 0.5)
    cells = _cells(chosen.unflatten(1, (side, side)), round(1 / config["downsample_ratio"]))
    rows = _listed(cells, by_columns=config["ps_version"] == "v1")
    inner = w.at("mlp1")
    return inner.linear("3", F.gelu(inner.linear("1", inner.norm("0", rows, 1e-5))))


def _cells(grid: Tensor, side: int) -> list[list[Tensor]]:
    """Cell (row, column) of ``[I, h, w, c]``: its patches row by row, joined along channels."""
    return [
        [
            torch.cat([grid[:, r + i, c + j] for i in range(side) for j in range(side)], dim=-1)
            for c in range(0, grid.shape[2], side)
        ]
        for r in range(0, grid.shape[1], side)
    ]


def _listed(cells: Sequence[Sequence[Tensor]], by_columns: bool) -> Tensor:
    lines = list(zip(*cells, strict=True)) if by_columns else cells
    return torch.stack([cell for line in lines for cell in line], dim=1)


def decode(
    llm: Mapping[str, Any],
    w: Weights,
    rows: Tensor,
    visual: Tensor | None = None,
    exit_layer: int | None = None,
) -> Tensor:
    """``rows [T, d]`` → logits ``[T, V]``; behind ``exit_layer`` nobody sees ``visual`` keys.

    Llama, Qwen2 (biases where there are some) and InternLM2 (one matrix for q, k, v).
    """
    x, eps = rows, llm["rms_norm_eps"]
    causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    masked = causal if visual is None else causal & (~visual | torch.eye(len(x), dtype=torch.bool))
    fused = w.has("model.tok_embeddings.weight")
    for index in range(llm["num_hidden_layers"]):
        layer = w.at(f"model.layers.{index}")
        gone = exit_layer is not None and index > exit_layer
        normed = layer.norm("attention_norm" if fused else "input_layernorm", x, eps)
        q, k, v = (_fused if fused else _apart)(llm, layer, normed)
        q, k = _rotated(llm, q), _rotated(llm, k)
        heads = llm["num_attention_heads"]
        groups = heads // _kv_heads(llm)
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        seen = masked if gone else causal
        mixed = _attend(q.flatten(1), k.flatten(1), v.flatten(1), heads, seen)
        x = x + layer.linear("attention.wo" if fused else "self_attn.o_proj", mixed)
        normed = layer.norm("ffn_norm" if fused else "post_attention_layernorm", x, eps)
        mlp = layer.at("feed_forward" if fused else "mlp")
        gate, up, down = ("w1", "w3", "w2") if fused else ("gate_proj", "up_proj", "down_proj")
        x = x + mlp.linear(down, F.silu(mlp.linear(gate, normed)) * mlp.linear(up, normed))
    x = w.norm("model.norm", x, eps)
    head = "output.weight" if fused else "lm_head.weight"
    return x @ (w[head] if w.has(head) else embedding(w)).T


def embedding(w: Weights) -> Tensor:
    """``[V, d]``."""
    fused = w.has("model.tok_embeddings.weight")
    return w["model.tok_embeddings.weight" if fused else "model.embed_tokens.weight"]


def _kv_heads(llm: Mapping[str, Any]) -> int:
    return int(llm.get("num_key_value_heads") or llm["num_attention_heads"])


def _apart(llm: Mapping[str, Any], layer: Weights, normed: Tensor) -> list[Tensor]:
    """q, k, v, each ``[T, its heads, D]``."""
    heads = {"q": llm["num_attention_heads"], "k": _kv_heads(llm), "v": _kv_heads(llm)}
    return [
        layer.linear(f"self_attn.{name}_proj", normed).unflatten(-1, (count, -1))
        for name, count in heads.items()
    ]


def _fused(llm: Mapping[str, Any], layer: Weights, normed: Tensor) -> list[Tensor]:
    """The same out of ``wqkv``: each key head's queries, its key, its value, then the next."""
    kv = _kv_heads(llm)
    each = layer.linear("attention.wqkv", normed)
    each = each.unflatten(-1, (kv, llm["num_attention_heads"] // kv + 2, -1))
    return [each[:, :, :-2].flatten(1, 2), each[:, :, -2], each[:, :, -1]]


def _rotated(llm: Mapping[str, Any], x: Tensor) -> Tensor:
    """``[T, heads, D]`` turned by positions 0, 1, …; linear scaling where the config asks it."""
    dim = x.shape[-1]
    scaling = llm.get("rope_scaling") or {}
    factor = scaling["factor"] if scaling.get("type") == "linear" else 1.0
    turns = llm.get("rope_theta", 10000.0) ** (-torch.arange(0, dim, 2).double() / dim)
    angles = (torch.arange(len(x)).double() / factor)[:, None, None] * turns
    cos, sin = angles.cos().float(), angles.sin().float()
    first, second = x[..., : dim // 2], x[..., dim // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
