"""The model as training sees it: pictures to visual rows, rows through some decoder layers.

Runs the modules of the `transformers` model itself on the lanes of a batch, so what is stored is
what was trained; a test holds it against the model's own forward pass. A visual exit is trained
by removal: after the exit layer the visual rows are gone, text keeps its positions.
Legend: B pictures, G lanes, T rows per lane, P prefix rows, N = P + G*T, W width, H heads,
D head width, V visual rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from dyvte.demo.bearings import Bearings
from dyvte.demo.guidance import Guide, PairGuide, TallyGuide
from dyvte.demo.lanes import IGNORE, Lanes
from dyvte.demo.model import HEADS, VISUAL_ROWS
from dyvte.demo.sight import Sight
from dyvte.demo.tokenizer import IMAGE

AnyGuide = Guide | PairGuide | TallyGuide


def normalised(pictures_BHWC: Tensor) -> Tensor:
    """[B, 3, H, W] in -1..1 from uint8, as the image processor makes it."""
    return pictures_BHWC.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def visual_rows(
    model: LlavaForConditionalGeneration, pixels_B3HW: Tensor, sight: Sight | None = None
) -> Tensor:
    """[B, V, W]: what the projector hands to the decoder (last tower layer, without CLS)."""
    tower = model.model.vision_tower
    hidden = tower.pre_layrnorm(tower.embeddings(pixels_B3HW))
    for i, layer in enumerate(tower.encoder.layers):
        if sight is not None:
            sight.watch(i, layer, hidden)
        hidden = layer(hidden, attention_mask=None)
    if sight is not None:
        sight.finish(hidden)
    projected: Tensor = model.model.multi_modal_projector(hidden[:, 1:])
    return projected


def word_table(model: LlavaForConditionalGeneration) -> Tensor:
    """[vocab, W]: the embedding, which is the output head as well."""
    table: Tensor = model.model.language_model.embed_tokens.weight
    return table


def lane_mask(lanes: Lanes) -> Tensor:
    """bool [B*G, 1, T, P+T]: who sees whom. An unused row sees itself alone."""
    b, g, t = lanes.segment.shape
    same = lanes.segment[..., :, None] == lanes.segment[..., None, :]
    used = (lanes.segment >= 0)[..., None]
    own = same & torch.ones(t, t, dtype=torch.bool).tril() & used
    own = own | torch.eye(t, dtype=torch.bool)
    prefix = used & ~(lanes.blind[..., None] & (lanes.prefix == IMAGE))
    return torch.cat([prefix, own], -1).view(b * g, 1, t, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], -1) * sin


class _Rows:
    """All rows of a step, and who sees whom; shrinks once when the visual rows leave."""

    def __init__(
        self, model: LlavaForConditionalGeneration, visual_BVW: Tensor, lanes: Lanes
    ) -> None:
        b, self.lanes, self.length = lanes.tokens.shape
        table = word_table(model)
        is_image = lanes.prefix == IMAGE
        self.start = int(is_image.int().argmax())
        self.prefix = self.start + VISUAL_ROWS
        before = table[lanes.prefix[: self.start]].expand(b, -1, -1)
        text = table[lanes.tokens.view(b, -1)]
        self.x = torch.cat([before, visual_BVW, text], 1)
        positions = torch.arange(self.prefix).expand(b, -1)
        positions = torch.cat([positions, lanes.positions.view(b, -1)], 1)
        cos, sin = model.model.language_model.rotary_emb(self.x, positions)
        self.cos, self.sin = cos[:, None], sin[:, None]
        self.mask = lane_mask(lanes)

    def drop_visual(self) -> None:
        cut = (self.start, self.prefix)
        self.x = torch.cat([self.x[:, : cut[0]], self.x[:, cut[1] :]], 1)
        self.cos = torch.cat([self.cos[:, :, : cut[0]], self.cos[:, :, cut[1] :]], 2)
        self.sin = torch.cat([self.sin[:, :, : cut[0]], self.sin[:, :, cut[1] :]], 2)
        self.mask = torch.cat([self.mask[..., : cut[0]], self.mask[..., cut[1] :]], -1)
        self.prefix = self.start

    def in_lanes(self, x_BHRD: Tensor) -> Tensor:
        """[B*G, H, T, D] from text rows [B, H, G*T, D]."""
        b, h, _, d = x_BHRD.shape
        lanes = x_BHRD.view(b, h, self.lanes, self.length, d).transpose(1, 2)
        return lanes.reshape(b * self.lanes, h, self.length, d)

    def with_prefix(self, x_BHND: Tensor) -> Tensor:
        """[B*G, H, P+T, D]: each lane's rows behind the prefix of its picture."""
        b, h, _, d = x_BHND.shape
        shared = x_BHND[:, :, : self.prefix].unsqueeze(1).expand(b, self.lanes, h, -1, d)
        return torch.cat([shared.flatten(0, 1), self.in_lanes(x_BHND[:, :, self.prefix :])], 2)


