"""``det-1024``: EVA-02-L as its detector has it: windows of 16 x 16, every third block sees all.

``transformers`` has no EVA. Source: EVA-02 (arXiv 2303.11331), plain ViT detection (2203.16527).

Shapes: B images, N patches in window order, W windows, P patches of a window, H heads, D head_dim.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from dyvte.models.families.eagle.tower import SIDE, Shapes, Tower, as_rows, depth, head_count

PATCH, WINDOW, EVERY = 16, 16, 3
THETA = 10000.0
EPS = 1e-6
SIDE_PATCHES = SIDE // PATCH
WINDOWS = SIDE_PATCHES // WINDOW

Rotary = tuple[Tensor, Tensor]
"""cos and sin ``[n, D / 2]`` of n places."""


class EvaConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of an EVA-02 encoder; ``positions`` are those that it was pre-trained with."""

    model_type = "eva02_vision_model"

    hidden_size: int = 1024
    intermediate_size: int = 2730
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    positions: int = 196


class EvaAttention(nn.Module):
    """Queries and values have a bias, keys have none."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor, rotary: Rotary) -> Tensor:
        """``[b, n, d]``, each of the b attending to itself."""
        query = F.linear(hidden, self.q_proj.weight, self.q_bias)
        value = F.linear(hidden, self.v_proj.weight, self.v_bias)
        q_bHnD, k_bHnD, v_bHnD = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (query, self.k_proj(hidden), value)
        )
        out = F.scaled_dot_product_attention(turn(q_bHnD, rotary), turn(k_bHnD, rotary), v_bHnD)
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected


class EvaMlp(nn.Module):
    """SwiGLU with a norm before its last matrix."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.w1 = nn.Linear(width, inner)
        self.w2 = nn.Linear(width, inner)
        self.ffn_ln = nn.LayerNorm(inner, eps=EPS)
        self.w3 = nn.Linear(inner, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[…, d]`` → ``[…, d]``."""
        out: Tensor = self.w3(self.ffn_ln(F.silu(self.w1(hidden)) * self.w2(hidden)))
        return out


class EvaBlock(nn.Module):
    """Norm, attention, norm, MLP."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=EPS)
        self.attn = EvaAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=EPS)
        self.mlp = EvaMlp(config)

    def forward(self, hidden: Tensor, rotary: Rotary) -> Tensor:
        """``[b, n, d]`` → ``[b, n, d]``."""
        hidden = hidden + self.attn(self.norm1(hidden), rotary)
        out: Tensor = hidden + self.mlp(self.norm2(hidden))
        return out


class EvaTower(Tower):
    """The patches lie in window order throughout, so that no block moves them.

    Attention over the whole picture does not mind the order; its rotary table follows it.
    """

    name = "det-1024"
    kind = "eva"

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.hidden_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, self.width, PATCH, stride=PATCH)})
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.positions, self.width))
        self.blocks = nn.ModuleList(EvaBlock(config) for _ in range(config.num_hidden_layers))
        self.peak = SIDE_PATCHES**2 * config.intermediate_size

    @classmethod
    def configured(cls, **sizes: Any) -> EvaConfig:
        """EVA-02-L."""
        return EvaConfig(**sizes)

    @classmethod
    def sizes(cls, shapes: Shapes, heads: int | None = None) -> dict[str, Any]:
        """A stored rotary table tells the head's width."""
        inner, width = shapes["blocks.0.mlp.w1.weight"]
        table = shapes.get("rope_win.freqs_cos")
        if table is not None:
            heads = width // table[1]
        return {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": depth(shapes, "blocks"),
            "num_attention_heads": heads or head_count(width),
            "positions": shapes["pos_embed"][1] - 1,
        }

    @classmethod
    def native_name(cls, name: str) -> str | None:
        """Rotary tables are constants, not weights."""
        return None if name.endswith((".freqs_cos", ".freqs_sin")) else name

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, SIDE, SIDE]`` → ``[B, ROWS, width]``."""
        embed = self.patch_embed["proj"]
        cells_BdGG = embed(pixels.to(self.pos_embed.dtype)) + self._positions()
        hidden_BWPd = windowed(cells_BdGG)
        inside, across = self._rotary(pixels.device, hidden_BWPd.dtype)
        images = len(pixels)
        for index, block in enumerate(self.blocks):
            whole = index % EVERY == EVERY - 1
            rows = hidden_BWPd.view(images if whole else images * WINDOWS**2, -1, self.width)
            hidden_BWPd = block(rows, across if whole else inside)
        return as_rows(unwindowed(hidden_BWPd.view(images, WINDOWS**2, WINDOW**2, self.width)))

    def flops(self) -> int:
        """Patch embedding and every block; a window's patches attend to WINDOW² keys."""
        d, m, rows = self.width, self.config.intermediate_size, SIDE_PATCHES**2
        total = 2 * rows * 3 * PATCH**2 * d
        for index in range(self.config.num_hidden_layers):
            keys = rows if index % EVERY == EVERY - 1 else WINDOW**2
            total += 2 * rows * (4 * d * d + 3 * d * m) + 4 * rows * keys * d
        return total

    def _positions(self) -> Tensor:
        """``[1, d, G, G]``: the pre-trained ones without the class token's, resized."""
        side = isqrt(self.config.positions)
        grid = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        size = (SIDE_PATCHES, SIDE_PATCHES)
        return F.interpolate(grid.float(), size=size, mode="bicubic").to(grid.dtype)

    def _rotary(self, device: torch.device, dtype: torch.dtype) -> tuple[Rotary, Rotary]:
        """Tables of one window, and of the picture: its places count 0, ¼, ½, … up to 16."""
        head_dim = self.width // self.config.num_attention_heads
        window = rotary_table(WINDOW, 1.0, head_dim, device)
        picture = rotary_table(SIDE_PATCHES, WINDOW / SIDE_PATCHES, head_dim, device)
        ordered = windowed(picture.permute(2, 0, 1)[None]).flatten(0, 2)
        inside, across = (each.view(-1, head_dim // 2) for each in (window, ordered))
        return (
            (inside.cos().to(dtype), inside.sin().to(dtype)),
            (across.cos().to(dtype), across.sin().to(dtype)),
        )


def rotary_table(side: int, step: float, head_dim: int, device: torch.device) -> Tensor:
    """Angles ``[side, side, D / 2]``: a quarter of the head turns by row, a quarter by column."""
    quarter = torch.arange(0, head_dim // 2, 2, device=device, dtype=torch.float32)
    turns = THETA ** -(quarter / (head_dim // 2))
    angles = (torch.arange(side, device=device) * step)[:, None] * turns
    rows = angles[:, None].expand(-1, side, -1)
    return torch.cat([rows, rows.transpose(0, 1)], dim=-1)


def turn(heads: Tensor, rotary: Rotary) -> Tensor:
    """``[b, H, n, D]`` turned, neighbouring channels being a pair."""
    cos, sin = rotary
    even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def windowed(cells: Tensor) -> Tensor:
    """``[B, d, G, G]`` → ``[B, W, P, d]``."""
    images, width = cells.shape[:2]
    cut = cells.reshape(images, width, WINDOWS, WINDOW, WINDOWS, WINDOW)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(images, WINDOWS**2, WINDOW**2, width)


def unwindowed(rows: Tensor) -> Tensor:
    """``[B, W, P, d]`` → ``[B, d, G, G]``."""
    images, width = len(rows), rows.shape[-1]
    cut = rows.view(images, WINDOWS, WINDOWS, WINDOW, WINDOW, width)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(images, width, SIDE_PATCHES, SIDE_PATCHES)
