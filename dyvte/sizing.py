"""What a request will cost on a model, and how much memory N of them need, before any has run.

Closed form from a decoder's shape and token counts, by the same functions that account for a
request that did run (``dyvte.flops``). Knows no torch and no model.

The memory of activations is an estimate, and so is every total that holds it: R rows in a prefill,
each with six vectors of the hidden size (residual, its norm, attention's output and their copies),
queries and keys before and after they are turned, and three vectors of the MLP; and two copies of
the logits of N requests, one of them float32. The kernels of a CPU hold less: they compute MLPs
some rows at a time, and no gates apart. The vision tower's own are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from dyvte.flops import DecoderShape, FlopsReport, kv_bytes, request_flops

DEPTHS = (Fraction(3, 4), Fraction(1, 2), Fraction(1, 4))
HIDDEN_COPIES, MLP_COPIES = 6, 3


@dataclass(frozen=True, slots=True)
class RequestSize:
    """Tokens of a request, and what the tower and projector cost for its images."""

    visual: int
    text: int
    generated: int
    vision_flops: int = 0

    @property
    def prompt(self) -> int:
        """Rows of the prompt."""
        return self.visual + self.text


@dataclass(frozen=True, slots=True)
class RequestCost:
    """A request whose image leaves after ``exit_layer`` (None: never); gates are not asked.

    ``kv_bytes`` are the rows at the end; the last token generated leaves none.
    """

    exit_layer: int | None
    flops: FlopsReport
    kv_bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a model and N requests need; ``activations`` is an estimate."""

    exit_layer: int | None
    weights: int
    kv_pages: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_pages + self.activations


@dataclass(frozen=True, slots=True)
class Serving:
    """How requests are run: how many at once, in pages of how many rows, ``itemsize`` bytes each.

    ``prefill_rows`` bounds what is prefilled together; a longer prompt runs alone.
    """

    concurrency: int
    page_size: int
    prefill_rows: int
    itemsize: int

    def rows_at_once(self, prompt: int) -> int:
        """Rows of the largest prefill, R."""
        return min(self.concurrency * prompt, max(self.prefill_rows, prompt))


def depths(num_layers: int) -> dict[Fraction, int]:
    """The exit layer with which a share of the layers sees the image, shallow ones left out.

    Of shares that a shallow model rounds to one layer the largest stands.
    """
    layers = {share: round(num_layers * share) - 1 for share in DEPTHS}
    first = {layer: share for share, layer in reversed(layers.items())}
    return {share: at for at, share in reversed(first.items()) if 0 <= at < num_layers - 1}


def rows_per_layer(shape: DecoderShape, request: RequestSize, exit_layer: int | None) -> list[int]:
    """Rows that each layer runs in the prefill."""
    seeing = shape.num_layers if exit_layer is None else exit_layer + 1
    return [request.prompt] * seeing + [request.text] * (shape.num_layers - seeing)


def request_cost(
    shape: DecoderShape, request: RequestSize, exit_layer: int | None, itemsize: int
) -> RequestCost:
    """FLOPs and KV bytes of one request; ``itemsize`` is that of keys and values, in bytes."""
    rows = rows_per_layer(shape, request, exit_layer)
    flops = request_flops(
        shape,
        vision=request.vision_flops,
        prompt_tokens=request.prompt,
        tokens_per_layer=rows,
        decode_steps=[request.generated - 1],
    )
    held = [each + request.generated - 1 for each in rows]
    return RequestCost(exit_layer, flops, kv_bytes(shape, held, itemsize))


def memory(
    shape: DecoderShape,
    request: RequestSize,
    serving: Serving,
    weights: int,
    exit_layer: int | None = None,
) -> Memory:
    """What ``concurrency`` requests of that size need when all their images have left.

    Without an exit that is what admission reserves.
    """
    rows = rows_per_layer(shape, request, exit_layer)
    held = [
        -(-(each + request.generated) // serving.page_size) * serving.page_size for each in rows
    ]
    pages = serving.concurrency * kv_bytes(shape, held, serving.itemsize)
    return Memory(exit_layer, weights, pages, activations(shape, request.prompt, serving))


def state_bytes(shape: DecoderShape, request: RequestSize, itemsize: int) -> int:
    """Hidden states that the prefix cache keeps of a request whose image has left."""
    return request.visual * shape.hidden_size * itemsize


def prefix_states(shape: DecoderShape, budget: int) -> int:
    """Of ``budget`` bytes of prefixes, the most that are hidden states, outside the KV pool.

    As many as prefixes have whose images left after a quarter of the layers: a state per row
    beside its keys and values in each of these.
    """
    pages = max(1, shape.num_layers // 4) * 2 * shape.kv_dim
    return budget * shape.hidden_size // (shape.hidden_size + pages)


def activations(shape: DecoderShape, prompt: int, serving: Serving) -> int:
    """Bytes, an estimate: see the top of this file."""
    rows = serving.rows_at_once(prompt)
    width = (
        HIDDEN_COPIES * shape.hidden_size
        + 2 * (shape.q_dim + shape.kv_dim)
        + MLP_COPIES * shape.intermediate_size
    )
    logits = serving.concurrency * shape.vocab_size * (serving.itemsize + 4)
    return rows * width * serving.itemsize + logits