def _layer(layer: LlamaDecoderLayer, rows: _Rows, last: bool, guides: Sequence[AnyGuide]) -> None:
    """One decoder layer; the last one leaves the prefix rows as they are, nobody reads them."""
    b, n, width = rows.x.shape
    p = rows.prefix
    attention = layer.self_attn

    def heads(x: Tensor) -> Tensor:
        return x.view(b, n, HEADS, -1).transpose(1, 2)

    normed = layer.input_layernorm(rows.x)
    q = _rotate(heads(attention.q_proj(normed)), rows.cos, rows.sin)
    k = _rotate(heads(attention.k_proj(normed)), rows.cos, rows.sin)
    v = heads(attention.v_proj(normed))
    lane_q, lane_k = rows.in_lanes(q[:, :, p:]), rows.with_prefix(k)
    mixed = F.scaled_dot_product_attention(lane_q, lane_k, rows.with_prefix(v), rows.mask)
    for guide in guides:
        guide.watch(lane_q, lane_k, rows.mask, rows.start)
    text = mixed.view(b, rows.lanes, HEADS, rows.length, -1).permute(0, 1, 3, 2, 4)
    text = text.reshape(b, n - p, width)
    if last:
        x = rows.x[:, p:] + attention.o_proj(text)
        rows.x = torch.cat([rows.x[:, :p], x + layer.mlp(layer.post_attention_layernorm(x))], 1)
        return
    prefix = F.scaled_dot_product_attention(q[:, :, :p], k[:, :, :p], v[:, :, :p], is_causal=True)
    prefix = prefix.transpose(1, 2).reshape(b, p, width)
    x = rows.x + attention.o_proj(torch.cat([prefix, text], 1))
    rows.x = x + layer.mlp(layer.post_attention_layernorm(x))


def text_states(
    model: LlavaForConditionalGeneration,
    visual_BVW: Tensor,
    lanes: Lanes,
    depth: int,
    exit_layer: int | None = None,
    guides: Mapping[int, Sequence[AnyGuide]] | None = None,
    bearings: Bearings | None = None,
) -> Tensor:
    """[B, G, T, W]: normed states of the text rows after the first `depth` layers."""
    rows = _Rows(model, visual_BVW, lanes)
    decoder = model.model.language_model
    for i, layer in enumerate(decoder.layers[:depth]):
        _layer(layer, rows, i == depth - 1, (guides or {}).get(i, ()))
        if bearings is not None:
            bearings.watch(i, rows.x[:, rows.prefix :].view(*lanes.tokens.shape, -1))
        if i == exit_layer and i < depth - 1:
            rows.drop_visual()
    states: Tensor = decoder.norm(rows.x[:, rows.prefix :])
    return states.view(*lanes.tokens.shape, -1)


def graded(lanes: Lanes, logits_NV: Tensor) -> list[tuple[str, bool]]:
    """Kind and correctness of each question, from the logits of all answer rows in order.

    Right means that every token of the answer and its end is the most likely one after the
    tokens before it, which is the same as greedy decoding giving exactly this answer.
    """
    chosen = lanes.targets != IGNORE
    wrong = logits_NV.argmax(1) != lanes.targets[chosen]
    misses = torch.bincount(lanes.segment[chosen], wrong.float(), len(lanes.kinds))
    return [(kind, misses[number].item() == 0) for _, _, number, kind in lanes.kinds]
