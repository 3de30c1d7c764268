"""Teaching the vision tower to see figures, step by step.

Owns losses on the tower's inner layers, each a step towards the shape of an object: which
2x2-pixel cells of a patch are drawn on; where the middle of the patch's object is and how large
it is; how the whole object looks in its own frame. In some layers a few heads must attend from a
patch of an object to the patches of the same object, which is how these facts travel. All this
only shapes the tower while it learns (names alone stay at chance for a long time); nothing of it
is in the finished model.
Legend: B pictures, V patches, C tower width, K cells, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from dyvte.demo.render import INK_CELLS, MASK_CELLS, PRINT_ID

INK_LAYER = 2
FRAME_LAYER = 3
GROUP_LAYERS = (2, 3, 4)
GROUP_HEADS = 2


@dataclass(frozen=True, slots=True)
class Figures:
    """What there is to see in the patches of some pictures."""

    owners: Tensor  # int64 [B, V]
    ink: Tensor  # float [B, V, INK_CELLS]
    frames: Tensor  # float [B, V, 3]: way to the middle of the object, and its extent
    masks: Tensor  # float [B, PRINT_ID + 1, MASK_CELLS]: each object in its own frame

    def shares(self) -> Tensor:
        """[B, V]: weights by which small objects, of few patches, count nearly as large ones do."""
        shown = F.one_hot(self.owners, PRINT_ID + 1).sum(1)
        return (9 / shown.gather(1, self.owners).float()) ** 0.75


class Sight(nn.Module):
    """Watches the tower's layers during one forward pass; `loss` holds what they got wrong."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ink_head = nn.Linear(width, INK_CELLS)
        self.frame_head = nn.Linear(width, 3)
        self.mask_head = nn.Linear(width, MASK_CELLS)
        self.anchor_head = nn.Linear(width, 1)
        self.loss = torch.zeros(())
        self.seen: dict[str, float] = {}

    def begin(self, figures: Figures) -> None:
        self.figures = figures
        self.on_thing = (figures.owners > 0) & (figures.owners < PRINT_ID)
        self.loss = torch.zeros(())
        self.seen = {}

    def watch(self, index: int, layer: CLIPEncoderLayer, hidden_BNC: Tensor) -> None:
        """Look at the input of layer `index`; row 0 is CLS."""
        if index in GROUP_LAYERS:
            self._group(layer, hidden_BNC)
        rows = F.layer_norm(hidden_BNC[:, 1:], hidden_BNC.shape[-1:])
        if index == INK_LAYER:
            self._ink(rows)
        if index == FRAME_LAYER:
            error = (self.frame_head(rows) - self.figures.frames)[self.on_thing].abs()
            self.loss = self.loss + 5 * error.mean()
            self.seen["frame"] = float(error.detach().mean())

    def finish(self, hidden_BNC: Tensor) -> None:
        """Look at the output of the last layer."""
        rows = F.layer_norm(hidden_BNC[:, 1:], hidden_BNC.shape[-1:])
        picture, place = self.on_thing.nonzero(as_tuple=True)
        wanted = self.figures.masks[picture, self.figures.owners[picture, place]]
        scores = self.mask_head(rows[picture, place])
        losses = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").mean(1)
        weight = self.figures.shares()[picture, place]
        self.loss = self.loss + 2 * (losses * weight).sum() / weight.sum().clamp(min=1)
        self._anchors(rows)
        self.seen["mask"] = float(((scores.detach() > 0) == (wanted > 0.5)).float().mean())

    def _anchors(self, rows_BVC: Tensor) -> None:
        """One patch per object must stand out: what stands once can be counted."""
        distance = self.figures.frames[..., :2].norm(dim=-1)
        owners = self.figures.owners
        nearest = distance.new_full((len(owners), PRINT_ID + 1), 9.0)
        nearest = nearest.scatter_reduce(1, owners, distance, "amin")
        wanted = (self.on_thing & (distance <= nearest.gather(1, owners))).float()
        scores = self.anchor_head(rows_BVC)[..., 0]
        weight = torch.where(wanted > 0, 4.0, torch.where(self.on_thing, 1.0, 0.2))
        losses = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        self.loss = self.loss + 2 * (losses * weight).sum() / weight.sum()
        self.seen["anchor"] = float((scores.detach() > 0)[wanted > 0].float().mean())

    def _ink(self, rows_BVC: Tensor) -> None:
        scores = self.ink_head(rows_BVC)
        owners, ink = self.figures.owners, self.figures.ink
        # Patches that are all ground are most of a picture and say little.
        weight = 0.1 + 0.9 * ((owners > 0) | (ink.sum(-1) > 0)).float()[..., None]
        losses = F.binary_cross_entropy_with_logits(scores, ink, reduction="none")
        self.loss = self.loss + (losses * weight).sum() / (weight.sum() * INK_CELLS)
        self.seen["ink"] = float((scores.detach() > 0)[ink > 0.5].float().mean())

    def _group(self, layer: CLIPEncoderLayer, hidden_BNC: Tensor) -> None:
        normed = layer.layer_norm1(hidden_BNC)
        attention = layer.self_attn
        b, n, _ = normed.shape
        width = GROUP_HEADS * attention.head_dim

        def heads(linear: nn.Linear) -> Tensor:
            rows = F.linear(normed, linear.weight[:width], linear.bias[:width])
            return rows.view(b, n, GROUP_HEADS, -1).transpose(1, 2)

        scores = heads(attention.q_proj) @ heads(attention.k_proj).mT * attention.scale
        owners = self.figures.owners
        same = owners[:, None, :, None] == owners[:, None, None, :]
        right = scores[:, :, 1:, 1:].masked_fill(~same, -1e9).logsumexp(-1)
        log_mass = (right - scores[:, :, 1:].logsumexp(-1)).transpose(1, 2)[owners > 0]
        if log_mass.numel():
            self.loss = self.loss - 0.15 * log_mass.mean()
            self.seen["group"] = float(log_mass.detach().exp().mean())
