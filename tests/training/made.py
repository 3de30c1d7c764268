"""Collections with answers that are known in advance, written as ``dyvte collect`` writes them.

Every sample has a depth from which on its answer needs the image no more. Gates see a status
whose first number *is* the margin; the signal "pull_last" falls off behind the depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dyvte.exits.gate import GateBank
from dyvte.exits.origin import Origin
from dyvte.flops import DecoderShape
from dyvte.training.collection import Collection, load_collected
from dyvte.training.shards import (
    Card,
    Shard,
    plain,
    shard_path,
    write_card,
    write_index,
    write_shard,
)

LAYERS, HIDDEN = 6, 2
SHAPE = DecoderShape(LAYERS, HIDDEN, 4, 1, 1, 2, 16)
TEXT, VISUAL, ANSWER = 5, 20, 3


def write(
    folder: Path,
    samples: int = 400,
    seed: int = 0,
    conversation_share: float = 0.0,
    per_picture: int = 1,
    noise: float = 0.7,
    labels: bool = True,
    model: Origin | None = None,
) -> Path:
    """A finished collection; the same seed gives the same."""
    draw = np.random.default_rng(seed)
    depth = draw.uniform(0, LAYERS - 1, samples)
    distance = np.arange(LAYERS)[None, :] - depth[:, None]
    margin = 2 * distance + noise * draw.standard_normal((samples, LAYERS))
    pull = np.exp(-distance + 0.5 * noise * draw.standard_normal((samples, LAYERS)))
    dull = np.exp(draw.standard_normal((samples, LAYERS)))
    tensors = {
        "groups": torch.arange(samples) // per_picture,
        "conversation": torch.from_numpy(draw.random(samples) < conversation_share),
        "text_rows": torch.full((samples,), TEXT),
        "visual_rows": torch.full((samples,), VISUAL),
        "answer_tokens": torch.full((samples,), ANSWER),
        "vision_flops": torch.full((samples,), 1000),
        "kl": torch.from_numpy(np.exp(-2 * distance)).float(),
        "signals": torch.from_numpy(np.stack([pull, dull], -1)).float(),
        "status": torch.zeros(samples, LAYERS, 2 * HIDDEN),
    }
    tensors["status"][..., 0] = torch.from_numpy(margin)
    if labels:
        tensors["consistent"] = torch.from_numpy(distance >= 0)
    settings = plain({"data": folder.name, "seed": seed})
    if model is not None:
        named = {"model": model.name, "model_family": model.family, "model_weights": model.weights}
        settings |= named
    names = ("pull_last", "mass_last")
    write_card(folder, Card(SHAPE, tuple(range(LAYERS)), names, tuple(sorted(tensors)), settings))
    half = samples // 2
    shards = []
    for number, rows in enumerate((slice(0, half), slice(half, samples))):
        ids = [f"s{i}" for i in range(*rows.indices(samples))]
        shard = Shard(shard_path(folder, number), ids, ["any"] * len(ids))
        write_shard(shard, {name: tensor[rows] for name, tensor in tensors.items()})
        shards.append(shard)
    write_index(folder, shards, ())
    return folder


def collected(folder: Path, **how: object) -> Collection:
    """The same, read back."""
    return load_collected(write(folder, **how))  # type: ignore[arg-type]


def gates(layers: Sequence[int] = range(1, LAYERS - 1)) -> GateBank:
    """gelu(x) − gelu(−x) = x: the margin of these gates is the first number of the status."""
    w1 = torch.zeros(2, 2 * HIDDEN)
    w1[0, 0], w1[1, 0] = 1.0, -1.0
    w2 = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    w1s, w2s = ({layer: w.clone() for layer in layers} for w in (w1, w2))
    return GateBank(w1s, w2s)
