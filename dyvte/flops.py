"""FLOPs and KV bytes of a request in closed form, from token counts alone. Knows no torch.

2 FLOPs per multiply-add. Per decoder layer with n query rows attending c keys each:
linear ``2·n·(2·d·d_q + 2·d·d_kv + 3·d·m)``, attention ``4·n·c·d_q`` on the full rectangle (at
prefill c = n; the causal half is not discounted). Left out, as in the published figures: norms,
rotary embedding, activations, residual additions, softmax, embedding look-ups, sampling.

Conventions (METHOD of arXiv 2411.19628 and its neighbours): ``macs_visual`` (A: multiply-adds of
the visual tokens in the LLM, as PyramidDrop prints), ``llm_prefill`` (B: FLOPs of the LLM over
all tokens, no LM head), ``paper`` (C: B + vision tower + projector, as DyVTE prints).

Counted by the convention though a CPU may not compute them: the causal half, rows of the last
layer that nobody reads (``LayerContext.read``), layers of a tower behind the selected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """The numbers of a decoder that decide its cost (a gated MLP has three matrices)."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int

    @property
    def q_dim(self) -> int:
        """Width of the queries, d_q."""
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of the keys (and of the values), d_kv."""
        return self.num_kv_heads * self.head_dim

    def linear(self, rows: int) -> int:
        """Projections and gated MLP of one layer over ``rows`` rows."""
        d = self.hidden_size
        return 2 * rows * d * (2 * self.q_dim + 2 * self.kv_dim + 3 * self.intermediate_size)

    def attention(self, rows: int, keys: int) -> int:
        """QKᵀ and PV of one layer, full rectangle."""
        return 4 * rows * keys * self.q_dim

    def layer(self, rows: int, keys: int) -> int:
        """One layer over ``rows`` query rows, each attending ``keys`` keys."""
        return self.linear(rows) + self.attention(rows, keys)

    def head(self, rows: int) -> int:
        """The LM head over ``rows`` rows."""
        return 2 * rows * self.hidden_size * self.vocab_size

    def prefill(self, tokens_per_layer: Sequence[int]) -> int:
        """All layers of one prefill, layer l running ``tokens_per_layer[l]`` rows."""
        return sum(self.layer(n, n) for n in tokens_per_layer)

    def spared(self, tokens_per_layer: Sequence[int], cached_per_layer: Sequence[int]) -> int:
        """What that prefill does not cost if ``cached_per_layer`` rows are there already."""
        layers = zip(tokens_per_layer, cached_per_layer, strict=False)  # no cache: no counts
        return sum(self.layer(cached, rows) for rows, cached in layers)

    def decode(self, kv_tokens_per_layer: Sequence[int], steps: int) -> int:
        """``steps`` one-row steps after a prefill that left ``kv_tokens_per_layer`` rows.

        Step s (from 0) attends the row it adds as well: ``kv + s + 1`` keys.
        """
        keys = sum(steps * kv + steps * (steps + 1) // 2 for kv in kv_tokens_per_layer)
        return self.num_layers * steps * self.linear(1) + self.attention(1, keys)


@dataclass(frozen=True, slots=True)
class VisionShape:
    """A ViT tower and its two-layer projector, per image (LLaVA-1.5's kind).

    ``rows`` counts what runs through the tower (patches + class token), ``patches`` what reaches
    the projector. Every encoder layer that runs is counted, also those behind the selected one.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    patches: int
    rows: int
    patch_inputs: int  # channels · patch_size²
    projector_in: int
    projector_hidden: int
    projector_out: int
    projector_rows: int | None = None  # patches, unless the class token is kept

    def tower(self, images: int) -> int:
        """Patch embedding and encoder of ``images`` images."""
        d, m, n = self.hidden_size, self.intermediate_size, self.rows
        embed = 2 * self.patches * self.patch_inputs * d
        layer = 2 * n * (4 * d * d + 2 * d * m) + 4 * n * n * d
        return images * (embed + self.num_layers * layer)

    def projector(self, images: int) -> int:
        """The projector over every patch row."""
        width = (
            self.projector_in * self.projector_hidden + self.projector_hidden * self.projector_out
        )
        rows = self.patches if self.projector_rows is None else self.projector_rows
        return images * 2 * rows * width

    def total(self, images: int) -> int:
        """Tower and projector."""
        return self.tower(images) + self.projector(images)


def gate_flops(hidden_size: int, inner: int) -> int:
    """One gate asked once: Linear(2d → inner), Linear(inner → 2)."""
    return 2 * (2 * hidden_size * inner + inner * 2)


def macs_visual(shape: DecoderShape, visual: int, layers: int | None = None) -> int:
    """Convention A: multiply-adds of ``visual`` tokens in ``layers`` layers, nothing else."""
    depth = shape.num_layers if layers is None else layers
    return depth * shape.layer(visual, visual) // 2


def llm_prefill(shape: DecoderShape, tokens_per_layer: Sequence[int]) -> int:
    """Convention B: the LLM's prefill, all tokens, no LM head."""
    return shape.prefill(tokens_per_layer)


def paper(
    shape: DecoderShape, vision: VisionShape, images: int, tokens_per_layer: Sequence[int]
) -> int:
    """Convention C: B + vision tower + projector."""
    return shape.prefill(tokens_per_layer) + vision.total(images)


@dataclass(frozen=True, slots=True)
class FlopsReport:
    """What one request cost, and what it would have cost had nothing left early.

    ``total`` = vision + prefill + decode + gates + head under the request's policy, as if no
    cache existed; ``baseline`` the same with no exit and no pruning (and no gates). ``saved`` may
    be negative: the policy's own cost counts.
    """

    vision: int = 0
    prefill: int = 0
    decode: int = 0
    gates: int = 0
    head: int = 0
    baseline: int = 0
    avoided_by_cache: int = 0

    @property
    def total(self) -> int:
        """All terms under the request's policy."""
        return self.vision + self.prefill + self.decode + self.gates + self.head

    @property
    def saved(self) -> int:
        """``baseline - total``."""
        return self.baseline - self.total

    @property
    def saved_ratio(self) -> float:
        """``saved / baseline`` (0 for an empty request)."""
        return self.saved / self.baseline if self.baseline else 0.0

    @property
    def executed(self) -> int:
        """What ran, by the same convention: ``total - avoided_by_cache``."""
        return self.total - self.avoided_by_cache


def request_flops(
    shape: DecoderShape,
    *,
    vision: int,
    prompt_tokens: int,
    tokens_per_layer: Sequence[int],
    decode_steps: Sequence[int],
    gates: int = 0,
    avoided_by_cache: int = 0,
    scored_rows: int = 0,
) -> FlopsReport:
    """The account of one request: counted twice by the same code, as it was and as if full.

    ``decode_steps`` has the one-row steps of each of the n choices; the prefill counts once.
    ``scored_rows`` are the rows of the prompt that the head ran over besides the last.
    """

    def llm(layers: Sequence[int]) -> tuple[int, int]:
        return shape.prefill(layers), sum(shape.decode(layers, steps) for steps in decode_steps)

    prefill, decode = llm(tokens_per_layer)
    head = shape.head(1 + scored_rows + sum(decode_steps))
    full_prefill, full_decode = llm([prompt_tokens] * shape.num_layers)
    return FlopsReport(
        vision=vision,
        prefill=prefill,
        decode=decode,
        gates=gates,
        head=head,
        baseline=vision + full_prefill + full_decode + head,
        avoided_by_cache=avoided_by_cache,
    )


def kv_bytes(shape: DecoderShape, kv_tokens_per_layer: Sequence[int], itemsize: int) -> int:
    """Bytes of keys and values for the rows that each layer holds."""
    return 2 * shape.kv_dim * itemsize * sum(kv_tokens_per_layer)
