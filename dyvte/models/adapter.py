"""What the core needs of a model: its parts by name, and how images become rows.

An adapter wraps a ``transformers`` model; weights and layer code stay theirs. A family is one
file that fills in this class.

Shapes: T rows, d hidden size, V_i visual rows of image i.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dyvte.attention import StepContext
from dyvte.errors import PromptError
from dyvte.exits.gate import GateBank
from dyvte.flops import DecoderShape
from dyvte.prompt import IMAGE, Prompt, VisualSpan


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """An expanded prompt: ``token_ids`` has one entry per row (IMAGE on visual rows)."""

    token_ids: tuple[int, ...]
    spans: tuple[VisualSpan, ...]

    @property
    def rows(self) -> int:
        """Rows of the expanded prompt: what ``usage.prompt_tokens`` counts."""
        return len(self.token_ids)

    @property
    def visual_rows(self) -> int:
        """Rows that come from images."""
        return sum(len(span) for span in self.spans)

    @property
    def leaving(self) -> tuple[VisualSpan, ...]:
        """The spans as an exit empties them.

        The prompt's last row stays even where it is visual: the next token is predicted there.
        """
        if not self.spans or self.spans[-1].stop < self.rows:
            return self.spans
        *others, last = self.spans
        return (*others, VisualSpan(last.start, last.stop - 1)) if len(last) > 1 else (*others,)


class ModelAdapter(ABC):
    """A family's decoder, vision tower and projector behind the names that the core uses."""

    family: str
    decoder: DecoderShape
    gates: GateBank | None
    dtype: torch.dtype
    device: torch.device
    max_positions: int
    eos_token_ids: frozenset[int]

    @abstractmethod
    def visual_rows(self, prompt: Prompt) -> list[int]:
        """V_i of each image of the prompt, computed from the processed images."""

    @abstractmethod
    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """Rows ``[V_i, d]`` of every image of every prompt, all prompts in one run."""

    @abstractmethod
    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Text ids ``[n]`` → ``[n, d]``."""

    @abstractmethod
    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin ``[1, T, head_dim]`` for positions ``[T]``."""

    @abstractmethod
    def run_layer(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], context: StepContext
    ) -> Tensor:
        """One decoder layer over packed rows: ``[T, d]`` → ``[T, d]``."""

    @abstractmethod
    def last_query_and_keys(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, float]:
        """What a layer will compute: ``q [H, D]`` of the last row, ``k [n, K, D]``, the scale."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """Final norm and LM head: ``[S, d]`` → ``[S, V]``."""

    @abstractmethod
    def vision_flops(self, num_images: int) -> int:
        """Tower and projector for that many images."""

    @abstractmethod
    def parameter_bytes(self) -> int:
        """Bytes of all weights as loaded."""

    def layout(self, prompt: Prompt) -> PromptLayout:
        """Expand each placeholder into its image's rows. Raises PromptError."""
        rows = self.visual_rows(prompt)
        if len(rows) != prompt.num_images:
            raise PromptError(
                f"the prompt has {prompt.num_images} image placeholders and {len(rows)} images"
            )
        ids: list[int] = []
        spans: list[VisualSpan] = []
        for token in prompt.token_ids:
            if token == IMAGE:
                count = rows[len(spans)]
                spans.append(VisualSpan(len(ids), len(ids) + count))
                ids.extend([IMAGE] * count)
            elif 0 <= token < self.decoder.vocab_size:
                ids.append(token)
            else:
                raise PromptError(
                    f"token id {token} is outside the vocabulary of {self.decoder.vocab_size}"
                )
        return PromptLayout(tuple(ids), tuple(spans))

    def embed(self, layout: PromptLayout, image_rows: Sequence[Tensor]) -> Tensor:
        """Rows ``[T, d]`` of an expanded prompt: text embedded, image rows laid in."""
        ids = torch.tensor(layout.token_ids, dtype=torch.int64, device=self.device)
        hidden = self.embed_tokens(ids.clamp(min=0))
        for span, rows in zip(layout.spans, image_rows, strict=True):
            if rows.shape[0] != len(span):
                raise PromptError(
                    f"an image gave {rows.shape[0]} rows where {len(span)} were expected"
                )
            hidden[span.start : span.stop] = rows.to(hidden.dtype)
        return hidden

    def positions(self, layout: PromptLayout, start: int, stop: int) -> Tensor:
        """Positions of rows ``start..stop-1``; rows beyond the prompt are generated tokens."""
        del layout
        return torch.arange(start, stop, dtype=torch.int64, device=self.device)
