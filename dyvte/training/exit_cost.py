"""What an exit would have saved on samples that were only collected, from token counts alone.

The same closed forms as an engine's account (``dyvte.flops``), asked once per exit layer.

Shapes: N samples, C collected layers; column C stands for no exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dyvte.flops import DecoderShape, request_flops
from dyvte.training.collection import Collection


@dataclass(frozen=True, slots=True)
class ExitCosts:
    """FLOPs per sample and exit, without the policy's own.

    ``prefill [N, C + 1]`` of the LLM's prefill alone, ``request [N, C + 1]`` of the whole request
    (vision, prefill, decode, head).
    """

    prefill: NDArray[np.float64]
    request: NDArray[np.float64]

    def saved(
        self, columns: NDArray[np.int64], policy: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Saved ratios ``[N]`` of prefill and request where sample i leaves at ``columns[i]``.

        ``policy [N, C + 1]`` is what deciding cost up to there; it counts in both.
        """
        rows = np.arange(len(columns))
        own = policy[rows, columns]
        prefill = 1.0 - (self.prefill[rows, columns] + own) / self.prefill[:, -1]
        request = 1.0 - (self.request[rows, columns] + own) / self.request[:, -1]
        return prefill, request

    def of(self, rows: NDArray[np.int64]) -> ExitCosts:
        """The same of some samples."""
        return ExitCosts(self.prefill[rows], self.request[rows])


def exit_costs(collection: Collection) -> ExitCosts:
    """Costs of every sample at every exit."""
    shape, exits = collection.shape, (*collection.layers, collection.num_layers - 1)

    @cache
    def table(text: int, visual: int, answer: int, vision: int) -> NDArray[np.float64]:
        found = []
        for layer in exits:
            kept = layer + 1
            rows = [text + visual] * kept + [text] * (shape.num_layers - kept)
            report = request_flops(
                shape,
                vision=vision,
                prompt_tokens=text + visual,
                tokens_per_layer=rows,
                decode_steps=[max(0, answer - 1)],
            )
            found.append((report.prefill, report.total))
        return np.array(found, dtype=np.float64)

    counts = zip(
        collection.text_rows.tolist(),
        collection.visual_rows.tolist(),
        collection.answer_tokens.tolist(),
        collection.vision_flops.tolist(),
        strict=True,
    )
    stacked = np.stack([table(*each) for each in counts])
    return ExitCosts(stacked[..., 0], stacked[..., 1])


def asked_up_to(
    layers: Sequence[int], cost_by_layer: dict[int, int], samples: int
) -> NDArray[np.float64]:
    """``[N, C + 1]``: cost of asking every layer up to the exit (all of them where there is none).

    ``cost_by_layer`` may hold layers that were not collected: they are asked on the way.
    """
    reached = [sum(c for at, c in cost_by_layer.items() if at <= layer) for layer in layers]
    row = np.array([*reached, sum(cost_by_layer.values())], dtype=np.float64)
    return np.broadcast_to(row, (samples, len(row)))


def signal_flops(collection: Collection, signal: str) -> NDArray[np.float64]:
    """``[N, C + 1]``: cost of reading ``signal`` after every layer up to the exit.

    An upper bound: where a signal is about the question's rows, all text rows count as such.
    """
    shape = collection.shape
    text = collection.text_rows.numpy().astype(np.float64)
    visual = collection.visual_rows.numpy().astype(np.float64)
    per_layer = _reading(shape, signal, text, visual)
    asked = np.array([*range(1, len(collection.layers) + 1), len(collection.layers)])
    flops: NDArray[np.float64] = per_layer[:, None] * asked
    return flops


def _reading(
    shape: DecoderShape, signal: str, text: NDArray[np.float64], visual: NDArray[np.float64]
) -> NDArray[np.float64]:
    rows = text if "question" in signal else np.ones_like(text)
    keys = text + visual
    flops: NDArray[np.float64] = 2 * rows * keys * shape.q_dim
    if signal.startswith("pull"):
        flops = flops + 2 * rows * (keys + visual) * shape.q_dim
    return flops
