"""What was collected of a frozen model: statuses, labels and signals of many samples.

``load_collected`` is what training and calibration begin with; neither needs the model itself.

Shapes: N samples, L collected layers (ascending), d hidden size, F signals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dyvte.data import DataError
from dyvte.exits.origin import Origin
from dyvte.flops import DecoderShape
from dyvte.training.shards import Shard, read_card, read_shards


@dataclass(frozen=True, slots=True)
class Collection:
    """Row i of every tensor and list is sample i; column j of ``[N, L]`` is layer ``layers[j]``.

    paper [N, L] bool
        the paper's label (None where answers were not asked for), with what led to it:
        ``agreement`` [N, L], ``loss_full`` [N], ``loss_exit`` [N, L], float32, on the given answer.
    consistent [N, L] bool
        True iff the model's own greedy answer stays the same when the image leaves after that
        layer (None where it was not asked for).
    kl [N, L] float32
        KL(full ‖ exit), nats, of the first answer token's distribution.
    signals [N, L, F] float32
        what ``signal_names`` name (``dyvte.exits.signals``).
    text_rows, visual_rows, answer_tokens [N] int64
        rows of the prompt, and tokens of the answer that the labels are about: the greedy one
        (end-of-sequence counted), or without it the given one.
    vision_flops [N] int64
        tower and projector over the sample's images.
    groups [N] int64
        samples of one group share a picture: a split keeps them together.
    settings
        what ``dyvte collect`` was asked: model, fingerprint, data, labels, max_tokens, …
    """

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    groups: Tensor
    conversation: Tensor
    text_rows: Tensor
    visual_rows: Tensor
    answer_tokens: Tensor
    vision_flops: Tensor
    kl: Tensor
    signals: Tensor
    signal_names: tuple[str, ...]
    paper: Tensor | None
    agreement: Tensor | None
    loss_full: Tensor | None
    loss_exit: Tensor | None
    consistent: Tensor | None
    layers: tuple[int, ...]
    shape: DecoderShape
    settings: dict[str, Any]
    shards: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_layers(self) -> int:
        """Depth of the model; ``layers`` may be fewer."""
        return self.shape.num_layers

    @property
    def status(self) -> Tensor:
        """``[N, L, 2d]`` float32, read anew: N · L · 8d bytes (see ``status_of``)."""
        return torch.cat([_tensor(path) for path in self.shards])

    def status_of(self, layer: int) -> Tensor:
        """``[N, 2d]`` float32 of one layer; the others are not read. Raises ValueError."""
        column = self.layers.index(layer)
        return torch.cat([_tensor(path, column) for path in self.shards])

    @property
    def origin(self) -> Origin | None:
        """The model that was collected from; None in collections that do not say."""
        said = [str(self.settings.get(f"model{part}", "")) for part in ("_family", "", "_weights")]
        return Origin(*said) if all(said) else None

    def label(self, name: str) -> Tensor | None:
        """``[N, L]`` bool: the labels called "paper" or "self", None if not collected."""
        return {"paper": self.paper, "self": self.consistent}[name]


def load_collected(folder: str | Path) -> Collection:
    """Read what ``dyvte collect`` wrote, but for the statuses, which are read when asked for.

    Raises DataError if the folder holds no collection or an unfinished one.
    """
    card = read_card(Path(folder))
    parts = list(read_shards(Path(folder)))
    if not any(part.ids for part in parts):
        raise DataError(f"{folder} holds no samples: every row of its data was passed over")
    own = {field.name for field in fields(Collection)}
    tensors = {name: _joined(parts, name) for name in card.tensors if name in own}
    missing = dict.fromkeys(own & {"paper", "agreement", "loss_full", "loss_exit", "consistent"})
    return Collection(
        **{**missing, **tensors},
        ids=tuple(name for part in parts for name in part.ids),
        kinds=tuple(kind for part in parts for kind in part.kinds),
        signal_names=card.signal_names,
        layers=card.layers,
        shape=card.shape,
        settings=card.settings,
        shards=tuple(part.path for part in parts),
    )


def _joined(parts: Sequence[Shard], name: str) -> Any:
    found = []
    for part in parts:
        with safe_open(part.path, framework="pt") as opened:
            found.append(opened.get_tensor(name))
    return torch.cat(found)


def _tensor(path: Path, column: int | None = None) -> Tensor:
    with safe_open(path, framework="pt") as opened:
        part = opened.get_slice("status")
        found: Tensor = part[:] if column is None else part[:, column]
        return found
